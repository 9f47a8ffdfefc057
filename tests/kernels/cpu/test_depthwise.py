"""The sum of shifted products is the depthwise convolution, and so are its gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels.cpu.depthwise import depthwise_convolution
from anchordetr_jax.small_backbones import efficientnet
from tests.arrays import assert_near
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")


@functools.partial(jax.jit, static_argnums=(0, 4))
def value_and_gradients(compute, x, weights, gradient, stride):
    value, pull_back = jax.vjp(lambda x, w: compute(x, w, stride), x, weights)
    return value, *pull_back(gradient)


@pytest.mark.parametrize(("size", "kernel", "stride"), [((7, 6), 3, 1), ((7, 6), 3, 2), ((6, 9), 5, 2), ((1, 2), 5, 1)])
def test_values_and_gradients_are_those_of_the_plain_function(size, kernel, stride) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, *size, 4)))
    weights = jnp.asarray(rng.standard_normal((kernel, kernel, 1, 4)))
    shape = jax.eval_shape(lambda x, w: efficientnet.depthwise_convolution(x, w, stride), x, weights).shape
    gradient = jnp.asarray(rng.standard_normal(shape))
    plain = value_and_gradients(efficientnet.depthwise_convolution, x, weights, gradient, stride)
    ours = value_and_gradients(depthwise_convolution, x, weights, gradient, stride)
    for one, other in zip(ours, plain, strict=True):
        assert_near(one, other, EXACT64)
