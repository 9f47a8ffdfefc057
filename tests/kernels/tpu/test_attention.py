"""The kernels of attention, interpreted, against the plain functions."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.tpu import attention_kernel
from anchordetr_jax.kernels.tpu.attention import multi_head_attention, product_at_cells, row_column_attention
from anchordetr_jax.model import attention as plain
from tests.kernels.attention_case import (
    HEADS,
    IMAGES,
    SIZE,
    TALL,
    WIDE,
    assert_equal,
    attention_case,
    attention_gradients,
)

SHAPES = pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])


@pytest.fixture(autouse=True)
def blocks(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of queries, the second of them not full, and two products for the shorter axis."""
    monkeypatch.setattr(attention_kernel, "QUERY_BLOCK", 128)
    monkeypatch.setattr(attention_kernel, "_SHORT_CHUNK", 2)


@SHAPES
def test_the_kernel_computes_row_column_attention(shape: tuple[int, int]) -> None:
    given = attention_case(shape)
    assert_equal(row_column_attention(*given, interpret=True), plain.row_column_attention(*given))


@SHAPES
def test_the_kernels_gradient_is_that_of_row_column_attention(shape: tuple[int, int]) -> None:
    given = attention_case(shape)
    ours = attention_gradients(functools.partial(row_column_attention, interpret=True), given)
    assert_equal(ours, attention_gradients(plain.row_column_attention, given))


@pytest.mark.parametrize("masked", [False, True], ids=["all keys", "masked"])
def test_the_kernel_computes_ordinary_attention(masked: bool) -> None:
    rng = np.random.default_rng(0)
    queries, keys, values = (jnp.asarray(rng.standard_normal((IMAGES, k, HEADS, SIZE))) for k in (7, 5, 5))
    valid = jnp.array([[True] * 5, [True] * 3 + [False] * 2]) if masked else None
    ours = multi_head_attention(queries, keys, values, valid, interpret=True)
    assert_equal(ours, plain.multi_head_attention(queries, keys, values, valid))


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_a_product_copies_rows_and_columns_to_their_cells(axis: int) -> None:
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, WIDE[axis], 4)))
    assert_equal(product_at_cells(x, WIDE, axis), plain.at_cells(x, WIDE, axis))


@pytest.mark.parametrize("settings", [{"attention": "standard"}, {"hidden_dim": 32, "num_heads": 4}], ids=str)
def test_a_network_that_the_kernel_cannot_compute_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model\.kernels='tpu' needs"):
        ModelConfig(kernels="tpu", **settings)
