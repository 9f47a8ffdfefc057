"""The kernel of row-column attention, run without a TPU, against the plain form."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.model import attention_kernel
from anchordetr_jax.model.attention import MultiHeadAttention
from anchordetr_jax.model.decoupled import RowColumnMemory, plain_attention
from anchordetr_jax.model.fused_attention import kernel_attention, kernel_backward, kernel_forward
from anchordetr_jax.model.valid_area import leading_area
from tests.tolerances import EXACT64

IMAGES, QUERIES, HEADS, SIZE = 2, 150, 2, 16
WIDE, TALL = (3, 5), (5, 3)
Case = tuple[jax.Array, jax.Array, RowColumnMemory]


@pytest.fixture(autouse=True)
def blocks(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of queries, the second of them not full, and two products to the shorter axis."""
    monkeypatch.setattr(attention_kernel, "QUERY_BLOCK", 128)
    monkeypatch.setattr(attention_kernel, "_SHORT_CHUNK", 2)


def case(shape: tuple[int, int]) -> Case:
    """Queries and a memory whose second image is padded."""
    (h, w), rng = shape, np.random.default_rng(0)

    def values(*sizes: int) -> jax.Array:
        return jnp.asarray(rng.standard_normal((IMAGES, *sizes, HEADS, SIZE)))

    area = leading_area(jnp.array([[h, w], [h - 1, w - 2]]), shape)
    memory = RowColumnMemory(values(w), values(h), values(h, w), area)
    return values(QUERIES), values(QUERIES), memory


def gradients(attend: Callable[..., jax.Array], given: Case) -> list[jax.Array]:
    """Of queries, keys and values."""
    row, column, memory = given

    def total(row: jax.Array, column: jax.Array, row_keys: Any, column_keys: Any, values: Any) -> jax.Array:
        return jnp.sum(jnp.sin(attend(row, column, RowColumnMemory(row_keys, column_keys, values, memory.area))))

    return list(jax.grad(total, argnums=(0, 1, 2, 3, 4))(row, column, *memory[:3]))


def assert_equal(ours: Any, expected: Any) -> None:
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert np.asarray(mine) == pytest.approx(np.asarray(other), abs=EXACT64)


@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])
def test_the_kernel_computes_row_column_attention(shape: tuple[int, int]) -> None:
    given = case(shape)
    assert_equal(kernel_forward(*given, interpret=True), plain_attention(*given))


@pytest.mark.parametrize("shape", [WIDE, TALL], ids=["wide", "tall"])
def test_the_kernels_gradient_is_that_of_row_column_attention(shape: tuple[int, int]) -> None:
    given = case(shape)
    change = jnp.cos(plain_attention(*given))
    assert_equal(kernel_backward(*given, change, interpret=True), gradients(plain_attention, given))


def test_where_there_is_no_tpu_the_plain_form_computes() -> None:
    given = case(WIDE)
    assert_equal(jax.jit(kernel_attention)(*given), plain_attention(*given))
    assert_equal(jax.jit(gradients, static_argnums=0)(kernel_attention, given), gradients(plain_attention, given))


@pytest.mark.parametrize("settings", [{"attention": "standard"}, {"hidden_dim": 32, "num_heads": 4}], ids=str)
def test_a_network_that_the_kernel_cannot_compute_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"model\.tpu_forms needs"):
        ModelConfig(tpu_forms=True, **settings)


def test_ordinary_attention_is_row_column_attention_to_a_single_row() -> None:
    plain, kernel = (
        MultiHeadAttention(HEADS * SIZE, HEADS, kernel=kernel, dtype=jnp.float64, rngs=nnx.Rngs(0))
        for kernel in (False, True)
    )
    rng = np.random.default_rng(0)
    queries, keys, content = (jnp.asarray(rng.standard_normal((IMAGES, k, HEADS * SIZE))) for k in (7, 5, 5))
    valid = jnp.array([[True] * 5, [True] * 3 + [False] * 2])
    for mask in (None, valid):
        assert_equal(kernel(queries, keys, content, mask), plain(queries, keys, content, mask))
