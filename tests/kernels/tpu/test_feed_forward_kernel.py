"""The kernel of feed-forward networks, run without a TPU, against the plain form."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.tpu import feed_forward_kernel
from anchordetr_jax.kernels.tpu.feed_forward import (
    kernel_backward,
    kernel_feed_forward,
    kernel_forward,
    plain_feed_forward,
)
from anchordetr_jax.kernels.tpu.feed_forward_kernel import Weights
from anchordetr_jax.model.transformer import FeedForward
from tests.kernels.closeness import assert_close, assert_rounds_no_more
from tests.tolerances import CLOSE32, EXACT64, GRADIENT32_RELATIVE, GRADIENT64_RELATIVE

CHANNELS, HIDDEN = 32, 48
WHOLE, PARTIAL = (2, 128), (3, 3, 67)
"""Rows that fill blocks, and rows of which the last block has too few."""
EXACT, CLOSE = (EXACT64, GRADIENT64_RELATIVE), (CLOSE32, GRADIENT32_RELATIVE)


@pytest.fixture(autouse=True)
def blocks(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows, of float32; half as many rows of float64, but no fewer than what the MXU contracts."""
    monkeypatch.setattr(feed_forward_kernel, "FORWARD_BLOCK", 128)
    monkeypatch.setattr(feed_forward_kernel, "BACKWARD_BLOCK", 128)


def given(shape: tuple[int, ...], dtype: Any) -> tuple[jax.Array, Weights]:
    rng = np.random.default_rng(0)
    wide = jnp.promote_types(dtype, jnp.float32)
    C, F = CHANNELS, HIDDEN
    weights = Weights(*(jnp.asarray(rng.standard_normal(size), wide) for size in ((C, F), F, (F, C), C, C, C)))
    return jnp.asarray(rng.standard_normal((*shape, C)), dtype), weights


@pytest.mark.parametrize("shape", [WHOLE, PARTIAL], ids=["whole", "partial"])
@pytest.mark.parametrize(("dtype", "tolerances"), [(jnp.float64, EXACT), (jnp.float32, CLOSE)], ids=["64", "32"])
def test_the_kernel_computes_the_feed_forward_network_and_its_gradients(
    shape: tuple[int, ...], dtype: Any, tolerances: tuple[float, float]
) -> None:
    x, weights = given(shape, dtype)
    expected, gradients = jax.vjp(plain_feed_forward, x, weights)
    ours, sums = kernel_forward(x, weights, interpret=True)
    assert np.asarray(ours) == pytest.approx(np.asarray(expected), abs=tolerances[0])
    change = jnp.cos(expected)
    assert_close(kernel_backward(x, sums, weights, change, interpret=True), gradients(change), tolerances[1])


def test_the_kernel_rounds_no_more_than_the_plain_form() -> None:
    x, weights = given(PARTIAL, jnp.bfloat16)
    exact, exact_gradients = jax.vjp(plain_feed_forward, x.astype(jnp.float64), weights)
    expected, gradients = jax.vjp(plain_feed_forward, x, weights)
    ours, sums = kernel_forward(x, weights, interpret=True)
    change = jnp.cos(expected)
    assert_rounds_no_more(
        (ours, kernel_backward(x, sums, weights, change, interpret=True)),
        (expected, gradients(change)),
        (exact, exact_gradients(change.astype(jnp.float64))),
    )


def test_where_there_is_no_tpu_the_plain_form_computes() -> None:
    x, weights = given(PARTIAL, jnp.float64)

    def total(form: Any, x: jax.Array, weights: Weights) -> jax.Array:
        return jnp.sum(jnp.sin(form(x, weights)))

    for ours, expected in zip(
        jax.tree.leaves(jax.jit(jax.value_and_grad(total, (1, 2)), static_argnums=0)(kernel_feed_forward, x, weights)),
        jax.tree.leaves(jax.value_and_grad(total, (1, 2))(plain_feed_forward, x, weights)),
        strict=True,
    ):
        assert np.asarray(ours) == pytest.approx(np.asarray(expected), rel=GRADIENT64_RELATIVE, abs=EXACT64)


def test_the_layers_network_is_the_same_in_both_forms() -> None:
    plain, kernel = (
        FeedForward(
            ModelConfig(tpu_forms=tpu_forms, dtype="float64", hidden_dim=32, num_heads=2, ffn_dim=HIDDEN),
            rngs=nnx.Rngs(0),
        )
        for tpu_forms in (False, True)
    )
    x, _ = given(PARTIAL, jnp.float64)
    assert np.asarray(kernel(x)) == pytest.approx(np.asarray(plain(x)), abs=EXACT64)


@pytest.mark.parametrize(("channels", "hidden"), [(512, 32), (32, 2048)])
def test_a_network_too_large_for_the_kernel_is_computed_as_it_is_defined(channels: int, hidden: int) -> None:
    config = ModelConfig(tpu_forms=True, hidden_dim=channels, num_heads=2, ffn_dim=hidden)
    assert not FeedForward(config, rngs=nnx.Rngs(0)).by_kernel
