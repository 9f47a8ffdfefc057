"""Buckets: the few static image shapes to which batches are padded. Each shape is compiled once.

They are chosen from the image sizes of a data set so that there is little padding.
"""

import numpy as np

from anchordetr_jax.config import AugmentConfig, DataConfig
from anchordetr_jax.data import further
from anchordetr_jax.data.transforms import NUM_UNIFORMS, evaluation_draws, resized_sizes

Buckets = tuple[tuple[int, int], ...]
"""Shapes (H, W) in pixels, ordered by area."""

SAMPLED_DRAWS = 20_000
"""Augmentations that are drawn to see which sizes training shows."""


def choose_buckets(
    sizes: np.ndarray, num_buckets: int, multiple: int = 1, covered: np.ndarray | None = None
) -> Buckets:
    """At most `num_buckets` shapes, such that each of `sizes` (int [n, 2]) fits into one of them.

    Sides are multiples of `multiple`. Every image goes into the smallest bucket that holds it. The shapes are chosen so
    that these buckets have few pixels in all. `covered` (int [m, 2]) are sizes that must fit into a bucket as well, but
    their pixels do not count.
    """
    shapes, counts = np.unique(_round_up(sizes, multiple), axis=0, return_counts=True)
    weights: np.ndarray = counts.astype(np.float64)
    if covered is not None and len(covered):
        shapes = np.concatenate([shapes, _round_up(covered, multiple)])
        shapes, index = np.unique(shapes, axis=0, return_inverse=True)
        weights = np.bincount(index.ravel()[: len(weights)], weights, minlength=len(shapes))
    return _sorted(_refine(_merge(shapes, weights, num_buckets), shapes, weights))


def smallest_bucket(sizes: np.ndarray, buckets: Buckets) -> np.ndarray:
    """int [n]: for each size (int [n, 2]) the first bucket that holds it; -1 where none does."""
    fits = holds(sizes, buckets)
    return np.where(fits.any(axis=1), fits.argmax(axis=1), -1)


def holds(sizes: np.ndarray, buckets: Buckets) -> np.ndarray:
    """bool [n, number of buckets]: whether a bucket holds a size (int [n, 2])."""
    shapes = np.array(buckets)
    return (sizes[:, None, 0] <= shapes[None, :, 0]) & (sizes[:, None, 1] <= shapes[None, :, 1])


def padding_waste(sizes: np.ndarray, buckets: Buckets) -> float:
    """The share of padding in all pixels, where each size (int [n, 2]) is padded to its smallest bucket."""
    padded = np.array(buckets).prod(axis=1)[smallest_bucket(sizes, buckets)].sum()
    return 1.0 - float(np.prod(sizes.astype(np.int64), axis=1).sum() / padded)


def evaluation_buckets(sizes: np.ndarray, data: DataConfig, augment: AugmentConfig) -> Buckets:
    """Buckets for the evaluation of images of the given sizes (before resizing, int [n, 2])."""
    return choose_buckets(evaluation_draws(sizes, augment).size, data.num_buckets, data.shape_multiple)


def training_buckets(sizes: np.ndarray, data: DataConfig, augment: AugmentConfig) -> Buckets:
    """Buckets for training on images of the given sizes (before resizing, int [n, 2]).

    They are chosen for a sample of augmentations, which is always the same. Every size that can be drawn fits a bucket.
    """
    covered = _extremes(sizes, augment)
    return choose_buckets(sampled_sizes(sizes, augment), data.num_buckets, data.shape_multiple, covered=covered)


def sampled_sizes(sizes: np.ndarray, augment: AugmentConfig) -> np.ndarray:
    """Sizes that training shows, int [20000, 2], of images of the given sizes (before resizing, int [n, 2]).

    They are those of a sample of augmentations, which is always the same.
    """
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(sizes))[np.arange(SAMPLED_DRAWS) % len(sizes)]
    uniforms, of_further = rng.random((SAMPLED_DRAWS, NUM_UNIFORMS)), further.random_numbers(rng, SAMPLED_DRAWS)
    first = np.zeros(len(rows), int)
    draws, _ = further.draw_changes(uniforms, of_further, sizes[rows], first, len(sizes), augment)
    return draws.size


