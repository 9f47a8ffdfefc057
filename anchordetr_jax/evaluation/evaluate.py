"""Detections of every image of a data set, in batches that cannot change them, and COCO's scores for them."""

import collections
import contextlib
import dataclasses
import sys
import time
from typing import Any

import jax
import numpy as np
import tqdm
from absl import logging
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from anchordetr_jax.config import Config
from anchordetr_jax.data.buckets import evaluation_buckets, padding_waste
from anchordetr_jax.data.coco import CocoDataset
from anchordetr_jax.data.loader import eval_batches, reading_problem
from anchordetr_jax.data.transforms import evaluation_draws
from anchordetr_jax.detection.postprocess import Detections, top_detections
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES, Scores, coco_scores
from anchordetr_jax.evaluation.results import ImageDetections, coco_results
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.training.sharding import batch_sharding, global_batch, make_mesh, replicated

BATCHES_IN_FLIGHT = 2
"""Batches handed to the device before the detections of the first are fetched: it computes while the host decodes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What came of evaluating one model."""

    metrics: dict[str, float]
    """COCO's 12 numbers by name, on every process."""
    scores: Scores | None
    """With per-class figures; on process 0 only."""
    results: list[dict[str, Any]]
    """COCO result entries, which `scores` are of; on process 0 only."""
    unreadable: tuple[str, ...]
    """Files that could not be read; they count as images without detections."""
    not_finite: int
    """Detections left out because their score or box was not finite."""
    num_images: int
    padding: float
    """The share of padding in all pixels that the network was given, fillers of batches aside."""
    seconds: float
    """For reading and detecting (and compiling), without the scoring."""
    compilations: int
    """Of the detecting function since the evaluator was made: one for each image shape."""

    @property
    def images_per_second(self) -> float:
        return self.num_images / max(self.seconds, 1e-9)


