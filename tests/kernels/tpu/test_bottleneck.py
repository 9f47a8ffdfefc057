"""The bottleneck's kernel, interpreted, against the plain bottleneck."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.kernels.tpu import bottleneck_kernel
from anchordetr_jax.kernels.tpu.bottleneck import bottleneck
from anchordetr_jax.kernels.tpu.bottleneck_kernel import fits
from anchordetr_jax.model import resnet
from anchordetr_jax.model.valid_area import StageArea
from tests.arrays import assert_near
from tests.tolerances import EXACT64, GRADIENT64_RELATIVE

pytestmark = pytest.mark.usefixtures("x64")

IMAGES, HEIGHT, WIDTH = 16, 5, 12
SIZES = np.random.default_rng(1).integers(1, (HEIGHT + 1, WIDTH + 1), (IMAGES, 2))


def block_of(channels_in: int, width: int = 64, dilation: int = 1) -> resnet.Bottleneck:
    """Its statistics do not map a padded zero to zero."""
    block = resnet.Bottleneck(channels_in, width, stride=1, dilation=dilation, dtype=jnp.float64, rngs=nnx.Rngs(0))
    for norm in (block.norm1, block.norm2, block.norm3):
        norm.bias[...] = jnp.linspace(-0.5, 0.5, norm.bias[...].size)
        norm.var[...] = jnp.linspace(0.5, 2, norm.bias[...].size)
    return block


def pixels(channels: int, *, images: int = IMAGES) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((images, HEIGHT, WIDTH, channels)))


@pytest.mark.parametrize("channels_in", [64, 256], ids=["projected", "identity"])
@pytest.mark.parametrize("sizes", [SIZES, None], ids=["invariant", "official"])
def test_the_kernel_computes_a_bottleneck(
    channels_in: int, sizes: np.ndarray | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bottleneck_kernel, "_CHUNK", 4)  # Two parts per row.
    block, x = block_of(channels_in), pixels(channels_in)
    area = StageArea(None if sizes is None else jnp.array(sizes))
    computed, expected = bottleneck(block, x, area, interpret=True), resnet.bottleneck(block, x, area)
    if sizes is not None:  # Values in the padding have no meaning.
        computed, expected = area.zero_outside(computed), area.zero_outside(expected)
    assert_near(computed, expected, EXACT64)


def test_the_gradient_is_that_of_the_plain_bottleneck() -> None:
    block, x, area = block_of(256), pixels(256, images=8), StageArea(None)
    graphdef, variables = nnx.split(block)

    def gradients(compute: object) -> list[jax.Array]:
        def total(variables: nnx.State, x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.sin(compute(nnx.merge(graphdef, variables), x, area)))  # type: ignore[operator]

        return jax.tree.leaves(jax.jit(jax.grad(total, argnums=(0, 1)))(variables, x))

    ours, expected = gradients(functools.partial(bottleneck, interpret=True)), gradients(resnet.bottleneck)
    for change, other in zip(ours, expected, strict=True):
        assert np.linalg.norm(change - other) <= GRADIENT64_RELATIVE * np.linalg.norm(other)


@pytest.mark.parametrize(
    ("shape", "width", "expected"),
    [
        ((16, 5, 12, 256), 64, True),
        ((16, 5, 12, 256), 128, False),
        ((4, 5, 12, 256), 64, False),
        ((16, 5, 11, 256), 64, False),
        ((16, 5, 512, 256), 64, False),
    ],
    ids=["fits", "wider", "few images", "odd row", "long row"],
)
def test_what_the_kernel_can_compute(shape: tuple[int, ...], width: int, expected: bool) -> None:
    assert fits(jnp.zeros(shape, jnp.bfloat16), width) == expected


def test_a_bottleneck_that_the_kernel_cannot_compute_is_computed_plainly() -> None:
    block, x, area = block_of(256, dilation=2), pixels(256), StageArea(None)
    assert np.array_equal(bottleneck(block, x, area), resnet.bottleneck(block, x, area))
