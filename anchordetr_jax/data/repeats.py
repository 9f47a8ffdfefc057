"""Repeat-factor sampling: images with rare classes come more often (LVIS, arXiv 1908.03195, section 5.1)."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.source import DetectionSource

_NAMED = 5
"""Rare classes that a line names."""


class Repeats(NamedTuple):
    """How often the images of a data set come in an epoch."""

    factors: np.ndarray
    """float64 [n], from `repeat_factors`."""
    line: str
    """For the log."""

    @property
    def total(self) -> int:
        """The number of images in an epoch."""
        return round(self.factors.sum())


def repeats_of(source: DetectionSource, threshold: float) -> Repeats | None:
    """For the images of a data set and `data.repeat_threshold`; None if that is 0."""
    if threshold == 0:
        return None
    labels = [source.labels(row) for row in range(len(source))]
    shares = class_shares(labels, source.categories.num_labels)
    factors = repeat_factors(labels, shares, threshold)
    return Repeats(factors, describe_repeats(factors, labels, shares, source.categories, threshold))


def class_shares(labels: Iterable[np.ndarray], num_labels: int) -> np.ndarray:
    """The share of images that have each class, float64 [num_labels]. `labels`: int [m] of each image."""
    images = 0
    with_class = np.zeros(num_labels)
    for of_image in labels:
        images += 1
        with_class[np.unique(of_image)] += 1
    return with_class / max(images, 1)


def repeat_factors(labels: Iterable[np.ndarray], shares: np.ndarray, threshold: float) -> np.ndarray:
    """How often each of n images comes in an epoch, float64 [n]: 1 or more, and a whole number all together.

    The factor of a class is max(1, sqrt(threshold / share)); an image has the largest of its classes. The factors
    are then raised by less than one image all together, so that epochs are equally long.
    """
    of_class = np.sqrt(np.maximum(threshold / np.maximum(shares, np.finfo(float).tiny), 1))
    factors = np.array([of_class[of_image].max(initial=1.0) for of_image in labels])
    return factors * (np.ceil(factors.sum() - 1e-9) / factors.sum())


def repeated_rows(factors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The rows of one epoch in ascending order, each as often as its factor says, rounded up or down at random.

    `factors` is float [n]; the result is int [m], and m is the sum of the factors. The mean over epochs is the factor.
    """
    order = generator.permutation(len(factors))
    ends = np.cumsum(factors[order]) + generator.random()
    ends[-1] = round(factors.sum())
    times = np.zeros(len(factors), int)
    times[order] = np.diff(np.floor(ends), prepend=0).astype(int)
    return np.repeat(np.arange(len(factors)), times)


def describe_repeats(
    factors: np.ndarray, labels: Iterable[np.ndarray], shares: np.ndarray, categories: Categories, threshold: float
) -> str:
    """For the log: how many images come more often because of which classes, and how long an epoch is."""
    is_rare = (shares > 0) & (shares < threshold)
    rare = [label for label in np.argsort(shares, kind="stable").tolist() if is_rare[label]]
    if not rare:
        return f"no class is in less than {threshold:.3g} of the images, so none comes more often"
    repeated = sum(is_rare[of_image].any() for of_image in labels)
    counts = np.round(shares * len(factors)).astype(int)
    names = [f"{categories.name_of(label)} (in {counts[label]})" for label in rare[:_NAMED]]
    names += ["…"] if len(rare) > _NAMED else []
    return (
        f"{repeated} of the images come up to {factors.max():.1f} times in an epoch, which then has "
        f"{round(factors.sum())} images, for {len(rare)} rare class{'es' if len(rare) > 1 else ''}: {', '.join(names)}"
    )
