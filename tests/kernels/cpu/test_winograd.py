"""3x3 convolutions by minimal filtering, against plain ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.kernels.cpu import winograd
from anchordetr_jax.model.layers import convolution
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")

CHANNELS_IN, CHANNELS_OUT = 3, 4


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (7, 5), (1, 2)], ids=["whole pairs", "odd", "tiny"])
def test_it_is_the_convolution(height: int, width: int, dilation: int) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, height, width, CHANNELS_IN)))
    kernel = jnp.asarray(rng.standard_normal((3, 3, CHANNELS_IN, CHANNELS_OUT)))
    result = jax.jit(winograd.convolution3x3, static_argnums=2)(x, kernel, dilation)
    expected = convolution(x, kernel, 1, dilation)
    assert np.asarray(result) == pytest.approx(np.asarray(expected), abs=EXACT64)


@pytest.mark.parametrize(
    ("channels", "size", "stride", "dtype", "fits"),
    [
        (128, 12, 1, "float32", True),
        (128, 12, 1, "float64", True),
        (128, 12, 1, "bfloat16", False),
        (128, 12, 2, "float32", False),
        (64, 12, 1, "float32", False),
        (128, 11, 1, "float32", False),
    ],
)
def test_it_is_used_only_where_it_is_faster(channels: int, size: int, stride: int, dtype: str, fits: bool) -> None:
    x = jnp.zeros((1, size, size, channels), dtype)
    assert winograd.fits(x, jnp.zeros((3, 3, channels, channels), dtype), stride) == fits
