"""The plan of batches: which images are in which batch, and in which shape. No pixel is read for it.

Training is one endless stream of images: permutation 0 of the data set, then permutation 1, and so on. Step k takes
`batch_size` images of the stream, from number k * batch_size on. So no image is dropped or repeated. The images at the
end of a permutation that do not fill a step go into the first batches of the next epoch. Within an epoch, images are
grouped so that all images of a batch have one bucket. Everything follows from (seed, epoch) and the image sizes. So
step k is known without the steps before it, and every host makes the same plan.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data import further
from anchordetr_jax.data.buckets import Buckets, holds, smallest_bucket
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.data.mosaic import Mosaics
from anchordetr_jax.data.repeats import repeated_rows
from anchordetr_jax.data.transforms import NUM_UNIFORMS, Draws, evaluation_draws

# Numbers of the independent random streams of one seed.
_ORDER, _AUGMENTATION, _BATCHES, _REPEATS, _FURTHER = 0, 1, 2, 3, 10


class Batch(NamedTuple):
    """What a device gets: B images, padded at the bottom and right to one shape, with at most N boxes each."""

    images: np.ndarray
    """uint8 [B, H, W, 3], RGB"""
    image_sizes: np.ndarray
    """int32 [B, 2]: valid (h, w)"""
    boxes: np.ndarray
    """float32 [B, N, 4]: cxcywh relative to the valid image"""
    labels: np.ndarray
    """int32 [B, N]"""
    num_boxes: np.ndarray
    """int32 [B]: the number of real boxes and labels; the others are padding"""
    rows: np.ndarray
    """int32 [B]: the image's row in its data set; -1: a filler of the batch"""
    valid: np.ndarray
    """bool [B]: False for fillers and for images that could not be read. These have no pixels and no boxes."""
    original_sizes: np.ndarray
    """int32 [B, 2]: (h, w) of the image in its data set, before resizing"""


@dataclasses.dataclass(frozen=True)
class PlannedBatch:
    """A batch whose images are not read yet."""

    rows: np.ndarray
    """int32 [B]: -1 is a filler."""
    draws: Draws
    """What is done to each image."""
    bucket: tuple[int, int]
    """The shape (H, W) to which all images are padded."""
    mosaics: Mosaics | None = None
    """Of the B images; None: no image becomes a mosaic."""


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
    mosaics: Mosaics | None = None
    """Of m * B images; None: no image becomes a mosaic."""

    @property
    def num_steps(self) -> int:
        return len(self.rows)

    @property
    def padding_waste(self) -> float:
        """The share of padding in all pixels of the epoch."""
        padded = np.array(self.buckets).prod(axis=1)[self.bucket].sum() * self.rows.shape[1]
        return 1.0 - float(self.draws.size.astype(np.int64).prod(axis=1).sum() / padded)

    def batch(self, step: int) -> PlannedBatch:
        """The batch of a step. Steps count from the start of training."""
        index, size = step - self.first_step, self.rows.shape[1]
        if not 0 <= index < self.num_steps:
            raise IndexError(f"step {step} is not in this epoch")
        images = np.arange(index * size, (index + 1) * size)
        mosaics = None if self.mosaics is None else self.mosaics.take(images)
        return PlannedBatch(self.rows[index], self.draws.take(images), self.buckets[int(self.bucket[index])], mosaics)


