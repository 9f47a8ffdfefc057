"""The initial weights of the official recipe, which are PyTorch's."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike


def torch_uniform(fan_in: int) -> nnx.Initializer:
    """PyTorch's default for linear layers, weights and biases alike: uniform in ±1/sqrt(fan_in)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        bound = 1 / math.sqrt(fan_in)
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def xavier_uniform(fan_in: int, fan_out: int) -> nnx.Initializer:
    """Glorot's uniform. The fans are explicit, since a fused projection counts all its outputs as one layer."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
        bound = math.sqrt(6 / (fan_in + fan_out))
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def he_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """torchvision's initial convolutions: normal, variance 2 / (kernel area * output channels). shape is HWIO."""
    std = math.sqrt(2 / (shape[0] * shape[1] * shape[3]))
    return std * jax.random.normal(key, shape, dtype)
