"""The kernels of feed-forward networks, interpreted, against the plain function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels.tpu import feed_forward_kernel
from anchordetr_jax.kernels.tpu.feed_forward import feed_forward
from anchordetr_jax.model import transformer
from anchordetr_jax.model.transformer import FeedForwardWeights
from tests.kernels.closeness import assert_close, assert_rounds_no_more
from tests.tolerances import CLOSE32, EXACT64, GRADIENT32_RELATIVE, GRADIENT64_RELATIVE

CHANNELS, HIDDEN = 32, 48
WHOLE, PARTIAL = (2, 128), (3, 3, 67)
"""Rows that fill blocks, and rows that leave the last block partly empty."""
EXACT, CLOSE = (EXACT64, GRADIENT64_RELATIVE), (CLOSE32, GRADIENT32_RELATIVE)

by_kernel = functools.partial(feed_forward, interpret=True)


@pytest.fixture(autouse=True)
def blocks(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows, of float32; half as many rows of float64, but no fewer than the MXU contracts."""
    monkeypatch.setattr(feed_forward_kernel, "FORWARD_BLOCK", 128)
    monkeypatch.setattr(feed_forward_kernel, "BACKWARD_BLOCK", 128)


def given(
    shape: tuple[int, ...], dtype: Any, channels: int = CHANNELS, hidden: int = HIDDEN
) -> tuple[jax.Array, FeedForwardWeights]:
    rng = np.random.default_rng(0)
    wide, C, F = jnp.promote_types(dtype, jnp.float32), channels, hidden
    sizes = ((C, F), F, (F, C), C, C, C)
    weights = FeedForwardWeights(*(jnp.asarray(rng.standard_normal(size), wide) for size in sizes))
    return jnp.asarray(rng.standard_normal((*shape, C)), dtype), weights


@functools.partial(jax.jit, static_argnums=0)
def value_and_gradients(compute: Any, x: jax.Array, weights: FeedForwardWeights) -> Any:
    """The gradients are of the sum of the plain function's sines."""
    value, pull_back = jax.vjp(compute, x, weights)
    return value, pull_back(jnp.cos(transformer.feed_forward(x, weights)))


@pytest.mark.parametrize("shape", [WHOLE, PARTIAL], ids=["whole", "partial"])
@pytest.mark.parametrize(("dtype", "tolerances"), [(jnp.float64, EXACT), (jnp.float32, CLOSE)], ids=["64", "32"])
def test_the_kernels_compute_the_feed_forward_network_and_its_gradients(
    shape: tuple[int, ...], dtype: Any, tolerances: tuple[float, float]
) -> None:
    x, weights = given(shape, dtype)
    expected, gradients = value_and_gradients(transformer.feed_forward, x, weights)
    ours, our_gradients = value_and_gradients(by_kernel, x, weights)
    assert np.asarray(ours) == pytest.approx(np.asarray(expected), abs=tolerances[0])
    assert_close(our_gradients, gradients, tolerances[1])


def test_the_kernels_round_no_more_than_the_plain_function() -> None:
    x, weights = given(PARTIAL, jnp.bfloat16)
    exact, exact_gradients = jax.vjp(transformer.feed_forward, x.astype(jnp.float64), weights)
    expected, gradients = jax.vjp(transformer.feed_forward, x, weights)
    ours, our_gradients = jax.vjp(by_kernel, x, weights)
    change = jnp.cos(expected)
    assert_rounds_no_more(
        (ours, our_gradients(change)),
        (expected, gradients(change)),
        (exact, exact_gradients(change.astype(jnp.float64))),
    )


@pytest.mark.parametrize(("channels", "hidden"), [(512, 32), (32, 2048)])
def test_the_products_of_a_network_that_is_too_large_are_computed_plainly(channels: int, hidden: int) -> None:
    x, weights = given((2, 8), jnp.float64, channels, hidden)
    assert not feed_forward_kernel.fits(channels, hidden)
    expected = jax.jit(transformer.feed_forward)(x, weights)
    assert np.asarray(jax.jit(by_kernel)(x, weights)) == pytest.approx(np.asarray(expected), abs=EXACT64)
