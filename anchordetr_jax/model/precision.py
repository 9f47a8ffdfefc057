"""Which dtype and which product precision each part of the network uses."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError


def compute_dtype(config: ModelConfig) -> jnp.dtype:
    """What the network computes in. Raises `UserError` for float64 where JAX would quietly make float32 of it."""
    if config.dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise UserError(
            "model.dtype='float64' needs JAX in its 64-bit mode: set the environment variable JAX_ENABLE_X64=1."
        )
    return jnp.dtype(config.dtype)


def param_dtype(config: ModelConfig) -> jnp.dtype:
    """What parameters are kept in: float32, or float64 for a float64 network."""
    return at_least_float32(compute_dtype(config))


def at_least_float32(dtype: DTypeLike) -> jnp.dtype:
    """The dtype of softmax, normalisation and heads: never less than float32."""
    return jnp.promote_types(dtype, jnp.float32)


def product_precision(dtype: DTypeLike) -> jax.lax.Precision:
    """Full precision for float32 and float64; accelerators' default for float32 products is less."""
    return jax.lax.Precision.DEFAULT if jnp.dtype(dtype).itemsize < 4 else jax.lax.Precision.HIGHEST
