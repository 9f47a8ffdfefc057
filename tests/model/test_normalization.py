"""Normalisation layers against numpy, and with padding against without."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.model.normalization import EPSILON, FrozenBatchNorm, GroupNorm, LayerNorm
from anchordetr_jax.model.valid_area import leading_area
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")


def randomised(layer):
    """The layer with other parameters than ones and zeros."""
    for i, name in enumerate(("scale", "bias", "mean", "var")):
        if hasattr(layer, name):
            variable = getattr(layer, name)
            variable[...] = jax.random.uniform(jax.random.key(i), variable[...].shape, jnp.float64, 0.5, 1.5)
    return layer


def values(*shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(9), shape, jnp.float64)


def test_frozen_batch_norm_uses_its_own_statistics():
    norm = randomised(FrozenBatchNorm(4, dtype=jnp.float64))
    x = values(2, 3, 3, 4)
    scale, bias, mean, var = (np.asarray(v[...]) for v in (norm.scale, norm.bias, norm.mean, norm.var))
    expected = (np.asarray(x) - mean) / np.sqrt(var + EPSILON) * scale + bias
    assert np.asarray(norm(x)) == pytest.approx(expected, abs=EXACT64)


def test_layer_norm_is_over_the_channels_of_a_cell():
    norm = randomised(LayerNorm(6, dtype=jnp.float64))
    x = np.asarray(values(2, 5, 6))
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + EPSILON)
    expected = normal * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    assert np.asarray(norm(jnp.asarray(x))) == pytest.approx(expected, abs=EXACT64)


def test_group_norm_of_a_padded_image_is_that_of_the_image():
    norm = randomised(GroupNorm(2, 8, dtype=jnp.float64))
    x = values(1, 5, 6, 8)
    alone = norm(x[:, :3, :4], None)
    padded = norm(x, leading_area(jnp.array([[3, 4]]), (5, 6)))
    assert np.asarray(padded[:, :3, :4]) == pytest.approx(np.asarray(alone), abs=EXACT64)


def test_group_norm_is_over_the_channels_of_a_group():
    norm = GroupNorm(2, 8, dtype=jnp.float64)
    x = np.asarray(values(1, 3, 4, 8))
    group = x[..., :4]
    expected = (group - group.mean()) / np.sqrt(group.var() + EPSILON)
    assert np.asarray(norm(jnp.asarray(x), None))[..., :4] == pytest.approx(expected, abs=EXACT64)