class Evaluator:
    """Evaluates models on one data set. Make it once; it compiles one function a bucket, whichever weights come.

    Every process of a multi-host run makes one and calls `run` at the same time; each evaluates its share.
    """

    def __init__(self, dataset: CocoDataset, config: Config, mesh: Mesh | None = None):
        """Prepares the evaluation of `dataset`.

        Args:
            dataset: images and annotations.
            config: its `data`, `augment` and `eval` settings are used. `eval.batch_size` is rounded to a multiple of
                the number of devices.
            mesh: the devices that share a batch; all devices by default.
        """
        self.dataset = dataset
        self.mesh = make_mesh(config.mesh) if mesh is None else mesh
        self.config = config
        self.buckets = evaluation_buckets(dataset.sizes, config.data, config.augment)
        self.padding = padding_waste(evaluation_draws(dataset.sizes, config.augment).size, self.buckets)
        self.compilations = 0
        self._detect = jax.jit(self._traced, static_argnums=0, out_shardings=batch_sharding(self.mesh))

    def run(self, model: AnchorDETR, *, progress: bool = True) -> EvaluationResult:
        """Detects on all images and scores the detections.

        Args:
            model: with weights on the mesh of this evaluator, or on local devices (then copied to all of it).
            progress: whether to show a progress bar (on process 0).

        Raises:
            UserError: the model has fewer class outputs than the data set's labels need.
        """
        categories = self.dataset.categories
        if model.config.num_classes < categories.num_labels:
            raise UserError(
                f"The model has {model.config.num_classes} class outputs and the data set's labels need "
                f"{categories.num_labels}: evaluate it on the classes it was trained for."
            )
        started = time.perf_counter()
        images = _gather(self._detect_share(model, progress=progress))
        seconds = time.perf_counter() - started
        self._check_each_image_once(images.rows)
        unreadable = tuple(
            self.dataset.describe(int(row)) for row in sorted(images.rows[(images.rows >= 0) & ~images.readable])
        )

        results: list[dict[str, Any]] = []
        not_finite, scores, failure = 0, None, None
        if jax.process_index() == 0:
            try:
                results, not_finite = coco_results(images, self.dataset.image_ids, categories)
                scores = coco_scores(self.dataset.annotations_file, results, self.dataset.image_ids)
            except Exception as error:  # raised only once the other processes know, or they would wait for ever
                failure = error
        metrics = _from_process_zero(None if scores is None else scores.metrics)
        if failure is not None:
            raise failure
        if not_finite:
            logging.warning("%d detections were left out: their score or box is not finite.", not_finite)
        return EvaluationResult(
            metrics=metrics,
            scores=scores,
            results=results,
            unreadable=unreadable,
            not_finite=not_finite,
            num_images=len(self.dataset),
            padding=self.padding,
            seconds=seconds,
            compilations=self.compilations,
        )

    def _traced(
        self, graphdef: Any, state: Any, images: jax.Array, image_sizes: jax.Array, original_sizes: jax.Array
    ) -> Detections:
        self.compilations += 1  # Python runs only while JAX traces: once for each image shape
        predictions = nnx.merge(graphdef, state)(images, image_sizes)
        return top_detections(
            predictions.logits[-1], predictions.boxes[-1], original_sizes, self.config.eval.max_detections
        )

    def _detect_share(self, model: AnchorDETR, *, progress: bool) -> ImageDetections:
        graphdef, state = nnx.split(model)
        state = self._placed(state)
        in_flight: collections.deque[tuple[np.ndarray, np.ndarray, Detections]] = collections.deque()
        done: list[ImageDetections] = []
        bar = tqdm.tqdm(
            total=len(self.dataset),
            desc="evaluate",
            unit="image",
            disable=not progress or jax.process_index() > 0,
            dynamic_ncols=True,
        )

        def fetch_oldest() -> None:
            rows, readable, detections = in_flight.popleft()
            done.append(ImageDetections(rows, readable, *map(_local_part, detections)))
            for row in rows[(rows >= 0) & ~readable]:
                problem = (
                    reading_problem(self.dataset, int(row)) or f"{self.dataset.describe(int(row))} was not readable."
                )
                bar.write(f"{problem} It counts as an image without detections.", file=sys.stderr)
            bar.set_postfix_str(f"compiled {self.compilations}", refresh=False)
            bar.update(int(np.count_nonzero(rows >= 0)) * jax.process_count())

        batches = eval_batches(
            self.dataset,
            self.config,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            multiple=self.mesh.size,
        )
        with bar, contextlib.closing(batches):
            for batch in batches:
                shared = global_batch((batch.images, batch.image_sizes, batch.original_sizes), self.mesh)
                in_flight.append((batch.rows, batch.valid, self._detect(graphdef, state, *shared)))
                if len(in_flight) > BATCHES_IN_FLIGHT:
                    fetch_oldest()
            while in_flight:
                fetch_oldest()
        return _joined(done)

    def _placed(self, state: Any) -> Any:
        """The weights where the mesh can use them; weights that are split over it stay as they are."""
        devices = set(self.mesh.devices.flat)
        if all(leaf.sharding.device_set == devices for leaf in jax.tree.leaves(state)):
            return state
        return jax.device_put(jax.tree.map(np.asarray, state), replicated(self.mesh))

    def _check_each_image_once(self, rows: np.ndarray) -> None:
        if not np.array_equal(np.sort(rows[rows >= 0]), np.arange(len(self.dataset))):
            raise RuntimeError("the evaluation plan does not hold every image exactly once")


def _local_part(array: jax.Array) -> np.ndarray:
    """This process's share of an array that is split along its first axis, in order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])


def _joined(parts: list[ImageDetections]) -> ImageDetections:
    return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)


def _gather(share: ImageDetections) -> ImageDetections:
    """The shares of all processes, on every process. They are of one size: fillers see to that."""
    if jax.process_count() == 1:
        return share
    return jax.tree.map(lambda array: np.asarray(multihost_utils.process_allgather(array, tiled=True)), share)


def _from_process_zero(metrics: dict[str, float] | None) -> dict[str, float]:
    """Process 0's numbers on every process, to the bit. Raises `UserError` on the others when it has none."""
    if jax.process_count() == 1:
        return metrics or {}
    values = (
        np.full(len(METRIC_NAMES), np.nan) if metrics is None else np.array([metrics[name] for name in METRIC_NAMES])
    )
    # As integers: JAX would cut float64 to float32.
    bits = np.asarray(multihost_utils.broadcast_one_to_all(values.astype(np.float64).view(np.int32)))
    shared = np.ascontiguousarray(bits).view(np.float64)
    if np.isnan(shared).all() and jax.process_index() > 0:
        raise UserError("Process 0 could not score the detections; its own message says why.")
    return dict(zip(METRIC_NAMES, shared.tolist(), strict=True))
