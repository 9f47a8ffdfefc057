"""Which images make up which batch, in which shape: decided for a whole epoch before a pixel is read.

Training is one endless stream of images: permutation 0 of the data set, then permutation 1, and so on. Step k takes the
`batch_size` images from k * batch_size on, so no image is dropped or doubled, whatever the sizes; what is left of a
permutation when no whole step fits goes into the first batches of the next epoch. Within an epoch the images are then
regrouped so that each batch is of one bucket. Everything follows from (seed, epoch) and the image sizes, so step k is
known without the steps before it, and every host finds the same.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data.buckets import Buckets, holds, smallest_bucket
from anchordetr_jax.data.transforms import NUM_UNIFORMS, Draw, Draws, draw_augmentations, evaluation_draws

# Independent random streams of one seed.
_ORDER, _AUGMENTATION, _BATCHES = range(3)


class Batch(NamedTuple):
    """What the device gets: B images padded at the bottom and right to one shape, N boxes at most."""

    images: np.ndarray
    """uint8 [B, H, W, 3], RGB"""
    image_sizes: np.ndarray
    """int32 [B, 2]: valid (h, w)"""
    boxes: np.ndarray
    """float32 [B, N, 4]: cxcywh relative to the valid image"""
    labels: np.ndarray
    """int32 [B, N]"""
    num_boxes: np.ndarray
    """int32 [B]: the first so many rows of boxes and labels are real"""
    rows: np.ndarray
    """int32 [B]: the image's row in its data set; -1: a dummy that fills the batch"""
    valid: np.ndarray
    """bool [B]: False for dummies and for images that could not be read. These have no pixels and no boxes."""
    original_sizes: np.ndarray
    """int32 [B, 2]: (h, w) of the image as stored"""


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """A batch before its images are read."""

    rows: np.ndarray
    """int32 [B]: -1 is a dummy."""
    draws: Draws
    """What is done to each image."""
    bucket: tuple[int, int]
    """The shape (H, W) that all are padded to."""


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """All m training batches of one epoch."""

    first_step: int
    rows: np.ndarray
    """int32 [m, B]"""
    draws: Draws
    """Of m * B images, batch after batch."""
    bucket: np.ndarray
    """int [m]: index into `buckets`"""
    buckets: Buckets

    @property
    def num_steps(self) -> int:
        return len(self.rows)

    @property
    def padding_waste(self) -> float:
        """The share of padding in all pixels of the epoch."""
        padded = np.array(self.buckets).prod(axis=1)[self.bucket].sum() * self.rows.shape[1]
        return 1.0 - float(self.draws.size.astype(np.int64).prod(axis=1).sum() / padded)

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step, counted from the start of training."""
        index, size = step - self.first_step, self.rows.shape[1]
        if not 0 <= index < self.num_steps:
            raise IndexError(f"step {step} is not of this epoch")
        draws = self.draws.take(np.arange(index * size, (index + 1) * size))
        return PlannedBatch(self.rows[index], draws, self.buckets[int(self.bucket[index])])

    def draw(self, step: int, index: int) -> Draw:
        """What is done to one image of a step."""
        return self.batch(step).draws[index]


def steps_before(epoch: int, num_images: int, batch_size: int) -> int:
    """Steps of training before an epoch begins; so also: all steps of training for so many epochs."""
    return epoch * num_images // batch_size


def epoch_of_step(step: int, num_images: int, batch_size: int) -> int:
    """The epoch (from 0) in whose plan a step is."""
    return -(-(step + 1) * batch_size // num_images) - 1


def plan_epoch(
    sizes: np.ndarray, *, seed: int, epoch: int, batch_size: int, augment: AugmentConfig, buckets: Buckets
) -> EpochPlan:
    """The batches of steps `steps_before(epoch)` to `steps_before(epoch + 1) - 1`; none, if the data set is that small.

    `sizes` int [n, 2] are the stored images' (h, w). An image's augmentation depends on seed, permutation and row only.

    Each image goes into the smallest of `buckets` that holds it in its drawn size. Those that are left over when whole
    batches have been made of a bucket's images move to the next larger bucket that holds them. What is left in the end
    (in the largest upright and the largest lying bucket, say) fills one batch or so of the epoch, in the bucket of most
    of them; the others' drawn size is reduced to fit it, so that no further shape is needed.
    """
    n = len(sizes)
    first, stop = (steps_before(e, n, batch_size) for e in (epoch, epoch + 1))
    positions = np.arange(first * batch_size, stop * batch_size)
    rows = np.zeros(len(positions), np.int32)
    uniforms = np.zeros((len(positions), NUM_UNIFORMS))
    permutations, places = positions // n, positions % n
    for permutation in np.unique(permutations).tolist():
        here = permutations == permutation
        rows[here] = _generator(seed, _ORDER, permutation).permutation(n)[places[here]]
        uniforms[here] = _generator(seed, _AUGMENTATION, permutation).random((n, NUM_UNIFORMS))[rows[here]]
    draws = draw_augmentations(uniforms, sizes[rows], augment)
    members, bucket, fitted = _group(draws.size, buckets, batch_size)
    order = _generator(seed, _BATCHES, epoch).permutation(stop - first)
    members = members[order]
    draws = dataclasses.replace(draws, size=fitted).take(members.ravel())
    return EpochPlan(first, rows[members], draws, bucket[order], buckets)


def plan_evaluation(
    sizes: np.ndarray,
    *,
    batch_size: int,
    augment: AugmentConfig,
    buckets: Buckets,
    multiple: int = 1,
    equal_memory: bool = False,
) -> list[PlannedBatch]:
    """Batches in which each of n images (stored sizes int [n, 2]) is once, by bucket, the largest bucket first.

    Dummies (row -1) fill the last batch of a bucket. A bucket's batches hold `batch_size` images; with `equal_memory`
    as many more as take the memory of `batch_size` in the largest bucket; but no more than the bucket has images. All
    are rounded to a multiple of `multiple` (the number of devices).
    """
    draws = evaluation_draws(sizes, augment)
    home = smallest_bucket(draws.size, buckets)
    largest = max(height * width for height, width in buckets)
    batches = []
    for index in reversed(range(len(buckets))):
        members = np.flatnonzero(home == index)
        height, width = buckets[index]
        size = batch_size * largest // (height * width) if equal_memory else batch_size
        size = min(max(size // multiple, 1) * multiple, -(-len(members) // multiple) * multiple)
        for start in range(0, len(members), max(size, 1)):
            chosen = members[start : start + size]
            rows = np.full(size, -1, np.int32)
            rows[: len(chosen)] = chosen
            batches.append(PlannedBatch(rows, draws.take(rows), buckets[index]))
    return batches


def describe_plan(plan: Sequence[PlannedBatch]) -> str:
    """Batches, their shapes and how much of them is padding (fillers included), for a line of the log."""
    shapes = sorted({batch.bucket for batch in plan}, key=lambda shape: (shape[0] * shape[1], shape))
    images = sum(int((batch.rows >= 0).sum()) for batch in plan)
    pixels = sum(int(batch.draws.size[batch.rows >= 0].astype(np.int64).prod(axis=1).sum()) for batch in plan)
    padded = sum(len(batch.rows) * batch.bucket[0] * batch.bucket[1] for batch in plan)
    return f"{images} images in {len(plan)} batches of {describe_shapes(shapes)}, {1 - pixels / padded:.1%} padding"


def describe_shapes(shapes: Sequence[tuple[int, int]]) -> str:
    """For messages: how many shapes, and which."""
    listed = ", ".join(f"{height}x{width}" for height, width in shapes)
    return f"{len(shapes)} shape{'s' if len(shapes) > 1 else ''} ({listed})"


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed % 2**64, stream, number))


def _group(sizes: np.ndarray, buckets: Buckets, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes m batches of one bucket each out of m * B images.

    Returns the images of each batch [m, B], its bucket [m], and the sizes, of which a few are reduced (int [m * B, 2]).
    """
    sizes = sizes.copy()
    fits = holds(sizes, buckets)
    homeless = ~fits.any(axis=1)  # none, with buckets chosen for these images and settings
    sizes[homeless] = _shrunk(sizes[homeless], buckets[-1])
    fits[homeless, -1] = True
    home = fits.argmax(axis=1)
    groups: list[np.ndarray] = []
    of_bucket: list[int] = []
    left: list[np.ndarray] = []
    for b in range(len(buckets)):
        members = np.flatnonzero(home == b)
        larger = fits[members] & (np.arange(len(buckets)) > b)
        following = np.where(larger.any(axis=1), larger.argmax(axis=1), len(buckets))
        # Of more than whole batches, those move on that have the nearest bucket to go to.
        moving = np.zeros(len(members), bool)
        moving[np.argsort(following, kind="stable")[: len(members) % batch_size]] = True
        home[members[moving]] = following[moving]
        left.append(members[moving & (following == len(buckets))])
        whole = members[~moving].reshape(-1, batch_size)
        groups.extend(whole)
        of_bucket.extend([b] * len(whole))
    while any(len(members) for members in left):
        host = max(range(len(buckets)), key=lambda b: (len(left[b]), b))
        guests = [b for b in sorted(range(len(buckets)), key=lambda b: len(left[b])) if b != host]
        members = np.concatenate([left[host], *(left[b] for b in guests)])[:batch_size]
        sizes[members] = _shrunk(sizes[members], buckets[host])
        groups.append(members)
        of_bucket.append(host)
        left = [remaining[~np.isin(remaining, members)] for remaining in left]
    return np.array(groups, dtype=np.int64).reshape(-1, batch_size), np.array(of_bucket, dtype=np.int64), sizes


def _shrunk(sizes: np.ndarray, bucket: tuple[int, int]) -> np.ndarray:
    """Sizes (int [n, 2]) that a bucket does not hold, reduced in both sides alike until it does."""
    height, width = bucket
    factor = np.minimum(1, np.minimum(height / sizes[:, 0], width / sizes[:, 1]))[:, None]
    return np.maximum(np.floor(sizes * factor + 1e-9), 1).astype(sizes.dtype)
