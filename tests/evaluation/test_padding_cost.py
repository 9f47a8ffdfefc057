"""What invariance to padding costs, by the compiler's own count of operations."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.building import InitialKeys, build

R50_DC5 = ModelConfig(num_classes=91)
MOST_OVERHEAD = 0.03


def flops(network, height, width):
    """Of the forward pass for one image; nothing is compiled or computed, and no weights are made."""
    graphdef, state = nnx.split(nnx.eval_shape(lambda: build(network, rngs=InitialKeys(0), platform="none")))

    def forward(state, images, image_sizes):
        return nnx.merge(graphdef, state)(images, image_sizes)

    images = jax.ShapeDtypeStruct((1, height, width, 3), jnp.uint8)
    lowered = jax.jit(forward).lower(state, images, jax.ShapeDtypeStruct((1, 2), jnp.int32))
    counts = lowered.cost_analysis()
    assert counts is not None
    return counts["flops"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backbone": "compact", "dilation": False, "hidden_dim": 64, "decoder_layers": 2, "encoder_layers": 2},
    ],
    ids=["r50_dc5", "compact"],
)
def test_invariance_to_padding_costs_at_most_three_percent(changes):
    # The official arithmetic knows padding in its attention only, so this counts all that invariance adds.
    network = dataclasses.replace(R50_DC5, **changes)
    invariant = flops(network, 800, 1066)
    official = flops(dataclasses.replace(network, padding="official"), 800, 1066)
    assert 0 < invariant <= official * (1 + MOST_OVERHEAD)
