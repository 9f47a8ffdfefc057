"""The kernel of the stem, run without a TPU, against the stem as it is defined (see test_torch_operations.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.kernels.forms import Forms
from anchordetr_jax.kernels.tpu import stem_kernel
from anchordetr_jax.model.stem import Stem
from anchordetr_jax.model.valid_area import StageArea
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")


def batch() -> tuple[jax.Array, jax.Array]:
    """16 images that are zero in their padding, and their sizes."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, (33, 25), (16, 2))
    inside = [np.arange(length) < sizes[:, axis, None] for axis, length in enumerate((32, 24))]
    images = rng.standard_normal((16, 32, 24, 3)) * (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
    return jnp.asarray(images), jnp.asarray(sizes)


@pytest.fixture
def stem() -> Stem:
    """With statistics that do not map a padded zero to zero."""
    stem = Stem(forms=Forms(tpu=True), dtype=jnp.float64, rngs=nnx.Rngs(0))
    stem.norm.bias[...] = jnp.linspace(-0.5, 0.5, 64, dtype=jnp.float64)
    return stem


@pytest.mark.parametrize("invariant", [True, False], ids=["invariant", "official"])
def test_the_kernel_computes_the_stem(stem: Stem, invariant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem_kernel, "_CHUNK", 4)  # Two parts to a row.
    images, sizes = batch()
    area = StageArea(sizes if invariant else None).halved()
    computed = jax.jit(lambda x: stem.in_kernel(x, area, interpret=True))(images)
    assert np.asarray(computed) == pytest.approx(np.asarray(stem.plain(images, area)), abs=EXACT64)


def test_where_there_is_no_tpu_the_plain_form_computes(stem: Stem) -> None:
    images, sizes = batch()
    assert np.array_equal(stem(images, StageArea(sizes).halved()), stem.plain(images, StageArea(sizes).halved()))


@pytest.mark.parametrize("shape", [(8, 9, 14, 3), (4, 32, 24, 3)], ids=["no whole cells", "few images"])
def test_images_that_do_not_fit_the_kernel_are_computed_as_they_are(stem: Stem, shape: tuple[int, ...]) -> None:
    images = jnp.asarray(np.random.default_rng(0).standard_normal(shape))
    area = StageArea(jnp.full((shape[0], 2), 5))
    assert not stem_kernel.fits(images)
    assert np.array_equal(stem(images, area), stem.plain(images, area))
