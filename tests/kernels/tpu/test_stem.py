"""The stem's kernel, interpreted, against the plain stem (see tests/model/test_torch_operations.py for that)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.kernels.tpu import stem_kernel
from anchordetr_jax.kernels.tpu.stem import stem
from anchordetr_jax.model import resnet
from anchordetr_jax.model.valid_area import StageArea
from tests.arrays import assert_near
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
def layer() -> resnet.Stem:
    """Its statistics do not map a padded zero to zero."""
    layer = resnet.Stem(dtype=jnp.float64, rngs=nnx.Rngs(0))
    layer.norm.bias[...] = jnp.linspace(-0.5, 0.5, 64, dtype=jnp.float64)
    return layer


@pytest.mark.parametrize("invariant", [True, False], ids=["invariant", "official"])
def test_the_kernel_computes_the_stem(layer: resnet.Stem, invariant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stem_kernel, "_CHUNK", 4)  # Two parts per row.
    images, sizes = batch()
    area = StageArea(sizes if invariant else None).strided(2)
    computed = jax.jit(lambda x: stem(layer, x, area, interpret=True))(images)
    assert_near(computed, resnet.stem(layer, images, area), EXACT64)


def test_the_gradient_is_that_of_the_plain_stem(layer: resnet.Stem) -> None:
    images, sizes = batch()
    area = StageArea(sizes).strided(2)
    ours, expected = (
        jax.jit(jax.grad(lambda x, compute=compute: jnp.sum(jnp.sin(compute(layer, x, area)))))(images)
        for compute in (functools.partial(stem, interpret=True), resnet.stem)
    )
    assert_near(ours, expected, EXACT64)


@pytest.mark.parametrize("shape", [(8, 9, 14, 3), (4, 32, 24, 3)], ids=["no whole cells", "few images"])
def test_images_that_do_not_fit_the_kernel_are_computed_plainly(layer: resnet.Stem, shape: tuple[int, ...]) -> None:
    images = jnp.asarray(np.random.default_rng(0).standard_normal(shape))
    area = StageArea(jnp.full((shape[0], 2), 5))
    assert not stem_kernel.fits(images)
    assert np.array_equal(stem(layer, images, area), resnet.stem(layer, images, area))
