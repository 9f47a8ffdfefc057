"""The kernels of norms of sums, interpreted, against the plain function."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels.tpu import norm_kernel
from anchordetr_jax.kernels.tpu.norm import norm_of_sum
from anchordetr_jax.model import normalization
from tests.kernels.closeness import assert_close, assert_rounds_no_more
from tests.tolerances import CLOSE32, EXACT64, GRADIENT32_RELATIVE, GRADIENT64_RELATIVE

CHANNELS = 32
WHOLE, PARTIAL = (2, 128), (3, 3, 67)
"""Rows that fill blocks, and rows that leave the last block partly empty."""
EXACT, CLOSE = (EXACT64, GRADIENT64_RELATIVE), (CLOSE32, GRADIENT32_RELATIVE)

by_kernel = functools.partial(norm_of_sum, interpret=True)


@pytest.fixture(autouse=True)
def blocks(x64: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks of rows."""
    monkeypatch.setattr(norm_kernel, "BLOCK", 128)


def given(shape: tuple[int, ...], dtype: Any, channels: int = CHANNELS) -> list[jax.Array]:
    """x, y, scale and bias."""
    rng = np.random.default_rng(0)
    wide = jnp.promote_types(dtype, jnp.float32)
    pixels = [jnp.asarray(rng.standard_normal((*shape, channels)), dtype) for _ in range(2)]
    return pixels + [jnp.asarray(rng.standard_normal(channels), wide) for _ in range(2)]


@pytest.mark.parametrize("shape", [WHOLE, PARTIAL], ids=["whole", "partial"])
@pytest.mark.parametrize(("dtype", "tolerances"), [(jnp.float64, EXACT), (jnp.float32, CLOSE)], ids=["64", "32"])
def test_the_kernels_compute_the_norm_of_a_sum_and_its_gradients(
    shape: tuple[int, ...], dtype: Any, tolerances: tuple[float, float]
) -> None:
    arguments = given(shape, dtype)
    expected, gradients = jax.vjp(normalization.norm_of_sum, *arguments)
    ours, our_gradients = jax.vjp(by_kernel, *arguments)
    assert np.asarray(ours) == pytest.approx(np.asarray(expected), abs=tolerances[0])
    change = jnp.cos(expected)
    assert_close(our_gradients(change), gradients(change), tolerances[1])


def test_the_kernels_round_no_more_than_the_plain_function() -> None:
    x, y, *affine = given(PARTIAL, jnp.bfloat16)
    wide = x.astype(jnp.float64), y.astype(jnp.float64), *affine
    exact, exact_gradients = jax.vjp(normalization.norm_of_sum, *wide)
    expected, gradients = jax.vjp(normalization.norm_of_sum, x, y, *affine)
    ours, our_gradients = jax.vjp(by_kernel, x, y, *affine)
    change = jnp.cos(expected)
    assert_rounds_no_more(
        (ours, our_gradients(change)),
        (expected, gradients(change)),
        (exact, exact_gradients(change.astype(jnp.float64))),
    )


def test_more_channels_than_the_kernel_has_room_for_are_normalised_plainly() -> None:
    arguments = given((2, 8), jnp.float64, channels=norm_kernel.MOST_CHANNELS + 32)
    assert np.array_equal(norm_of_sum(*arguments), normalization.norm_of_sum(*arguments))
