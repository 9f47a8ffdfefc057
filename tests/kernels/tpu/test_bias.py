"""A bias that is added to every row, and the product that is its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels.tpu.bias import add_bias, row_sum_by_product
from anchordetr_jax.model import layers
from tests.tolerances import EXACT64, GRADIENT64_RELATIVE


@pytest.fixture
def rows(x64: None) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 5, 4)))


def test_the_product_is_the_sum_over_rows(rows: jax.Array) -> None:
    assert np.asarray(row_sum_by_product(rows)) == pytest.approx(np.asarray(rows).sum((0, 1, 2)), abs=EXACT64)


def test_the_product_accumulates_in_more_than_bfloat16() -> None:
    """1000 is a bfloat16 number and 256 + 1 is not, so a sum in bfloat16 would end at 256."""
    assert float(row_sum_by_product(jnp.ones((10, 100, 1), jnp.bfloat16))[0]) == 1000


def test_the_sum_and_its_gradients_are_those_of_the_plain_function(rows: jax.Array) -> None:
    bias = jnp.arange(4.0)
    ours, expected = (
        jax.value_and_grad(lambda x, b, add=add: jnp.sum(jnp.sin(add(x, b))), (0, 1))(rows, bias)
        for add in (add_bias, layers.add_bias)
    )
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert np.asarray(mine) == pytest.approx(np.asarray(other), rel=GRADIENT64_RELATIVE, abs=EXACT64)


def test_the_gradient_is_a_product() -> None:
    def change(x: jax.Array, bias: jax.Array) -> jax.Array:
        return jax.grad(lambda bias: jnp.sum(jnp.sin(add_bias(x, bias))))(bias)

    assert "dot_general" in jax.jit(change).lower(jnp.ones((2, 3, 4)), jnp.ones(4)).as_text()
