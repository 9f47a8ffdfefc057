"""Planned batches with pixels in them. Grain's threads or processes read them ahead.

Nothing here has a state to save: the number of a step alone says which batch it gets.
"""

import copy
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import grain
import jax
import numpy as np
from absl import flags

from anchordetr_jax.config import Config, DataConfig
from anchordetr_jax.data.batching import (
    Batch,
    EpochPlan,
    PlannedBatch,
    describe_shapes,
    plan_epoch,
    plan_evaluation,
)
from anchordetr_jax.data.buckets import evaluation_buckets, sampled_sizes, training_buckets
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.data.erasing import erase
from anchordetr_jax.data.image_shapes import shown_ratios
from anchordetr_jax.data.mosaic import PIECES, Labelled, compose
from anchordetr_jax.data.repeats import repeats_of
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.data.transforms import apply_draw, relative_boxes, transpose, turn_upside_down
from anchordetr_jax.errors import UserError

BOXES_MULTIPLE = 4
"""The number of boxes is padded to a multiple of this. So data sets that differ little compile to the same shapes."""

Element = TypeVar("Element")


class ReadAhead(Iterator[Element], Generic[Element]):
    """`load(start)`, `load(start + 1)`, … up to `load(stop - 1)`, in this order. The next ones are loaded meanwhile.

    Its threads and processes end after the last element, or when it is closed.
    """

    def __init__(self, load: Callable[[int], Element], start: int, stop: int, data: DataConfig):
        self._left = max(stop - start, 0)
        threads = grain.ReadOptions(num_threads=min(data.prefetch, 16), prefetch_buffer_size=data.prefetch)
        # Grain's iterator must not end. With the end, its StopIteration would keep the last element, in the shared
        # memory of a worker, until the program ends.
        endless = grain.MapDataset.range(start, sys.maxsize)
        elements = endless.map(functools.partial(_load_before, stop, load)).to_iter_dataset(threads)
        self._shared_memory = data.num_workers > 0
        if self._shared_memory:
            if not flags.FLAGS.is_parsed():  # Grain's worker processes read absl flags.
                flags.FLAGS.mark_as_parsed()
            workers = grain.MultiprocessingOptions(num_workers=data.num_workers, per_worker_buffer_size=data.prefetch)
            elements = elements.mp_prefetch(workers)
        self._elements: Any = iter(elements)

    def __len__(self) -> int:
        """The number of elements that are still to come."""
        return self._left

    def __next__(self) -> Element:
        if self._left == 0:
            self.close()
            raise StopIteration
        element = next(self._elements)
        self._left -= 1
        return jax.tree.map(_owned, element) if self._shared_memory else element

    def close(self) -> None:
        """Stops reading ahead. No more elements come."""
        self._left = 0
        if self._elements is not None:
            self._elements.close()
        self._elements = None


