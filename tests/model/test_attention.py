# mypy: disable-error-code="union-attr,index,arg-type"
# Parts that are optional in the types are there in the models made here.
"""Attention against its definition, cell by cell."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.kernels import install
from anchordetr_jax.model.attention import MultiHeadAttention, RowColumnAttention, row_column_sum, row_column_weights
from anchordetr_jax.model.layers import Linear
from anchordetr_jax.model.valid_area import leading_area
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")

CHANNELS, HEADS = 8, 2


def values(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape, jnp.float64)


def row_column_attention() -> RowColumnAttention:
    """With biases, which start at zero."""
    attention = RowColumnAttention(CHANNELS, HEADS, dtype=jnp.float64, rngs=nnx.Rngs(0))
    for i, part in enumerate((attention.query_row, attention.query_column, attention.key_row, attention.value)):
        part.bias[...] = values(10 + i, CHANNELS)
    return attention


@pytest.mark.parametrize("platform", [None, "cpu", "tpu"])
def test_queries_of_a_grid_are_those_of_its_cells(platform):
    attention, (B, h, w) = row_column_attention(), (2, 3, 5)
    if platform:
        install(attention, platform)
    features, row, column = values(1, B, h, w, CHANNELS), values(2, B, w, CHANNELS), values(3, B, h, CHANNELS)
    ours = attention.grid_queries(features, row, column)
    expected = attention.query_row(features + row[:, None]), attention.query_column(features + column[:, :, None])
    for mine, other in zip(ours, expected, strict=True):
        assert np.asarray(mine) == pytest.approx(np.asarray(other).reshape(B, h * w, CHANNELS), abs=EXACT64)


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def project(layer: Linear, x: jax.Array) -> np.ndarray:
    return (np.asarray(x) @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])).reshape(
        *x.shape[:-1], HEADS, -1
    )


@pytest.mark.parametrize("shape", [(3, 5), (5, 3)], ids=["wide", "tall"])
def test_row_column_attention_is_a_sum_over_rows_of_sums_over_columns(shape):
    attention, (h, w) = row_column_attention(), shape
    features, row_positions, column_positions = (
        values(1, 1, h, w, CHANNELS),
        values(2, 1, w, CHANNELS),
        values(3, 1, h, CHANNELS),
    )
    row_queries, column_queries = values(4, 1, 4, CHANNELS), values(5, 1, 4, CHANNELS)
    area = leading_area(jnp.array([[h, w]]), shape)
    memory = attention.memory(features, row_positions, column_positions, area, None)
    ours = attention(attention.query_row(row_queries), attention.query_column(column_queries), memory)

    # As the paper defines it: keys are projected cell by cell, then averaged.
    row_keys = project(attention.key_row, features[0] + row_positions[0][None]).mean(axis=0)
    column_keys = project(attention.key_column, features[0] + column_positions[0][:, None]).mean(axis=1)
    cells = project(attention.value, features[0])
    size = CHANNELS // HEADS
    expected = np.zeros((4, HEADS, size))
    for q in range(4):
        for n in range(HEADS):
            along_row = softmax(row_keys[:, n] @ project(attention.query_row, row_queries[0])[q, n] / size**0.5)
            along_column = softmax(
                column_keys[:, n] @ project(attention.query_column, column_queries[0])[q, n] / size**0.5
            )
            for i in range(h):
                for j in range(w):
                    expected[q, n] += along_column[i] * along_row[j] * cells[i, j, n]
    expected = expected.reshape(4, CHANNELS) @ np.asarray(attention.out.kernel[...]) + np.asarray(
        attention.out.bias[...]
    )
    assert np.asarray(ours[0]) == pytest.approx(expected, abs=EXACT64)


def test_the_order_of_the_two_sums_does_not_matter():
    row_weights, column_weights, cells = values(1, 1, 2, 4, 5), values(2, 1, 2, 4, 3), values(3, 1, 3, 5, 2, 4)
    ours = row_column_sum(row_weights, column_weights, cells)
    turned = row_column_sum(column_weights, row_weights, cells.transpose(0, 2, 1, 3, 4))
    assert np.asarray(ours) == pytest.approx(np.asarray(turned), abs=EXACT64)


def test_a_cells_query_is_the_projection_of_its_content_and_position():
    attention = row_column_attention()
    features, row_positions, column_positions = (
        values(1, 2, 3, 4, CHANNELS),
        values(2, 2, 4, CHANNELS),
        values(3, 2, 3, CHANNELS),
    )
    row, column = attention.grid_queries(features, row_positions, column_positions)
    assert np.asarray(row) == pytest.approx(
        np.asarray(attention.query_row(features + row_positions[:, None])).reshape(2, 12, CHANNELS), abs=EXACT64
    )
    assert np.asarray(column) == pytest.approx(
        np.asarray(attention.query_column(features + column_positions[:, :, None])).reshape(2, 12, CHANNELS),
        abs=EXACT64,
    )


def test_padded_rows_and_columns_get_no_attention():
    attention = row_column_attention()
    area = leading_area(jnp.array([[2, 3]]), (4, 5))
    memory = attention.memory(
        values(1, 1, 4, 5, CHANNELS), values(2, 1, 5, CHANNELS), values(3, 1, 4, CHANNELS), area, area
    )
    size = CHANNELS // HEADS
    row, column = row_column_weights(values(4, 1, 6, HEADS, size), values(5, 1, 6, HEADS, size), memory)
    assert np.asarray(row[..., :3].sum(-1)) == pytest.approx(1.0)
    assert np.asarray(column[..., :2].sum(-1)) == pytest.approx(1.0)
    assert not row[..., 3:].any()
    assert not column[..., 2:].any()


def test_standard_attention_is_softmax_over_valid_keys():
    attention = MultiHeadAttention(CHANNELS, HEADS, role="queries", dtype=jnp.float64, rngs=nnx.Rngs(0))
    queries, keys, content = values(1, 1, 3, CHANNELS), values(2, 1, 5, CHANNELS), values(3, 1, 5, CHANNELS)
    ours = attention(queries, keys, content, jnp.array([[True, True, True, True, False]]))
    q, k, v = (
        project(attention.query, queries[0]),
        project(attention.key, keys[0, :4]),
        project(attention.value, content[0, :4]),
    )
    mixed = np.array([[softmax(k[:, n] @ q[i, n] / 2.0) @ v[:, n] for n in range(HEADS)] for i in range(3)])
    expected = mixed.reshape(3, CHANNELS) @ np.asarray(attention.out.kernel[...]) + np.asarray(attention.out.bias[...])
    assert np.asarray(ours[0]) == pytest.approx(expected, abs=EXACT64)
