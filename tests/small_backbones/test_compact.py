# mypy: disable-error-code="union-attr,index,arg-type"
# Parts that are optional in the types are there in the models made here.
"""The compact backbone's convolution and patches."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from anchordetr_jax.small_backbones.compact import CompactBackbone, Convolution3x3
from tests.tolerances import EXACT64

pytestmark = pytest.mark.usefixtures("x64")


def test_the_matrix_product_is_a_convolution():
    layer = Convolution3x3(4, dtype=jnp.float64, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, 5, 7, 4), jnp.float64)
    kernel = layer.linear.kernel[...].reshape(3, 3, 4, 4)
    convolved = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    expected = np.asarray(convolved) + np.asarray(layer.linear.bias[...])
    assert np.asarray(layer(x)) == pytest.approx(expected, abs=EXACT64)


@pytest.mark.parametrize(("dilation", "last"), [(True, (9, 5)), (False, (5, 3))])
def test_strides_round_sizes_up(dilation, last):
    backbone = CompactBackbone(dilation=dilation, dtype=jnp.float64, rngs=nnx.Rngs(0))
    run = jax.jit(lambda backbone, *images: backbone(*images))
    features, sizes = run(backbone, jnp.zeros((1, 70, 33, 3)), jnp.array([[70, 33]]))
    assert [feature.shape[1:3] for feature in features] == [(18, 9), (9, 5), last]
    assert sizes.tolist() == [list(last)]
