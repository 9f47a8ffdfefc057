"""The stem on folded images against the stem as it is defined, which test_torch_operations.py compares with PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.model.forms import Forms
from anchordetr_jax.model.stem import Stem
from anchordetr_jax.model.valid_area import StageArea
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")


@pytest.fixture
def stem() -> Stem:
    """With statistics that do not map a padded zero to zero."""
    stem = Stem(forms=Forms(tpu=True), dtype=jnp.float64, rngs=nnx.Rngs(0))
    stem.norm.bias[...] = jnp.linspace(-0.5, 0.5, 64, dtype=jnp.float64)
    return stem


@pytest.mark.parametrize("sizes", [[[16, 12], [13, 10], [4, 1]], None], ids=["invariant", "official"])
def test_folded_images_change_nothing(stem: Stem, sizes: list[list[int]] | None) -> None:
    images = jnp.asarray(np.random.default_rng(0).standard_normal((3, 32, 24, 3)))
    area = StageArea(None if sizes is None else jnp.array(sizes))
    folded = jax.jit(stem.folded)(images, area)
    assert np.asarray(folded) == pytest.approx(np.asarray(stem.plain(images, area)), abs=EXACT64)


def test_images_that_cannot_be_folded_are_computed_as_they_are(stem: Stem) -> None:
    images = jnp.asarray(np.random.default_rng(0).standard_normal((1, 9, 14, 3)))
    assert stem(images, StageArea(jnp.array([[5, 7]]))).shape == (1, 3, 4, 64)
