"""Gradients of convolutions as CPUs compute them, against JAX's own."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from anchordetr_jax.model.convolution_gradients import convolution3x3, pixel_products, plain_pixel_products
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")

IMAGES, HEIGHT, WIDTH, CHANNELS_IN, CHANNELS_OUT = 2, 5, 4, 3, 6


def assert_same_gradients(
    ours: Callable[[jax.Array, jax.Array], jax.Array],
    expected: Callable[[jax.Array, jax.Array], jax.Array],
    kernel_shape: tuple[int, ...],
) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((IMAGES, HEIGHT, WIDTH, CHANNELS_IN)))
    kernel = jnp.asarray(rng.standard_normal((*kernel_shape, CHANNELS_IN, CHANNELS_OUT)))
    change = jnp.asarray(rng.standard_normal((IMAGES, HEIGHT, WIDTH, CHANNELS_OUT)))
    results = []
    for function in (ours, expected):
        result, gradients = jax.vjp(function, x, kernel)
        results.append((result, *gradients(change)))
    for mine, other in zip(*results, strict=True):
        assert np.asarray(mine) == pytest.approx(np.asarray(other), abs=EXACT64)


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_a_3x3_kernels_gradient_is_products_of_its_rows(dilation: int) -> None:
    def expected(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            ((dilation, dilation),) * 2,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    assert_same_gradients(lambda x, kernel: convolution3x3(x, kernel, dilation, None), expected, (3, 3))


def test_a_1x1_kernels_gradient_is_a_product_of_transposed_pixels() -> None:
    assert_same_gradients(
        lambda x, kernel: pixel_products(x, kernel, None), lambda x, kernel: plain_pixel_products(x, kernel, None), ()
    )
