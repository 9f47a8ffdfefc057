"""Normalisation layers that do not see padding."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from anchordetr_jax.model.precision import at_least_float32
from anchordetr_jax.model.valid_area import ValidArea

EPSILON = 1e-5  # PyTorch's, for all its normalisation layers; Flax's own default is 1e-6


class FrozenStatistic(nnx.Variable):
    """A value of a frozen BatchNorm: loaded with the weights, never trained."""


class FrozenBatchNorm(nnx.Module):
    """BatchNorm with fixed statistics and fixed affine map: y = (x - mean) / sqrt(var + epsilon) * scale + bias."""

    def __init__(self, channels: int, *, dtype: DTypeLike, epsilon: float = EPSILON):
        wide = at_least_float32(dtype)
        self.dtype = jnp.dtype(dtype)
        self.epsilon = epsilon
        self.scale = FrozenStatistic(jnp.ones(channels, wide))
        self.bias = FrozenStatistic(jnp.zeros(channels, wide))
        self.mean = FrozenStatistic(jnp.zeros(channels, wide))
        self.var = FrozenStatistic(jnp.ones(channels, wide))

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """The map's scale and bias [C], y = x * scale + bias."""
        scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
        return scale, self.bias[...] - self.mean[...] * scale

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,h,w,C] -> the same shape, in the compute dtype."""
        scale, bias = self.affine()
        wide = x.astype(at_least_float32(self.dtype))
        return (wide * scale[None, None, None, :] + bias[None, None, None, :]).astype(self.dtype)


class GroupNorm(nnx.Module):
    """GroupNorm over the valid cells of each image, or over all cells if `area` is None."""

    def __init__(self, groups: int, channels: int, *, dtype: DTypeLike):
        self.groups = groups
        self.dtype = jnp.dtype(dtype)
        self.scale = nnx.Param(jnp.ones(channels, at_least_float32(dtype)))
        self.bias = nnx.Param(jnp.zeros(channels, at_least_float32(dtype)))

    def __call__(self, x: jax.Array, area: ValidArea | None) -> jax.Array:
        """x [B,h,w,C] -> the same shape, in the compute dtype. Values in the padding have no meaning."""
        B, h, w, C = x.shape
        wide = x.astype(at_least_float32(self.dtype)).reshape(B, h, w, self.groups, C // self.groups)
        if area is None:
            weight = jnp.ones((1, 1, 1, 1, 1), wide.dtype)
            count = jnp.full((1, 1, 1, 1, 1), h * w, wide.dtype)
        else:
            weight = area.cells()[:, :, :, None, None].astype(wide.dtype)
            count = weight.sum(axis=(1, 2), keepdims=True)
        count = count * (C // self.groups)
        mean = (wide * weight).sum(axis=(1, 2, 4), keepdims=True) / count
        centred = wide - mean
        var = (jnp.square(centred) * weight).sum(axis=(1, 2, 4), keepdims=True) / count
        normal = (centred * jax.lax.rsqrt(var + EPSILON)).reshape(B, h, w, C)
        return (normal * self.scale[...][None, None, None, :] + self.bias[...][None, None, None, :]).astype(self.dtype)


class LayerNorm(nnx.Module):
    """LayerNorm over the last axis, computed in float32 or wider."""

    def __init__(self, channels: int, *, dtype: DTypeLike):
        self.dtype = jnp.dtype(dtype)
        self.scale = nnx.Param(jnp.ones(channels, at_least_float32(dtype)))
        self.bias = nnx.Param(jnp.zeros(channels, at_least_float32(dtype)))

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [..., C] -> the same shape, in the compute dtype."""
        return layer_norm(x, self.scale[...], self.bias[...], self.dtype)


class ResidualNorm(LayerNorm):
    """LayerNorm of a sum: where every norm of a transformer layer stands."""

    def __init__(self, channels: int, *, dtype: DTypeLike):
        super().__init__(channels, dtype=dtype)
        self.norm_of_sum = norm_of_sum

    def of_sum(self, x: jax.Array, y: jax.Array) -> jax.Array:
        """norm(x + y), both [..., C] in the compute dtype."""
        return self.norm_of_sum(x, y, self.scale[...], self.bias[...])


def norm_of_sum(x: jax.Array, y: jax.Array, scale: jax.Array, bias: jax.Array) -> jax.Array:
    """LayerNorm of x + y, both [..., C], with scale and bias [C]; in the dtype of x."""
    return layer_norm(x + y, scale, bias, x.dtype)


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, dtype: DTypeLike) -> jax.Array:
    """x [..., C] normalised over its last axis in float32 or wider, times scale [C], plus bias [C], in `dtype`."""
    wide = x.astype(at_least_float32(dtype))
    centred = wide - wide.mean(axis=-1, keepdims=True)
    var = jnp.square(centred).mean(axis=-1, keepdims=True)
    last = (1,) * (x.ndim - 1) + (-1,)
    return (centred * jax.lax.rsqrt(var + EPSILON) * scale.reshape(last) + bias.reshape(last)).astype(dtype)
