"""A detector that is small enough to be written to files again and again."""

from collections.abc import Iterator

import numpy as np
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.model import resnet
from anchordetr_jax.weights import architecture
from anchordetr_jax.weights.state_dict import state_dict_from_variables

SMALL = ModelConfig(
    num_classes=91, num_anchors=5, num_patterns=2, hidden_dim=32, ffn_dim=32, encoder_layers=1, decoder_layers=2
)


@pytest.fixture(scope="module")  # Definitions are kept from test to test: making one takes a second.
def small_resnet() -> Iterator[None]:
    """Backbones have one block per stage, and are recognised by that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(resnet.BLOCKS, "resnet50", (1, 1, 1, 1))
        patch.setitem(architecture.DEPTHS, 1, "resnet50")
        definition_of.cache_clear()
        yield
        definition_of.cache_clear()


def random_variables(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random numbers by variable path."""
    generator = np.random.default_rng(0)
    shapes = definition_of(config).shapes
    return {path: generator.standard_normal(leaf.shape, np.float32) for path, leaf in shapes.items()}


def random_state_dict(config: ModelConfig = SMALL) -> dict[str, np.ndarray]:
    """Random numbers by official name."""
    return state_dict_from_variables(random_variables(config), config)
