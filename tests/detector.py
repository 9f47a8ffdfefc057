"""A checkpoint of a tiny detector with random weights, for tests of what is done with detectors."""

from pathlib import Path

import numpy as np
from flax import nnx

from anchordetr_jax.config import AugmentConfig, Config, ModelConfig
from anchordetr_jax.data.coco import Categories
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.model.definition import ModelDefinition
from anchordetr_jax.training.checkpoint import save_variables

CATEGORIES = Categories(ids=(3, 7), names=("cat", "dog"))
MODEL = ModelConfig(
    backbone="compact",
    num_classes=2,
    num_patterns=2,
    num_anchors=6,
    hidden_dim=32,
    num_heads=2,
    ffn_dim=32,
    encoder_layers=1,
    decoder_layers=2,
)


def save_detector(path: Path, model: ModelConfig = MODEL, categories: Categories | None = CATEGORIES) -> Path:
    """Writes the checkpoint; images are resized to 32 pixels, at most 64."""
    definition = ModelDefinition.abstract(lambda: AnchorDETR(model, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)
    variables = {
        name: rng.uniform(0.1, 0.9, shape.shape).astype(np.float32)
        if name == "anchors"
        else (0.3 * rng.standard_normal(shape.shape)).astype(np.float32)
        for name, shape in definition.shapes.items()
    }
    config = Config(model=model, augment=AugmentConfig(eval_size=32, max_size=64))
    save_variables(path, variables, categories, config)
    return path
