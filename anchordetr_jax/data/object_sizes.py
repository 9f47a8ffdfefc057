"""How large the objects of a data set are, relative to their images."""

import math

import numpy as np

from anchordetr_jax.data.source import DetectionSource

RARE = 10
"""Classes with fewer objects do not decide what a small object is."""


def object_sides(dataset: DetectionSource) -> np.ndarray:
    """The square root of the area of each box, relative to the short side of its image; float [number of boxes]."""
    sides = [np.zeros(0)]
    for row in range(len(dataset)):
        boxes = np.asarray(dataset.boxes(row), np.float64)
        sides.append(np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(axis=1)) / min(dataset.sizes[row]))
    return np.concatenate(sides)


def object_labels(dataset: DetectionSource) -> np.ndarray:
    """The class output of each box, in the order of `object_sides`; int [number of boxes]."""
    return np.concatenate([np.zeros(0, int), *(dataset.labels(row) for row in range(len(dataset)))])


def small_object(dataset: DetectionSource) -> float:
    """The side of small objects, relative to the short side of their image.

    It is the largest side of the smallest tenth of all objects, or the usual side in the class with the smallest
    objects, if that is less.
    """
    sides, labels = object_sides(dataset), object_labels(dataset)
    if not len(sides):
        return 1.0
    usual = [np.median(sides[labels == label]) for label in np.unique(labels) if (labels == label).sum() >= RARE]
    return max(float(min([np.quantile(sides, 0.1), *usual])), 1e-3)


def size_spread(dataset: DetectionSource) -> float:
    """How much the sides of objects differ within their class: the standard deviation of their logarithm.

    0.1 means by a tenth. Sides are relative to the short side of the image. Infinite if there are too few objects.
    """
    sides = object_sides(dataset)
    labels, logarithms = object_labels(dataset)[sides > 0], np.log(sides[sides > 0])
    if len(logarithms) < RARE:
        return math.inf
    for label in np.unique(labels):
        logarithms[labels == label] -= logarithms[labels == label].mean()
    return float(logarithms.std())
