"""Small detectors of every variant, with statistics that a trained backbone could have."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels.building import InitialKeys, ModelDefinition, build
from anchordetr_jax.model import AnchorDETR, resnet
from anchordetr_jax.small_backbones import efficientnet
from anchordetr_jax.small_backbones.efficientnet import Row

VARIANTS: dict[str, dict[str, Any]] = {
    "c5": {"dilation": False},
    "dc5": {},
    "levels3": {"num_feature_levels": 3, "encoder_layers": 2},
    "standard": {"attention": "standard"},
    "no_kernels": {"kernels": "none"},
    "grid": {"spatial_prior": "grid"},
    "compact": {"backbone": "compact"},
    "compact_levels3": {"backbone": "compact", "num_feature_levels": 3, "encoder_layers": 2},
    "efficientnet": {"backbone": "efficientnet_lite0"},
    "efficientnet_levels3": {"backbone": "efficientnet_lite0", "num_feature_levels": 3, "encoder_layers": 2},
}

FEW_BLOCKS = {
    "layer1": (Row(1, 8, 1, 1, 3), Row(2, 8, 1, 2, 3)),
    "layer2": (Row(2, 8, 1, 2, 5),),
    "layer3": (Row(2, 8, 2, 2, 3),),
    "layer4": (Row(2, 16, 1, 2, 3),),
}
"""Of an EfficientNet: every kind of block, once."""


def numbers(path: str, shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """What a trained model could have there. The statistics of a new one map a padded zero to zero, and hide a leak."""
    if path == "anchors" or path.endswith(("/scale", "/var")):
        return generator.uniform(0.1 if path == "anchors" else 0.5, 0.9, shape)
    if len(shape) > 1:
        return generator.normal(0, 1 / np.sqrt(np.prod(shape[:-1])), shape)
    return generator.uniform(-0.5, 0.5, shape)


@pytest.fixture
def small_detector(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AnchorDETR]:
    """Makes a detector with one block per stage: every kind of layer is there, and it compiles in seconds."""
    monkeypatch.setitem(resnet.BLOCKS, "resnet50", (1, 1, 1, 2))
    for name, rows in FEW_BLOCKS.items():
        monkeypatch.setitem(efficientnet.LAYERS, name, rows)

    def make(**settings: Any) -> AnchorDETR:
        config = ModelConfig(
            **{
                "num_classes": 5,
                "num_anchors": 9,
                "num_patterns": 2,
                "hidden_dim": 32,
                "num_heads": 2,
                "ffn_dim": 32,
                "encoder_layers": 1,
                "decoder_layers": 2,
                **settings,
            }
        )
        # Initial weights would be compiled, which takes longer than most tests, and `jnp.asarray` for each shape.
        definition = ModelDefinition.abstract(lambda: build(config, rngs=InitialKeys(0)))
        generator = np.random.default_rng(0)
        return definition.merge(
            {
                path: jax.device_put(numbers(path, leaf.shape, generator).astype(leaf.dtype))
                for path, leaf in definition.shapes.items()
            }
        )

    return make


@pytest.fixture
def pixels() -> Callable[..., jax.Array]:
    """Makes an already normalised image [1,h,w,3]."""

    def make(height: int, width: int, seed: int = 0) -> jax.Array:
        # By numpy, because JAX compiles a program for each size.
        return jax.device_put(np.random.default_rng(seed).standard_normal((1, height, width, 3)))

    return make
