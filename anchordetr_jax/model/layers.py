"""Linear maps and convolutions with this project's dtypes, product precision and initial weights."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.precision import at_least_float32, product_precision


class Linear(nnx.Module):
    """x @ kernel + bias over the last axis. The initial weights are PyTorch's unless others are given."""

    def __init__(
        self,
        features_in: int,
        features_out: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        kernel_init: nnx.Initializer | None = None,
        bias_init: nnx.Initializer | None = None,
        role: str = "",
    ):
        """Makes the layer. `role` says where in the network it stands; `kernels` may treat roles differently."""
        kernel_init, bias_init = kernel_init or torch_uniform(features_in), bias_init or torch_uniform(features_in)
        wide = at_least_float32(dtype)
        self.dtype = jnp.dtype(dtype)
        self.role = role
        self.kernel = nnx.Param(kernel_init(rngs.params(), (features_in, features_out), wide))
        self.bias = nnx.Param(bias_init(rngs.params(), (features_out,), wide))
        self.add_bias = add_bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., features_in] -> [..., features_out], in the compute dtype."""
        return self.add_bias(self.product(x), self.bias[...].astype(self.dtype))

    def product(self, x: jax.Array) -> jax.Array:
        """The map without its bias."""
        return product(x.astype(self.dtype), self.kernel[...])


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x [..., C] times kernel [C,D] -> [..., D], in the dtype of x."""
    return jnp.einsum("...c,cd->...d", x, kernel.astype(x.dtype), precision=product_precision(x.dtype))


def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """x [..., C] + bias [C], both of one dtype."""
    return x + bias.reshape((1,) * (x.ndim - 1) + (-1,))


class Convolution(nnx.Module):
    """A convolution, padded with zeros by half its dilated kernel on each side."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        *,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        use_bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
        kernel_init: nnx.Initializer | None = None,
    ):
        wide, shape = at_least_float32(dtype), (kernel_size, kernel_size, channels_in, channels_out)
        self.dtype = jnp.dtype(dtype)
        self.stride, self.dilation = stride, dilation
        self.kernel = nnx.Param((kernel_init or he_normal_fan_out)(rngs.params(), shape, wide))
        if use_bias:
            self.bias = nnx.Param(nnx.initializers.zeros_init()(rngs.params(), (channels_out,), wide))
        self.use_bias = use_bias
        self.convolve = convolution

    def __call__(self, x: jax.Array) -> jax.Array:
        """[B,H,W,I] -> [B,ceil(H/stride),ceil(W/stride),O], in the compute dtype."""
        kernel = self.kernel[...].astype(self.dtype)
        y = self.convolve(x.astype(self.dtype), kernel, self.stride, self.dilation)
        return add_bias(y, self.bias[...].astype(self.dtype)) if self.use_bias else y


def convolution(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """x [B,H,W,I], kernel [k,k,I,O] -> [B,ceil(H/stride),ceil(W/stride),O]; a 1x1 kernel is a product per pixel."""
    if kernel.shape[0] == 1:
        pixels = x[:, ::stride, ::stride]
        return jnp.einsum("bhwi,io->bhwo", pixels, kernel[0, 0], precision=product_precision(x.dtype))
    return convolution_of_xla(x, kernel, stride, dilation)


def convolution_of_xla(x: jax.Array, kernel: jax.Array, stride: int, dilation: int) -> jax.Array:
    """`convolution` by XLA's own operation for every size of kernel."""
    pad = dilation * (kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=product_precision(x.dtype),
    )


class MLP(nnx.Module):
    """Linear layers with ReLU between them; `widths` are the sizes from input to output."""

    def __init__(self, *widths: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List([Linear(a, b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., widths[0]] -> [..., widths[-1]]."""
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def apply_layer(layer: nnx.Module, remat: bool, *arguments: Any) -> Any:
    """layer(*arguments). With `remat` only the arguments are kept; the backward pass computes the rest again."""
    if not remat:
        return layer(*arguments)  # type: ignore[operator]
    return nnx.remat(lambda module, *args: module(*args))(layer, *arguments)


def torch_uniform(fan_in: int) -> nnx.Initializer:
    """PyTorch's default for the weights and biases of linear layers: uniform in ±1/sqrt(fan_in)."""
    return _uniform(1 / math.sqrt(fan_in))


def xavier_uniform(fan_in: int, fan_out: int) -> nnx.Initializer:
    """Glorot's uniform initial weights. Both fans are given, because a fused projection counts as one layer."""
    return _uniform(math.sqrt(6 / (fan_in + fan_out)))


def _uniform(bound: float) -> nnx.Initializer:
    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def he_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """torchvision's initial convolutions: normal, variance 2 / (kernel area * output channels). shape is HWIO."""
    std = math.sqrt(2 / (shape[0] * shape[1] * shape[3]))
    return std * jax.random.normal(key, shape, dtype)
