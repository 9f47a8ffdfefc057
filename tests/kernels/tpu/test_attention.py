"""The kernel of row-column attention, run without a TPU, against the plain form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.forms import PLAIN, Forms
from anchordetr_jax.kernels.tpu import attention_kernel
from anchordetr_jax.kernels.tpu.attention import kernel_attention, kernel_backward, kernel_forward
from anchordetr_jax.model.attention import MultiHeadAttention
from anchordetr_jax.model.decoupled import plain_attention
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


@pytest.fixture(autouse=True)
def blocks(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of queries, the second of them not full, and two products to the shorter axis."""
    monkeypatch.setattr(attention_kernel, "QUERY_BLOCK", 128)
    monkeypatch.setattr(attention_kernel, "_SHORT_CHUNK", 2)


@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])
def test_the_kernel_computes_row_column_attention(shape: tuple[int, int]) -> None:
    given = attention_case(shape)
    assert_equal(kernel_forward(*given, interpret=True), plain_attention(*given))


@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])
def test_the_kernels_gradient_is_that_of_row_column_attention(shape: tuple[int, int]) -> None:
    given = attention_case(shape)
    change = jnp.cos(plain_attention(*given))
    assert_equal(kernel_backward(*given, change, interpret=True), attention_gradients(plain_attention, given))


def test_where_there_is_no_tpu_the_plain_form_computes() -> None:
    given = attention_case(WIDE)
    assert_equal(jax.jit(kernel_attention)(*given), plain_attention(*given))
    assert_equal(
        jax.jit(attention_gradients, static_argnums=0)(kernel_attention, given),
        attention_gradients(plain_attention, given),
    )


@pytest.mark.parametrize("settings", [{"attention": "standard"}, {"hidden_dim": 32, "num_heads": 4}], ids=str)
def test_a_network_that_the_kernel_cannot_compute_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model\.tpu_forms needs"):
        ModelConfig(tpu_forms=True, **settings)


def test_ordinary_attention_is_row_column_attention_to_a_single_row() -> None:
    plain, kernel = (
        MultiHeadAttention(HEADS * SIZE, HEADS, forms=forms, dtype=jnp.float64, rngs=nnx.Rngs(0))
        for forms in (PLAIN, Forms(tpu=True))
    )
    rng = np.random.default_rng(0)
    queries, keys, content = (jnp.asarray(rng.standard_normal((IMAGES, k, HEADS * SIZE))) for k in (7, 5, 5))
    valid = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
    for mask in (None, valid):
        assert_equal(kernel(queries, keys, content, mask), plain(queries, keys, content, mask))
