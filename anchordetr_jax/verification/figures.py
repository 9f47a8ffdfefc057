"""A case (an architecture, weights, images, targets) and the figures that an implementation computes of it."""

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


class Detected(NamedTuple):
    """The best detections of B images, best first; of a single one without the axis B."""

    scores: np.ndarray
    """float [B,D]."""
    labels: np.ndarray
    """int [B,D]."""
    boxes: np.ndarray
    """float [B,D,4], xyxy in pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """What is computed."""

    name: str
    config: Config
    """`model.num_classes` set; dtype and padding are chosen when it is computed."""
    images: tuple[np.ndarray, ...]
    """Of each image, float [h,w,3], already normalised."""
    state_dict: Mapping[str, np.ndarray]
    """The weights, by official name."""
    targets: tuple[ImageTargets, ...] = ()
    """One an image, or none where nothing is trained."""
    steps: int = 0
    """How many optimiser steps are taken on these images, one after the other."""
    target_sizes: np.ndarray | None = None
    """int [B,2]: (h,w) that detections are scaled to. None: the images' own."""
    canvas: tuple[int, int] = (0, 0)
    """(H,W) that the batch is padded to, where no image is larger."""

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
    """A case whose weights and images follow from seeds. `sizes` are (h,w)."""
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
    """A few random objects an image."""
    generator = np.random.default_rng(seed)
    targets = []
    for _ in range(images):
        count = int(generator.integers(1, 7))
        centres, sides = generator.uniform(0.25, 0.75, (count, 2)), generator.uniform(0.1, 0.4, (count, 2))
        labels = generator.integers(1, num_classes, count)
        targets.append(ImageTargets(np.concatenate([centres, sides], axis=-1), labels))
    return tuple(targets)


@dataclasses.dataclass(kw_only=True)
class Figures:
    """What an implementation found. Whatever was not computed, or not kept, is empty."""

    stages: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Outputs of the parts, named and laid out as `stages.run_stages` says (maybe only `sample`s of them)."""
    stage_shapes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    """Their shapes; of a stage that is not sampled, its array's."""
    layers: tuple[int, ...] = ()
    """The decoder layers that `logits` and `boxes` are of."""
    logits: np.ndarray | None = None
    """[layers,B,Q,K]."""
    boxes: np.ndarray | None = None
    """[layers,B,Q,4], cxcywh."""
    detections: Detected | None = None
    losses: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of the first step, by official name."""
    matches: dict[tuple[int, int], dict[int, int]] = dataclasses.field(default_factory=dict)
    """By decoder layer and image: the query of each target."""
    costs: np.ndarray | None = None
    """[L,B,N,Q]: what matching the pairs costs."""
    gradient_norms: dict[str, float] = dataclasses.field(default_factory=dict)
    """Of the first step, by official name; a shared head may stand under any one of its names."""
    step_losses: np.ndarray | None = None
    """[steps]: the total loss before each optimiser step."""
    step_gradient_norms: np.ndarray | None = None
    """[steps]: of the whole gradient, before clipping."""
    norms_after: dict[str, float] = dataclasses.field(default_factory=dict)
    """Norm of every tensor after the last step, by official name."""
    tensors_after: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """Tensors after the last step, by official name; all or some."""


def sample(array: np.ndarray, count: int = 256) -> np.ndarray:
    """At most so many numbers of an array, evenly spread over it."""
    flat = np.asarray(array).reshape(-1)
    return flat[np.linspace(0, max(flat.size - 1, 0), min(count, flat.size)).round().astype(np.int64)]