def plan_epoch(
    sizes: np.ndarray,
    *,
    seed: int,
    epoch: int,
    epochs: Epochs,
    augment: AugmentConfig,
    buckets: Buckets,
    factors: np.ndarray | None = None,
) -> EpochPlan:
    """The batches of an epoch: of steps `epochs.steps_before(epoch)` to `epochs.steps_before(epoch + 1) - 1`.

    A very small data set may have none. `sizes` int [n, 2] are the (h, w) of the images in the data set. The
    augmentation of an image depends only on the seed, the permutation and the row. `factors` [n], from
    `repeats.repeat_factors`, say how often an image comes in a permutation, which has `epochs.images` images, each time
    with another resize, crop and flip. None: it comes once.

    Each image goes into the smallest bucket that holds its drawn size. A bucket's images make whole batches. The images
    that remain move to the next larger bucket that holds them. The images that remain in the largest buckets (an
    upright one and a lying one, for example) make the last batches, about one per epoch. Such a batch has the bucket of
    most of its images, and the drawn sizes of the others are reduced to fit. So no further shape is needed.
    """
    n, batch_size = len(sizes), epochs.batch_size
    first, stop = epochs.steps_before(epoch), epochs.steps_before(epoch + 1)
    # Where the batch size has changed, the plan of epoch 0 may begin before position 0, with steps that are over.
    positions = np.arange(epochs.position(first), epochs.position(stop)).clip(min=0)
    rows = np.zeros(len(positions), np.int32)
    uniforms = np.zeros((len(positions), NUM_UNIFORMS))
    further_uniforms = np.zeros((len(positions), further.NUM_UNIFORMS))
    length = epochs.images
    permutations, places = positions // length, positions % length
    for permutation in np.unique(permutations).tolist():
        here = permutations == permutation
        if factors is None:
            members = np.arange(n)
        else:
            members = repeated_rows(factors, _generator(seed, _REPEATS, permutation))
        chosen = _generator(seed, _ORDER, permutation).permutation(length)[places[here]]
        rows[here] = members[chosen]
        uniforms[here] = _generator(seed, _AUGMENTATION, permutation).random((length, NUM_UNIFORMS))[chosen]
        if further.has_further(augment):
            generator = _generator(seed, _FURTHER, permutation)
            further_uniforms[here] = further.random_numbers(generator, length)[chosen]
    draws, mosaics = further.draw_changes(uniforms, further_uniforms, sizes[rows], permutations, n, augment)
    members, bucket, fitted = _group(draws.size, buckets, batch_size)
    order = _generator(seed, _BATCHES, epoch).permutation(stop - first)
    members = members[order]
    draws = dataclasses.replace(draws, size=fitted).take(members.ravel())
    mosaics = None if mosaics is None else mosaics.take(members.ravel())
    return EpochPlan(first, rows[members], draws, bucket[order], buckets, mosaics)


def plan_evaluation(
    sizes: np.ndarray,
    *,
    batch_size: int,
    augment: AugmentConfig,
    buckets: Buckets,
    multiple: int = 1,
    equal_memory: bool = False,
) -> list[PlannedBatch]:
    """Batches that have each of n images (sizes int [n, 2]) once. The largest bucket comes first.

    A batch has `batch_size` images. With `equal_memory`, batches of smaller buckets have more: as many as take the
    memory of `batch_size` images in the largest bucket. No batch has more images than its bucket. Sizes of batches are
    multiples of `multiple` (the number of devices). Dummies (row -1) fill the last batch of a bucket.
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
    """One line for the log: the number of batches, their shapes and the share of padding, fillers included."""
    shapes = sorted({batch.bucket for batch in plan}, key=lambda shape: (shape[0] * shape[1], shape))
    images = sum(int((batch.rows >= 0).sum()) for batch in plan)
    pixels = sum(int(batch.draws.size[batch.rows >= 0].astype(np.int64).prod(axis=1).sum()) for batch in plan)
    padded = sum(len(batch.rows) * batch.bucket[0] * batch.bucket[1] for batch in plan)
    return f"{images} images in {len(plan)} batches of {describe_shapes(shapes)}, {1 - pixels / padded:.1%} padding"


def describe_shapes(shapes: Sequence[tuple[int, int]]) -> str:
    """For messages: the number of shapes and their list."""
    listed = ", ".join(f"{height}x{width}" for height, width in shapes)
    return f"{len(shapes)} shape{'s' if len(shapes) > 1 else ''} ({listed})"


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.default_rng((seed % 2**64, stream, number))


def _group(sizes: np.ndarray, buckets: Buckets, batch_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Makes m batches, each of one bucket, out of m * B images.

    Returns the images of each batch [m, B], its bucket [m], and the sizes (int [m * B, 2]), a few of them reduced.
    """
    sizes = sizes.copy()
    fits = holds(sizes, buckets)
    homeless = ~fits.any(axis=1)  # None are, where the buckets were chosen for these images and settings.
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
        # The images that do not fill a batch move on. Those move whose next larger bucket is the nearest.
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
    """Sizes (int [n, 2]) that a bucket does not hold, with both sides reduced by the same factor until it does."""
    height, width = bucket
    factor = np.minimum(1, np.minimum(height / sizes[:, 0], width / sizes[:, 1]))[:, None]
    return np.maximum(np.floor(sizes * factor + 1e-9), 1).astype(sizes.dtype)
