"""Linear maps and convolutions with this project's dtypes, precision and initial weights."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.kernels.cpu.convolutions import convolution3x3, pixel_products, plain_pixel_products
from anchordetr_jax.kernels.forms import PLAIN, Forms
from anchordetr_jax.kernels.tpu.added_rows import add_to_rows
from anchordetr_jax.model.initializers import he_normal_fan_out, torch_uniform
from anchordetr_jax.model.precision import at_least_float32, product_precision


class _LinearOnTpus(nnx.Linear):
    """A linear map, the gradient of whose bias is a product on TPUs."""

    def __call__(self, x: jax.Array, out_sharding: Any = None) -> jax.Array:
        """[..., features_in] -> [..., features_out]."""
        del out_sharding
        assert self.bias is not None
        dtype = self.dtype or x.dtype
        return add_to_rows(without_bias(self, x.astype(dtype)), self.bias[...].astype(dtype))


def without_bias(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """A linear map without its bias, [..., features_in] -> [..., features_out] in the dtype of x."""
    kernel = layer.kernel[...].astype(x.dtype)
    return jnp.einsum("...c,cd->...d", x, kernel, precision=product_precision(x.dtype))


def linear(
    features_in: int,
    features_out: int,
    *,
    forms: Forms = PLAIN,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    kernel_init: nnx.Initializer | None = None,
    bias_init: nnx.Initializer | None = None,
) -> nnx.Linear:
    """[..., features_in] -> [..., features_out]; initial weights as PyTorch's unless given."""
    return (_LinearOnTpus if forms.tpu else nnx.Linear)(
        features_in,
        features_out,
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        precision=product_precision(dtype),
        kernel_init=kernel_init or torch_uniform(features_in),
        bias_init=bias_init or torch_uniform(features_in),
        rngs=rngs,
    )


def convolution(
    channels_in: int,
    channels_out: int,
    *,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    use_bias: bool = False,
    forms: Forms = PLAIN,
    dtype: DTypeLike,
    rngs: nnx.Rngs,
    kernel_init: nnx.Initializer = he_normal_fan_out,
) -> nnx.Conv:
    """[B,H,W,I] -> [B,ceil(H/stride),ceil(W/stride),O], padded by half the dilated kernel on each side.

    A 1x1 convolution is computed as a matrix product, but with forms for TPUs, which do better with the convolution.
    """
    pad = dilation * (kernel // 2)
    return nnx.Conv(
        channels_in,
        channels_out,
        kernel_size=(kernel, kernel),
        strides=(stride, stride),
        padding=((pad, pad), (pad, pad)),
        kernel_dilation=(dilation, dilation),
        use_bias=use_bias,
        dtype=dtype,
        param_dtype=at_least_float32(dtype),
        precision=product_precision(dtype),
        kernel_init=kernel_init,
        bias_init=nnx.initializers.zeros_init(),
        rngs=rngs,
        conv_general_dilated=_convolve(kernel, stride, dilation, forms),
    )


@functools.cache  # One object for the same arguments, so that equal modules are equal.
def _convolve(kernel: int, stride: int, dilation: int, forms: Forms) -> Callable[..., jax.Array]:
    """`lax.conv_general_dilated`, or what takes its place."""

    def as_products(x: jax.Array, kernel: jax.Array, *_: Any, precision: Any, **__: Any) -> jax.Array:
        products = pixel_products if forms.cpu else plain_pixel_products
        return products(x[:, ::stride, ::stride], kernel[0, 0], precision)

    def as_3x3(x: jax.Array, kernel: jax.Array, *_: Any, precision: Any, **__: Any) -> jax.Array:
        return convolution3x3(x, kernel, stride, dilation, precision)

    if kernel == 1 and not forms.tpu:
        return as_products
    return as_3x3 if kernel == 3 and forms.cpu else jax.lax.conv_general_dilated


class MLP(nnx.Module):
    """Linear layers with ReLU between them; `widths` are the sizes from input to output."""

    def __init__(self, *widths: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.layers = nnx.List([linear(a, b, dtype=dtype, rngs=rngs) for a, b in itertools.pairwise(widths)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., widths[0]] -> [..., widths[-1]]."""
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


def apply_layer(layer: nnx.Module, remat: bool, *arguments: Any) -> Any:
    """layer(*arguments), keeping nothing but the arguments until the backward pass where `remat` is set."""
    if not remat:
        return layer(*arguments)  # type: ignore[operator]
    return nnx.remat(lambda module, *args: module(*args))(layer, *arguments)
