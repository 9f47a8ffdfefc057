"""A case (architecture, weights, images, targets) and the outputs that an implementation computes for it."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from anchordetr_jax.config import Config
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_image, synthetic_state_dict


class ImageTargets(NamedTuple):
    """The objects of one image."""

    boxes: np.ndarray
    """float64 [n,4], cxcywh relative to the image."""
    labels: np.ndarray
    """int [n]."""


class DetectionArrays(NamedTuple):
    """The D best detections of B images as numpy arrays, best first. Those of a single image have no axis B."""

    scores: np.ndarray
    """float [B,D]."""
    labels: np.ndarray
    """int [B,D]."""
    boxes: np.ndarray
    """float [B,D,4], xyxy in pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What an implementation has to compute."""

    name: str
    config: Config
    """`model.num_classes` is set. Dtype and padding are chosen for the computation."""
    images: tuple[np.ndarray, ...]
    """One array per image: float [h,w,3], already normalised."""
    state_dict: Mapping[str, np.ndarray]
    """The weights by official name."""
    targets: tuple[ImageTargets, ...] = ()
    """One per image. Empty: the case has no training."""
    steps: int = 0
    """Number of optimiser steps on these images."""
    target_sizes: np.ndarray | None = None
    """int [B,2]: detections are scaled to these sizes (h,w) in pixels. None: the sizes of the images."""
    canvas: tuple[int, int] = (0, 0)
    """(H,W) in pixels: the batch is padded at least to this size."""

    @property
    def image_sizes(self) -> np.ndarray:
        """int32 [B,2]."""
        return np.array([image.shape[:2] for image in self.images], np.int32)

    @property
    def is_padded(self) -> bool:
        """Whether any image is smaller than the batch."""
        return bool((self.image_sizes < self.batch_size).any())

    @property
    def batch_size(self) -> tuple[int, int]:
        """(H,W) of the batch: the largest height and width."""
        height, width = np.maximum(self.image_sizes.max(axis=0), self.canvas).tolist()
        return height, width

    @property
    def has_grid(self) -> bool:
        return self.config.model.spatial_prior == "grid"

    def batch(self, dtype: str) -> np.ndarray:
        """The images [B,H,W,3], padded with zeros at the bottom and right."""
        batch = np.zeros((len(self.images), *self.batch_size, 3), dtype)
        for padded, image in zip(batch, self.images, strict=True):
            padded[: image.shape[0], : image.shape[1]] = image
        return batch


def synthetic_case(
    name: str,
    config: Config,
    *,
    weight_seed: int,
    sizes: tuple[tuple[int, int], ...],
    image_seeds: tuple[int, ...],
    targets: tuple[ImageTargets, ...] = (),
    steps: int = 0,
    target_sizes: np.ndarray | None = None,
) -> Case:
    """A case whose weights and images are made from seeds. `sizes` are (h,w) in pixels."""
    images = tuple(synthetic_image(*size, seed) for size, seed in zip(sizes, image_seeds, strict=True))
    return Case(
        name=name,
        config=config,
        images=images,
        state_dict=synthetic_state_dict(official_shapes(config.model), weight_seed),
        targets=targets,
        steps=steps,
        target_sizes=target_sizes,
    )


def synthetic_targets(images: int, seed: int, num_classes: int) -> tuple[ImageTargets, ...]:
    """A few random objects per image."""
    generator = np.random.default_rng(seed)
    targets = []
    for _ in range(images):
        count = int(generator.integers(1, 7))
        centres, sides = generator.uniform(0.25, 0.75, (count, 2)), generator.uniform(0.1, 0.4, (count, 2))
        labels = generator.integers(1, num_classes, count)
        targets.append(ImageTargets(np.concatenate([centres, sides], axis=-1), labels))
    return tuple(targets)


@dataclasses.dataclass(kw_only=True)
class Outputs:
    """Everything that an implementation computed for a case. What it did not compute or keep is empty."""

    stages: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Outputs of the model's parts. `stages.run_stages` says their names and shapes. A stage may be a `sample`."""
    stage_shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Shapes of the whole stages."""
    layers: tuple[int, ...] = ()
    """The decoder layers of `logits` and `boxes`."""
    logits: np.ndarray | None = None
    """[layers,B,Q,K]."""
    boxes: np.ndarray | None = None
    """[layers,B,Q,4], cxcywh."""
    detections: DetectionArrays | None = None
    """The best detections of the last decoder layer."""
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    """Losses of the first step by official name."""
    matches: dict[tuple[int, int], dict[int, int]] = dataclasses.field(default_factory=dict)
    """By decoder layer and image: the query of each target."""
    costs: np.ndarray | None = None
    """[L,B,N,Q]: the matching cost of each target with each query."""
    gradient_norms: dict[str, float] = dataclasses.field(default_factory=dict)
    """Gradient norms of the first step by official name. A shared head has one of its names."""
    step_losses: np.ndarray | None = None
    """[steps]: the total loss before each optimiser step."""
    step_gradient_norms: np.ndarray | None = None
    """[steps]: norm of the whole gradient before clipping."""
    norms_after: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of each tensor after the last step, by official name."""
    tensors_after: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """All tensors or some of them after the last step, by official name."""


def sample(array: np.ndarray, count: int = 256) -> np.ndarray:
    """At most `count` numbers of an array, evenly spread over it."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.linspace(0, max(flat.size - 1, 0), min(count, flat.size)).round().astype(np.int64)]
