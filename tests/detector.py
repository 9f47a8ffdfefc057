"""A checkpoint of a tiny detector with random weights, for tests of what is done with detectors."""

import dataclasses
from pathlib import Path

import numpy as np

from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.config import AugmentConfig, Config, ModelConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.kernels.building import definition_of
from tests.training import tiny

CATEGORIES = Categories(ids=(3, 7), names=("cat", "dog"))
MODEL = dataclasses.replace(tiny.MODEL, num_classes=2, num_patterns=2, num_anchors=6)


def save_detector(path: Path, model: ModelConfig = MODEL, categories: Categories | None = CATEGORIES) -> Path:
    """Writes the checkpoint; images are resized to 32 pixels, at most 64."""
    definition = definition_of(model)
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