class TrainingBatches:
    """The batches of a whole training, from any step on.

    Each process gets its share of every global batch: process p of P (from 0) gets images p * B / P to
    (p + 1) * B / P - 1.

    Raises `UserError` when the batch size is not a multiple of P, or an image has more boxes than `data.max_boxes`.
    """

    def __init__(
        self,
        source: DetectionSource,
        config: Config,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ):
        self.source, self.config = source, config
        self.share = _share("train.batch_size", config.train.batch_size, process_index, process_count)
        self.max_boxes = padded_boxes(source, config.data, PIECES if config.augment.mosaic_probability else 1)
        self.buckets = training_buckets(source.sizes, config.data, config.augment)
        self._repeats = repeats_of(source, config.data.repeat_threshold)
        self.epochs = Epochs(self._repeats.total if self._repeats else len(source), config.train.batch_size)
        self._plans: dict[int, EpochPlan] = {}

    def with_epochs(self, epochs: Epochs) -> "TrainingBatches":
        """The same images, with other steps for the epochs."""
        other = copy.copy(self)
        other.epochs, other._plans = epochs, {}
        return other

    @property
    def categories(self) -> Categories:
        return self.source.categories

    @property
    def box_counts(self) -> np.ndarray:
        """int64 [n]: the number of boxes of each image."""
        return self.source.box_counts

    def plan(self, epoch: int) -> EpochPlan:
        """All global batches of an epoch."""
        plan = self._plans.get(epoch)
        if plan is None:
            plan = plan_epoch(
                self.source.sizes,
                seed=self.config.train.seed,
                epoch=epoch,
                epochs=self.epochs,
                augment=self.config.augment,
                buckets=self.buckets,
                factors=self._repeats.factors if self._repeats else None,
            )
            # The reading threads work on one epoch, or on two consecutive ones.
            self._plans = {**{e: p for e, p in self._plans.items() if abs(e - epoch) <= 1}, epoch: plan}
        return plan

    def load(self, step: int) -> tuple[int, Batch]:
        """The step, and this process's share of its batch."""
        planned = self.plan(self.epochs.epoch_of_step(step)).batch(step)
        return step, load_batch(self.source, planned, self.max_boxes, self.share)

    def batches(self, first_step: int = 0, stop_step: int | None = None) -> ReadAhead[tuple[int, Batch]]:
        """(step, this process's share of its batch) from `first_step` on, to `stop_step - 1` or the end of training."""
        stop = self.epochs.steps_before(self.config.train.epochs) if stop_step is None else stop_step
        return ReadAhead(self.load, first_step, stop, self.config.data)

    def shown_ratios(self) -> tuple[float, ...]:
        """The shapes of the images as training shows them, see `image_shapes.shown_ratios`."""
        return shown_ratios(sampled_sizes(self.source.sizes, self.config.augment))

    def describe_image(self, row: int) -> str:
        """For messages: the image's file."""
        return self.source.describe(row)

    def reading_problem(self, row: int) -> str | None:
        """One sentence that names an image and says why it cannot be read. None if it can."""
        return reading_problem(self.source, row)

    def describe(self) -> str:
        """One line for the log: the number of images and boxes, the shapes, the share of padding, repeated images."""
        counts, waste = self.source.box_counts, self.plan(self.epochs.epoch_of_step(0)).padding_waste
        return (
            f"{len(counts)} images with {counts.sum()} boxes, at most {counts.max()} in one; "
            f"batches of {describe_shapes(self.buckets)}, {waste:.1%} padding"
            + (f"; {self._repeats.line}" if self._repeats else "")
        )


def evaluation_plan(
    source: DetectionSource,
    config: Config,
    *,
    multiple: int | None = None,
    equal_memory: bool = False,
    rows: np.ndarray | None = None,
) -> list[PlannedBatch]:
    """All global batches of an evaluation; see `plan_evaluation`.

    Every batch has `eval.batch_size` images, fillers included, unless `multiple` (the number of devices of all
    processes) allows other sizes. With `rows` (int [m]) only these images are in the plan, in the shapes for all.
    """
    chosen = np.arange(len(source)) if rows is None else rows
    plan = plan_evaluation(
        source.sizes[chosen],
        batch_size=config.eval.batch_size,
        augment=config.augment,
        buckets=evaluation_buckets(source.sizes, config.data, config.augment),
        multiple=config.eval.batch_size if multiple is None else multiple,
        equal_memory=equal_memory,
    )
    return [
        dataclasses.replace(batch, rows=np.where(batch.rows < 0, -1, chosen[batch.rows]).astype(np.int32))
        for batch in plan
    ]


def eval_batches(
    source: DetectionSource,
    config: Config,
    *,
    process_index: int = 0,
    process_count: int = 1,
    multiple: int | None = None,
    equal_memory: bool = False,
    rows: np.ndarray | None = None,
    start: int = 0,
) -> ReadAhead[Batch]:
    """This process's share of the batches of `evaluation_plan`, from batch number `start` on.

    Raises `UserError` when a batch cannot be divided among the processes.
    """
    plan = evaluation_plan(source, config, multiple=multiple, equal_memory=equal_memory, rows=rows)
    shares = [_share("eval.batch_size", len(batch.rows), process_index, process_count) for batch in plan]
    # Nothing is trained on these boxes, so `data.max_boxes` does not count.
    load = functools.partial(_load_planned, source, plan, shares, _rounded_up(int(source.box_counts.max())))
    return ReadAhead(load, start, len(plan), config.data)


def _load_planned(
    source: DetectionSource, plan: list[PlannedBatch], shares: list[slice], max_boxes: int, number: int
) -> Batch:
    return load_batch(source, plan[number], max_boxes, shares[number])


