"""A bias added to every row. TPUs compute its gradient, the sum over all rows, many times as fast by a product."""

from typing import Any

import jax
import jax.numpy as jnp

from anchordetr_jax.kernels.tpu.parts import SUBLANES
from anchordetr_jax.model import layers
from anchordetr_jax.model.precision import at_least_float32, product_precision


@jax.custom_vjp
def add_bias(x: jax.Array, bias: jax.Array) -> jax.Array:
    """`model.layers.add_bias`, x [..., C] + bias [C], with a product as the bias's gradient."""
    return layers.add_bias(x, bias)


def _forward(x: jax.Array, bias: jax.Array) -> Any:
    return add_bias(x, bias), None


def _backward(_: None, gradient: jax.Array) -> Any:
    return gradient, row_sum_by_product(gradient)


add_bias.defvjp(_forward, _backward)


def row_sum_by_product(x: jax.Array) -> jax.Array:
    """The sum of all rows of x [..., C] -> [C], by a product with ones, accumulated in float32 or wider."""
    rows = tuple(range(x.ndim - 1))
    # With a single row of ones the compiler would make a sum of it again.
    ones = jnp.ones((SUBLANES, *x.shape[:-1]), x.dtype)
    sums = jax.lax.dot_general(
        ones,
        x,
        ((tuple(axis + 1 for axis in rows), rows), ((), ())),
        precision=product_precision(x.dtype),
        preferred_element_type=at_least_float32(x.dtype),
    )
    return sums[0].astype(x.dtype)
