"""Padding never changes an image's result, whatever the variant, the size and the neighbours."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anchordetr_jax.model.anchor_detr import Predictions
from tests.arrays import assert_near
from tests.model.conftest import VARIANTS
from tests.tolerances import CLOSE32, EXACT64


def jitted(model):
    graphdef, state = nnx.split(model)
    # Weights are an argument: as constants of the program they would be compiled into it.
    detect = jax.jit(lambda state, images, sizes: nnx.merge(graphdef, state)(images, sizes))
    return functools.partial(detect, state)


DETECTORS: dict[str, Callable[..., Predictions]] = {}
"""In float64, by variant. Several tests ask for each: making and tracing one takes seconds."""


def detector_of(variant, small_detector):
    if variant not in DETECTORS:
        DETECTORS[variant] = jitted(small_detector(dtype="float64", **VARIANTS[variant]))
    return DETECTORS[variant]


def padded(images, shape, fill=7.0):
    """Images stacked on a grid of `shape`, garbage in the padding, and their sizes."""
    canvas = np.full((len(images), *shape, 3), fill)
    for i, image in enumerate(images):
        canvas[i, : image.shape[1], : image.shape[2]] = np.asarray(image)[0]  # JAX would compile it for each size.
    return jax.device_put(canvas), jnp.array([image.shape[1:3] for image in images], jnp.int32)


def assert_equal(one, other, tolerance):
    for a, b in zip(one, other, strict=True):
        assert_near(a, b, tolerance)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("size", [(33, 47), (64, 17)], ids=["odd", "one cell wide"])
def test_an_image_alone_padded_and_beside_another_has_one_result(variant, size, small_detector, pixels):
    detect = detector_of(variant, small_detector)
    image, other = pixels(*size), pixels(70, 90, seed=1)
    alone = detect(image, jnp.array([size], jnp.int32))
    together = detect(*padded([image, other], (70, 96)))
    assert_equal([x[:, 0] for x in alone], [x[:, 0] for x in together], EXACT64)


@pytest.mark.usefixtures("x64")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_size_has_one_result_on_two_grids(data, small_detector, pixels):
    detect = detector_of("dc5", small_detector)
    size = data.draw(st.tuples(st.integers(1, 64), st.integers(1, 64)))
    neighbour = data.draw(st.tuples(st.integers(1, 64), st.integers(1, 64)))
    image = pixels(*size)
    small = detect(*padded([image, pixels(*neighbour, seed=1)], (64, 64)))
    large = detect(*padded([image, pixels(1, 1, seed=2)], (81, 75), fill=-3.0))
    assert_equal([np.asarray(x)[:, 0] for x in small], [np.asarray(x)[:, 0] for x in large], EXACT64)


def test_in_float32_padding_changes_rounding_only(small_detector, pixels):
    detect = jitted(small_detector())
    image = pixels(33, 47)
    alone = detect(image, jnp.array([[33, 47]], jnp.int32))
    together = detect(*padded([image, pixels(70, 90, seed=1)], (70, 96)))
    assert_equal([x[:, 0] for x in alone], [x[:, 0] for x in together], CLOSE32)


@pytest.mark.usefixtures("x64")
def test_with_official_padding_a_neighbour_does_change_the_result(small_detector, pixels):
    detect = jitted(small_detector(dtype="float64", padding="official"))
    image = pixels(33, 47)
    alone = detect(image, jnp.array([[33, 47]], jnp.int32))
    together = detect(*padded([image, pixels(70, 90, seed=1)], (70, 96)))
    assert np.abs(np.asarray(alone.logits[:, 0]) - np.asarray(together.logits[:, 0])).max() > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("variant", ["dc5", "levels3", "standard"])
def test_without_padding_both_behaviours_agree(variant, small_detector, pixels):
    size = jnp.array([[48, 64]], jnp.int32)
    image = pixels(48, 64)
    invariant = detector_of(variant, small_detector)(image, size)
    official = jitted(small_detector(dtype="float64", padding="official", **VARIANTS[variant]))(image, size)
    assert_equal(invariant, official, EXACT64)
