"""Queries and memories on which functions for row-column attention are compared."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.model.attention import RowColumnMemory
from anchordetr_jax.model.valid_area import leading_area
from tests.arrays import assert_near
from tests.tolerances import EXACT64

IMAGES, QUERIES, HEADS, SIZE = 2, 150, 2, 16
WIDE, TALL, ROW, LONG_ROW = (3, 5), (5, 3), (1, 5), (1, 300)
Case = tuple[jax.Array, jax.Array, RowColumnMemory]


def attention_case(shape: tuple[int, int], images: int = IMAGES) -> Case:
    """Queries and a memory whose last image is padded."""
    (h, w), rng = shape, np.random.default_rng(0)

    def values(*sizes: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal((images, *sizes, HEADS, SIZE)))

    area = leading_area(jnp.array([[h, w]] * (images - 1) + [[max(1, h - 1), w - 2]]), shape)
    memory = RowColumnMemory(values(w), values(h), values(h, w), area)
    return values(QUERIES), values(QUERIES), memory


def attention_gradients(attend: Callable[..., jax.Array], given: Case) -> list[jax.Array]:
    """Of queries, keys and values."""
    row, column, memory = given

    def total(row: jax.Array, column: jax.Array, row_keys: Any, column_keys: Any, values: Any) -> jax.Array:
        return jnp.sum(jnp.sin(attend(row, column, RowColumnMemory(row_keys, column_keys, values, memory.area))))

    return list(jax.grad(total, argnums=(0, 1, 2, 3, 4))(row, column, *memory[:3]))


def assert_equal(ours: Any, expected: Any) -> None:
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert_near(mine, other, EXACT64)
