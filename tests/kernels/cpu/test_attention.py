"""Attention one head after another, against the plain functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels.cpu.attention import multi_head_attention, row_column_attention
from anchordetr_jax.model import attention as plain
from tests.kernels.attention_case import (
    LONG_ROW,
    ROW,
    TALL,
    WIDE,
    Case,
    assert_equal,
    attention_case,
    attention_gradients,
)
from tests.kernels.closeness import assert_rounds_no_more

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = pytest.mark.parametrize("shape", [WIDE, TALL, ROW, LONG_ROW], ids=["wide", "tall", "a row", "a long row"])

compiled = jax.jit(attention_gradients, static_argnums=0)


@pytest.mark.parametrize("images", [1, 2])
@SHAPES
def test_heads_in_turn_compute_what_heads_together_compute(shape: tuple[int, int], images: int) -> None:
    given = attention_case(shape, images)
    assert_equal(jax.jit(row_column_attention)(*given), jax.jit(plain.row_column_attention)(*given))


@pytest.mark.parametrize("images", [1, 2])
@SHAPES
def test_heads_in_turn_have_the_same_gradient(shape: tuple[int, int], images: int) -> None:
    given = attention_case(shape, images)
    ours, expected = (compiled(attend, given) for attend in (row_column_attention, plain.row_column_attention))
    assert_equal(ours, expected)


@SHAPES
def test_in_bfloat16_the_gradient_rounds_no_more_than_the_plain_one(shape: tuple[int, int]) -> None:
    rounded = cast(attention_case(shape), "bfloat16")
    ours, theirs = (
        attention_gradients(attend, rounded) for attend in (row_column_attention, plain.row_column_attention)
    )
    assert_rounds_no_more(ours, theirs, compiled(plain.row_column_attention, cast(rounded, "float64")))


def cast(given: Case, dtype: str) -> Case:
    return jax.tree.map(lambda x: x if x.dtype == bool else x.astype(dtype), given)


def test_heads_in_turn_keep_less_between_the_two_sums() -> None:
    given = attention_case((24, 24))
    ours, together = (
        jax.jit(attend).lower(*given).compile().memory_analysis()
        for attend in (row_column_attention, plain.row_column_attention)
    )
    assert ours is not None
    assert together is not None
    assert ours.temp_size_in_bytes < 0.8 * together.temp_size_in_bytes


@pytest.mark.parametrize("masked", [False, True], ids=["all keys", "masked"])
def test_heads_in_turn_compute_ordinary_attention(masked: bool) -> None:
    rng = np.random.default_rng(0)
    queries, keys, values = (jnp.asarray(rng.standard_normal((2, k, 2, 4))) for k in (7, 5, 5))
    valid = jnp.array([[True] * 5, [True] * 3 + [False] * 2]) if masked else None
    ours = multi_head_attention(queries, keys, values, valid)
    assert_equal(ours, plain.multi_head_attention(queries, keys, values, valid))