def _extremes(sizes: np.ndarray, augment: AugmentConfig) -> np.ndarray:
    """The largest sizes: buckets that hold these hold every size that augmentation can draw."""
    turned = sizes[:, ::-1] if augment.transpose_probability else sizes[:0]
    distinct = np.unique(np.concatenate([sizes, turned]), axis=0)
    short_side = max(augment.train_sizes)  # A smaller one makes no side larger.
    extremes = []
    if augment.crop_probability < 1 or augment.scale_jitter_probability > 0:
        extremes.append(resized_sizes(distinct, short_side, augment.max_size))
    if augment.crop_probability > 0:
        before = np.concatenate([resized_sizes(distinct, short) for short in augment.crop_resize_sizes])
        largest = np.minimum(before, augment.crop_max)
        low, high = np.minimum(largest, augment.crop_min).min(axis=0), largest.max(axis=0)
        widths = np.arange(low[1], high[1] + 1)
        for height in range(low[0], high[0] + 1):
            crops = np.stack([np.full_like(widths, height), widths], axis=1)
            crops = resized_sizes(crops, short_side, augment.max_size)
            upright = crops[:, 0] >= crops[:, 1]
            extremes += [part.max(axis=0, keepdims=True) for part in (crops[upright], crops[~upright]) if len(part)]
    return np.unique(np.concatenate(extremes), axis=0)


def _round_up(sizes: np.ndarray, multiple: int) -> np.ndarray:
    return -(-np.asarray(sizes, np.int64) // multiple) * multiple


def _sorted(shapes: np.ndarray) -> Buckets:
    return tuple(sorted({(int(h), int(w)) for h, w in shapes}, key=lambda shape: (shape[0] * shape[1], shape)))


def _merge(shapes: np.ndarray, weights: np.ndarray, number: int) -> np.ndarray:
    """Joins two shapes at a time, those for which joining adds the fewest pixels, until `number` are left."""
    shapes, weights = shapes.copy(), weights.copy()
    areas = shapes.prod(axis=1).astype(np.float64)

    def costs_with(i: int) -> np.ndarray:
        joined = np.maximum(shapes, shapes[i]).prod(axis=1)
        costs = joined * (weights + weights[i]) - areas * weights - areas[i] * weights[i]
        costs[i] = np.inf
        return costs

    costs = np.stack([costs_with(i) for i in range(len(shapes))])
    alive = len(shapes)
    while alive > number:
        i, j = np.unravel_index(costs.argmin(), costs.shape)
        shapes[i] = np.maximum(shapes[i], shapes[j])
        weights[i] += weights[j]
        areas[i] = shapes[i].prod()
        shapes[j], weights[j], areas[j] = 0, 0, 0
        costs[j, :] = costs[:, j] = np.inf
        updated = np.where(np.isinf(costs[i]), np.inf, costs_with(int(i)))
        costs[i, :] = costs[:, i] = updated
        alive -= 1
    return shapes[shapes[:, 0] > 0]


def _refine(chosen: np.ndarray, shapes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Moves one bucket after another to its best place beside the others, until no move saves pixels."""
    heights, widths = np.unique(shapes[:, 0]), np.unique(shapes[:, 1])
    candidates = np.stack(np.meshgrid(heights, widths, indexing="ij"), axis=-1).reshape(-1, 2)
    areas = candidates.prod(axis=1).astype(np.float64)
    fits = (shapes[None, :, 0] <= candidates[:, None, 0]) & (shapes[None, :, 1] <= candidates[:, None, 1])
    cost = np.inf
    while True:
        before = cost
        for k in range(len(chosen)):
            others = np.delete(chosen, k, axis=0)
            held = (shapes[:, None, 0] <= others[None, :, 0]) & (shapes[:, None, 1] <= others[None, :, 1])
            elsewhere = np.where(held, others.prod(axis=1)[None, :], np.inf).min(axis=1, initial=np.inf)
            possible = np.flatnonzero(fits[:, np.isinf(elsewhere)].all(axis=1))
            padded = np.where(fits[possible], np.minimum(areas[possible, None], elsewhere), elsewhere)
            costs = padded @ weights
            chosen[k], cost = candidates[possible[costs.argmin()]], float(costs.min())
        if cost > before * (1 - 1e-9):
            return chosen
