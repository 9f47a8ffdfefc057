import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from anchordetr_jax.detection.boxes import (
    cxcywh_to_xyxy,
    giou,
    iou,
    pairwise_distance,
    pairwise_giou,
)
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")
# The fixture is set once for all examples of a test, which is what is wanted.
law = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

value_and_gradient = jax.jit(jax.value_and_grad(giou))
coordinate = st.floats(0, 1, width=32)
side = st.floats(0.0078125, 1, width=32)


@st.composite
def xyxy(draw):
    left, top = draw(coordinate), draw(coordinate)
    return np.array([left, top, left + draw(side), top + draw(side)])


def test_centre_and_size_become_corners():
    np.testing.assert_allclose(cxcywh_to_xyxy(jnp.array([0.5, 0.4, 0.2, 0.6])), [0.4, 0.1, 0.6, 0.7], atol=EXACT64)


@law
@given(xyxy(), xyxy())
def test_giou_does_not_mind_the_order(a, b):
    np.testing.assert_allclose(giou(a, b), giou(b, a), atol=EXACT64)


@law
@given(xyxy(), xyxy())
def test_giou_lies_between_minus_one_and_iou(a, b):
    overlap = float(iou(a, b))
    assert 0 <= overlap <= 1 + EXACT64
    assert -1 <= float(giou(a, b)) <= overlap + EXACT64


@law
@given(xyxy())
def test_giou_of_a_box_with_itself_is_one(box):
    np.testing.assert_allclose(giou(box, box), 1, atol=EXACT64)


@law
@given(xyxy(), st.tuples(coordinate, coordinate, coordinate, coordinate))
def test_giou_of_a_box_inside_another_is_their_iou(outer, fractions):
    size = np.tile(outer[2:] - outer[:2], 2)
    a, b, c, d = fractions
    inner = np.tile(outer[:2], 2) + size * np.array([min(a, c), min(b, d), max(a, c), max(b, d)])
    np.testing.assert_allclose(giou(inner, outer), iou(inner, outer), atol=EXACT64)


@law
@given(xyxy(), xyxy(), st.floats(0.5, 1000), st.floats(-5, 5))
def test_overlaps_do_not_depend_on_the_unit_or_the_origin(a, b, scale, shift):
    tolerance = EXACT64 * 100  # Shifting by several boxes' lengths loses digits of the corners.
    np.testing.assert_allclose(giou(a * scale + shift, b * scale + shift), giou(a, b), atol=tolerance, rtol=0)


def test_giou_of_distant_boxes_falls_below_zero():
    # Two unit squares, a unit apart: the enclosing box has area 3, of which 1 is covered by neither.
    np.testing.assert_allclose(giou(jnp.array([0.0, 0, 1, 1]), jnp.array([2.0, 0, 3, 1])), -1 / 3, atol=EXACT64)


@law
@given(st.lists(xyxy(), min_size=3, max_size=3), st.lists(xyxy(), min_size=2, max_size=2))
def test_pairs_are_compared_each_with_each(first, second):
    a, b = jnp.array(first), jnp.array(second)
    each = jnp.repeat(a[:, None], 2, axis=1), jnp.repeat(b[None], 3, axis=0)
    np.testing.assert_allclose(pairwise_giou(a, b), giou(*each), atol=EXACT64)
    np.testing.assert_allclose(pairwise_distance(a, b), jnp.abs(each[0] - each[1]).sum(-1), atol=EXACT64)


@pytest.mark.parametrize(
    "other",
    [[0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2], [0.1, 0.5, 0.9, 0.5], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 1.0, 1.0]],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_without_area_give_finite_overlaps_and_gradients(other, dtype):
    point = jnp.full(4, 0.5, dtype)
    value, gradient = value_and_gradient(point, jnp.asarray(other, dtype))
    assert -1 <= value <= 1
    assert np.isfinite(gradient).all()


def test_boxes_of_vanishing_area_give_finite_gradients_in_float32():
    tiny = jnp.array([0.0, 0, 1e-13, 1e-13], jnp.float32)
    assert np.isfinite(value_and_gradient(tiny, tiny)[1]).all()


def test_giou_gradient_matches_finite_differences():
    a, b = jnp.array([0.1, 0.2, 0.5, 0.7]), jnp.array([0.3, 0.1, 0.8, 0.6])
    step = 1e-6
    numeric = [(giou(a + step * e, b) - giou(a - step * e, b)) / (2 * step) for e in jnp.eye(4)]
    np.testing.assert_allclose(value_and_gradient(a, b)[1], numeric, atol=1e-8)  # the differences' own error
