"""Convolutions and their gradients as CPUs compute them, against JAX's own."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.kernels.cpu.convolutions import convolution, convolution3x3_of_float64
from anchordetr_jax.model import layers
from tests.arrays import assert_near
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")

IMAGES, HEIGHT, WIDTH = 2, 9, 8


def assert_same_gradients(
    kernel_shape: tuple[int, ...], stride: int, dilation: int, function: Callable[..., jax.Array] = convolution
) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((IMAGES, HEIGHT, WIDTH, kernel_shape[-2])))
    kernel = jnp.asarray(rng.standard_normal(kernel_shape) * math.prod(kernel_shape[:-1]) ** -0.5)
    results = []
    for one in (function, layers.convolution):
        results.append(with_gradients(x, kernel, functools.partial(one, stride=stride, dilation=dilation)))
    for mine, other in zip(*results, strict=True):
        assert_near(mine, other, EXACT64)


@functools.partial(jax.jit, static_argnums=2)
def with_gradients(x: jax.Array, kernel: jax.Array, compute: Callable[..., jax.Array]) -> tuple[jax.Array, ...]:
    """The result, and the gradients of both for a gradient of the result that differs everywhere."""
    result, gradients = jax.vjp(compute, x, kernel)
    return result, *gradients(jnp.cos(result))


@pytest.mark.parametrize("channels", [(3, 6), (128, 130)], ids=["few channels", "many channels"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)])
def test_a_3x3_convolution_and_its_gradients_are_plain_ones(
    stride: int, dilation: int, channels: tuple[int, int]
) -> None:
    assert_same_gradients((3, 3, *channels), stride, dilation)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_a_3x3_convolution_as_one_product_and_its_gradients_are_plain_ones(stride: int, dilation: int) -> None:
    assert_same_gradients((3, 3, 3, 6), stride, dilation, convolution3x3_of_float64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(3, 6), (3, 2048), (2048, 3)])
def test_a_1x1_convolution_and_its_gradients_are_plain_ones(channels: tuple[int, int], stride: int) -> None:
    assert_same_gradients((1, 1, *channels), stride, 1)


def sums_that_the_compiler_would_repeat(x: jax.Array) -> jax.Array:
    first = jax.lax.optimization_barrier(jnp.maximum(x @ x + x, 0))
    return (first @ x + first) @ first


def test_the_result_of_a_barrier_is_stored() -> None:
    function = jax.jit(sums_that_the_compiler_would_repeat, compiler_options=compiler_options("cpu"))
    assert "opt-barrier" in (function.lower(jnp.ones((8, 8))).compile().as_text() or "")
