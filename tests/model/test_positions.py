"""Position codes against their formulas, and the order of features and points."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.model.positions import cell_centres, grid_logits, grid_points, sine1d, sine2d
from anchordetr_jax.model.valid_area import leading_area
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")


def test_feature_i_is_sine_on_even_and_cosine_on_odd():
    position, features = 0.3, 8
    expected = []
    for i in range(features):
        angle = position * 2 * math.pi / 10000 ** (2 * (i // 2) / features)
        expected.append(math.sin(angle) if i % 2 == 0 else math.cos(angle))
    assert np.asarray(sine1d(jnp.array([position]), features))[0] == pytest.approx(expected, abs=EXACT64)


def test_a_points_code_is_that_of_y_then_that_of_x():
    code = sine2d(jnp.array([[0.2, 0.7]]), 8)
    joined = jnp.concatenate([sine1d(jnp.array([0.7]), 4), sine1d(jnp.array([0.2]), 4)], axis=-1)
    assert np.array_equal(code, joined)


def test_centres_count_valid_cells_only():
    y, x = cell_centres(leading_area(jnp.array([[2, 4]]), (3, 4)), jnp.dtype(jnp.float64))
    assert np.asarray(y[0, :2]) == pytest.approx([0.25, 0.75])
    assert np.asarray(x[0]) == pytest.approx([0.125, 0.375, 0.625, 0.875])


def test_x_varies_slowest_in_the_grid():
    assert grid_points(4).tolist() == [[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]]


def test_a_grid_has_the_nearest_whole_number_of_points_a_side():
    assert len(grid_points(300)) == 17 * 17


@pytest.mark.parametrize("num_anchors", [1, 2, 3, 6, 7, 256, 300])
def test_the_settings_know_how_many_points_a_grid_has(num_anchors):
    config = ModelConfig(spatial_prior="grid", num_anchors=num_anchors)
    assert config.num_anchor_points == len(grid_points(num_anchors))
    assert ModelConfig(num_anchors=num_anchors).num_anchor_points == num_anchors


def test_grid_logits_are_the_inverse_of_the_sigmoid():
    points = grid_points(25)
    assert 1 / (1 + np.exp(-grid_logits(points).astype(np.float64))) == pytest.approx(
        points.astype(np.float64), abs=1e-7
    )
