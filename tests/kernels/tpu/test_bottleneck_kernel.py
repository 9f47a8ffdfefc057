"""The kernel of a bottleneck, run without a TPU, against the bottleneck as it is defined."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.kernels.forms import Forms
from anchordetr_jax.kernels.tpu import bottleneck_kernel
from anchordetr_jax.kernels.tpu.bottleneck_kernel import fits
from anchordetr_jax.model.resnet import Bottleneck
from anchordetr_jax.model.valid_area import StageArea
from tests.tolerances import EXACT64, GRADIENT64_RELATIVE

pytestmark = pytest.mark.usefixtures("x64")

IMAGES, HEIGHT, WIDTH = 16, 5, 12
SIZES = np.random.default_rng(1).integers(1, (HEIGHT + 1, WIDTH + 1), (IMAGES, 2))


def bottleneck(channels_in: int, width: int = 64, dilation: int = 1) -> Bottleneck:
    """With statistics that do not map a padded zero to zero."""
    block = Bottleneck(
        channels_in, width, stride=1, dilation=dilation, forms=Forms(tpu=True), dtype=jnp.float64, rngs=nnx.Rngs(0)
    )
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
    monkeypatch.setattr(bottleneck_kernel, "_CHUNK", 4)  # Two parts to a row.
    block, x = bottleneck(channels_in), pixels(channels_in)
    area = StageArea(None if sizes is None else jnp.array(sizes))
    computed, expected = block.in_kernel(x, area, interpret=True), block.plain(x, area)
    if sizes is not None:  # Padding comes back as anything.
        computed, expected = area.zero_outside(computed), area.zero_outside(expected)
    assert np.asarray(computed) == pytest.approx(np.asarray(expected), abs=EXACT64)


def test_where_there_is_no_tpu_the_plain_form_computes() -> None:
    block, x, area = bottleneck(256), pixels(256, images=8), StageArea(jnp.array(SIZES[:8]))
    graphdef, variables = nnx.split(block)

    def compute(variables: nnx.State, x: jax.Array, form: str) -> jax.Array:
        return getattr(nnx.merge(graphdef, variables), form)(x, area)

    def total(variables: nnx.State, x: jax.Array, form: str) -> jax.Array:
        return jnp.sum(jnp.sin(compute(variables, x, form)))

    assert np.array_equal(compute(variables, x, "__call__"), compute(variables, x, "plain"))
    changes, expected = (jax.grad(total, argnums=(0, 1))(variables, x, form) for form in ("__call__", "plain"))
    for change, other in zip(jax.tree.leaves(changes), jax.tree.leaves(expected), strict=True):
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


def test_a_bottleneck_that_the_kernel_cannot_compute_is_computed_as_it_is() -> None:
    block, x, area = bottleneck(256, dilation=2), pixels(256), StageArea(None)
    assert np.array_equal(block(x, area), block.plain(x, area))
