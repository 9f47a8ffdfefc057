"""Tiny detectors for tests of what is done with detectors."""

import dataclasses
from pathlib import Path

import numpy as np

from anchordetr_jax import Detector
from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.config import AugmentConfig, Config, ModelConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.prediction.static_shapes import StaticShapes
from tests.training import tiny

CATEGORIES = Categories(ids=(3, 7), names=("cat", "dog"))
MODEL = dataclasses.replace(tiny.MODEL, num_classes=2, num_patterns=2, num_anchors=6)


class StandInDetector(Detector):
    """A detector of squares without a network: a test gives it its own `predict`."""

    def __init__(self) -> None:
        self.thresholds = None
        self.names, self.category_ids = {0: "square"}, {0: 1}
        self.shapes = StaticShapes(AugmentConfig())


def save_detector(path: Path, model: ModelConfig = MODEL, categories: Categories | None = CATEGORIES) -> Path:
    """Writes a checkpoint with random weights; images are resized to 32 pixels, at most 64."""
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
