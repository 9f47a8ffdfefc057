"""A vector added to every row, and the product that is its gradient on TPUs."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.kernels.forms import PLAIN, Forms
from anchordetr_jax.kernels.tpu.added_rows import add_to_rows, row_sum_by_product
from anchordetr_jax.model.layers import linear
from tests.tolerances import EXACT64, GRADIENT64_RELATIVE


@pytest.fixture
def rows(x64: None) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 4)))


def test_the_product_is_the_sum_over_rows(rows: jax.Array) -> None:
    assert np.asarray(row_sum_by_product(rows)) == pytest.approx(np.asarray(rows).sum((0, 1, 2)), abs=EXACT64)


def test_the_product_accumulates_more_than_it_is_given() -> None:
    """1000 is a bfloat16 number; 256 + 1 is none, so a sum in bfloat16 would end at 256."""
    assert float(row_sum_by_product(jnp.ones((10, 100, 1), jnp.bfloat16))[0]) == 1000


def test_a_linear_map_and_its_gradients_are_the_same_in_both_forms(rows: jax.Array) -> None:
    def total(layer: nnx.Linear, x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.sin(layer(x)))

    def of(forms: Forms) -> list[Any]:
        layer = linear(4, 6, forms=forms, dtype=jnp.float64, rngs=nnx.Rngs(0))
        return jax.tree.leaves(nnx.value_and_grad(total, argnums=(0, 1))(layer, rows))

    for ours, expected in zip(of(Forms(tpu=True)), of(PLAIN), strict=True):
        assert np.asarray(ours) == pytest.approx(np.asarray(expected), rel=GRADIENT64_RELATIVE, abs=EXACT64)


def test_on_tpus_the_gradient_is_a_product() -> None:
    def change(x: jax.Array, vector: jax.Array) -> jax.Array:
        return jax.grad(lambda vector: jnp.sum(jnp.sin(add_to_rows(x, vector))))(vector)

    traced = jax.jit(change).trace(jnp.ones((2, 3, 4)), jnp.ones(4))
    assert "dot_general" in traced.lower(lowering_platforms=("tpu",)).as_text()
    assert "dot_general" not in traced.lower(lowering_platforms=("cpu",)).as_text()
