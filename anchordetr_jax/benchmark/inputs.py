"""What the programs of a measurement compute: the settings, random images and random objects."""

import dataclasses
from typing import Any, Literal

import numpy as np

from anchordetr_jax.config import Config, MatcherConfig, ModelConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.model.anchor_detr import PIXEL_MEAN, PIXEL_STD
from anchordetr_jax.model.resnet import BLOCKS
from anchordetr_jax.verification.cases import ImageTargets
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_state_dict, synthetic_tensor
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS
from anchordetr_jax.weights.state_dict import variables_from_state_dict

MAX_BOXES = 100
"""Targets that each image is padded to."""
OBJECTS_PER_IMAGE = 7
"""The mean of COCO."""


def measured_config(
    *,
    backbone: Literal["resnet50", "resnet101"] = "resnet50",
    dilation: bool = True,
    backend: Literal["host", "device"] = "host",
) -> Config:
    """The official architecture with COCO's 91 class outputs. `backend` is that of the matcher."""
    model = ModelConfig(backbone=backbone, dilation=dilation, num_classes=OFFICIAL_OUTPUTS)
    return Config(model=model, matcher=MatcherConfig(backend=backend))


def with_dtype(config: Config, dtype: Literal["float32", "bfloat16"]) -> Config:
    """The settings with another compute dtype."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))


def network_variables(model: ModelConfig) -> dict[str, Any]:
    """Weights from a fixed seed, by path; activations stay of the order of one.

    They are the official code's synthetic weights wherever it has such a network.
    """
    if model.backbone not in BLOCKS:
        return {path: synthetic_tensor(path, leaf.shape, 0) for path, leaf in definition_of(model).shapes.items()}
    return variables_from_state_dict(synthetic_state_dict(official_shapes(model), 0), model)


def random_batch(images: int, shape: tuple[int, int]) -> tuple[Batch, tuple[ImageTargets, ...]]:
    """Images of noise with random objects; the seed is fixed.

    Args:
        images: how many.
        shape: (height, width) in pixels. No image is padded.

    Returns:
        The batch, whose targets are padded to `MAX_BOXES`, and the same targets without padding.
    """
    rng = np.random.default_rng(0)
    size = (OBJECTS_PER_IMAGE, 2)
    targets = tuple(
        ImageTargets(
            np.concatenate([rng.uniform(0.3, 0.7, size), rng.uniform(0.1, 0.5, size)], -1),
            rng.integers(1, OFFICIAL_OUTPUTS, OBJECTS_PER_IMAGE),
        )
        for _ in range(images)
    )
    boxes, labels = np.zeros((images, MAX_BOXES, 4), np.float32), np.zeros((images, MAX_BOXES), np.int32)
    for i, one in enumerate(targets):
        boxes[i, :OBJECTS_PER_IMAGE], labels[i, :OBJECTS_PER_IMAGE] = one.boxes, one.labels
    sizes = np.tile(np.array(shape, np.int32), (images, 1))
    batch = Batch(
        images=rng.integers(0, 256, (images, *shape, 3), dtype=np.uint8),
        image_sizes=sizes,
        boxes=boxes,
        labels=labels,
        num_boxes=np.full(images, OBJECTS_PER_IMAGE, np.int32),
        rows=np.arange(images, dtype=np.int32),
        valid=np.ones(images, bool),
        original_sizes=sizes,
    )
    return batch, targets


def normalised_images(batch: Batch) -> np.ndarray:
    """The images of a batch as the official code takes them: float32 [B,H,W,3], normalised."""
    mean, std = np.array(PIXEL_MEAN), np.array(PIXEL_STD)
    return ((batch.images / 255 - mean) / std).astype(np.float32)