def load_batch(source: DetectionSource, planned: PlannedBatch, max_boxes: int, share: slice = slice(None)) -> Batch:
    """Reads the images of a planned batch, or of a slice of it, and augments them as planned.

    An image that cannot be read stays empty and is marked as not valid; `reading_problem` says why.
    """
    rows = planned.rows[share]
    indices = np.arange(len(planned.rows))[share]
    (height, width), number = planned.bucket, len(rows)
    batch = Batch(
        images=np.zeros((number, height, width, 3), np.uint8),
        image_sizes=np.tile(np.array(planned.bucket, np.int32), (number, 1)),
        boxes=np.zeros((number, max_boxes, 4), np.float32),
        labels=np.zeros((number, max_boxes), np.int32),
        num_boxes=np.zeros(number, np.int32),
        rows=rows.astype(np.int32),
        valid=np.zeros(number, bool),
        original_sizes=np.tile(np.array(planned.bucket, np.int32), (number, 1)),
    )
    for place, (row, index) in enumerate(zip(rows.tolist(), indices.tolist(), strict=True)):
        if row < 0:
            continue
        batch.original_sizes[place] = source.sizes[row]
        loaded = _load_image(source, planned, index)
        if loaded is None:
            continue
        pixels, boxes, labels = loaded
        batch.images[place, : pixels.shape[0], : pixels.shape[1]] = pixels
        batch.image_sizes[place] = pixels.shape[:2]
        batch.boxes[place, : len(boxes)] = relative_boxes(boxes, pixels.shape[:2])
        batch.labels[place, : len(boxes)] = labels
        batch.num_boxes[place] = len(boxes)
        batch.valid[place] = True
    return batch


def _load_image(source: DetectionSource, planned: PlannedBatch, index: int) -> Labelled | None:
    """An image of a batch, augmented as planned. None if it cannot be read."""
    draw, mosaics = planned.draws[index], planned.mosaics
    first = _read(source, int(planned.rows[index]), transposed=draw.transposed)
    if first is None:
        return None
    if mosaics is not None and mosaics.present[index] and min(draw.size) > 1:
        others = [_read(source, row, transposed=draw.transposed) for row in mosaics.partners[index].tolist()]
        image = compose([first, *others], draw.size, mosaics.uniforms[index], mosaics.flip_probability)
    else:
        image = apply_draw(*first, draw)
    if draw.erased is not None:
        image = erase(*image, draw.erased)
    if draw.upside_down:
        pixels, boxes, labels = image
        image = (*turn_upside_down(pixels, boxes), labels)
    return image


def _read(source: DetectionSource, row: int, *, transposed: bool) -> Labelled | None:
    try:
        image, boxes = source.open_image(row), source.boxes(row)
    except UserError:
        return None
    if transposed:
        image, boxes = transpose(image, boxes)
    return image, boxes, source.labels(row)


def _load_before(stop: int, load: Callable[[int], Element], number: int) -> Element | int:
    return load(number) if number < stop else number


def _owned(leaf: Any) -> Any:
    """A copy of an array, since an array in the shared memory of a worker keeps that memory."""
    return np.array(leaf) if isinstance(leaf, np.ndarray) else leaf


def reading_problem(source: DetectionSource, row: int) -> str | None:
    """One sentence that names an image and says why it cannot be read. None if it can."""
    try:
        source.open_image(row)
    except UserError as error:
        return str(error)
    return None


def padded_boxes(source: DetectionSource, data: DataConfig, pieces: int = 1) -> int:
    """The number of boxes to which every image is padded, if it may consist of `pieces` images of the data set.

    Raises `UserError` naming the image that has more than `data.max_boxes`.
    """
    fullest = int(source.box_counts.argmax())
    most = int(source.box_counts[fullest])
    if data.max_boxes == 0:
        return _rounded_up(most * pieces)
    if pieces > 1 and most * pieces > data.max_boxes:
        raise UserError(
            f"A mosaic of {pieces} images can have {most * pieces} boxes but data.max_boxes is {data.max_boxes}; set "
            "it to 0, or augment.mosaic_probability to 0."
        )
    if most > data.max_boxes:
        raise UserError(
            f"Image {source.describe(fullest)} has {most} boxes but data.max_boxes is {data.max_boxes}; "
            f"set it to at least {most}, or to 0 for the number that the data set needs."
        )
    return data.max_boxes


def _rounded_up(boxes: int) -> int:
    return max(-(-boxes // BOXES_MULTIPLE), 1) * BOXES_MULTIPLE


def _share(setting: str, batch_size: int, process_index: int, process_count: int) -> slice:
    if batch_size % process_count:
        raise UserError(
            f"A batch of {batch_size} images cannot be divided among {process_count} processes; set {setting} to a "
            f"multiple of {process_count}."
        )
    each = batch_size // process_count
    return slice(process_index * each, (process_index + 1) * each)
