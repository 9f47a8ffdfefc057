"""Convolutions and their gradients as CPUs compute them, against JAX's own."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels.cpu.convolutions import (
    convolution3x3,
    pixel_products,
    plain_convolution3x3,
    plain_pixel_products,
)
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")

IMAGES, HEIGHT, WIDTH = 2, 9, 8


def assert_same_gradients(
    ours: Callable[[jax.Array, jax.Array], jax.Array],
    expected: Callable[[jax.Array, jax.Array], jax.Array],
    kernel_shape: tuple[int, ...],
) -> None:
    channels_in = kernel_shape[-2]
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((IMAGES, HEIGHT, WIDTH, channels_in)))
    kernel = jnp.asarray(rng.standard_normal(kernel_shape) * math.prod(kernel_shape[:-1]) ** -0.5)
    results = []
    change = jnp.asarray(rng.standard_normal(jax.eval_shape(expected, x, kernel).shape))
    for function in (ours, expected):
        result, gradients = jax.vjp(function, x, kernel)
        results.append((result, *gradients(change)))
    for mine, other in zip(*results, strict=True):
        assert np.asarray(mine) == pytest.approx(np.asarray(other), abs=EXACT64)


@pytest.mark.parametrize("channels", [(3, 6), (128, 130)], ids=["few channels", "many channels"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
def test_a_3x3_convolution_and_its_gradients_are_plain_ones(
    stride: int, dilation: int, channels: tuple[int, int]
) -> None:
    assert_same_gradients(
        lambda x, kernel: convolution3x3(x, kernel, stride, dilation, None),
        lambda x, kernel: plain_convolution3x3(x, kernel, stride, dilation, None),
        (3, 3, *channels),
    )


@pytest.mark.parametrize("channels", [(3, 6), (3, 2048), (2048, 3)])
def test_a_1x1_convolution_and_its_gradients_are_plain_ones(channels: tuple[int, int]) -> None:
    assert_same_gradients(
        lambda x, kernel: pixel_products(x, kernel, None),
        lambda x, kernel: plain_pixel_products(x, kernel, None),
        channels,
    )
