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
from jax.sharding import Mesh

from anchordetr_jax.compilation import CacheHits
from anchordetr_jax.config import Config
from anchordetr_jax.data.batching import describe_plan
from anchordetr_jax.data.buckets import evaluation_buckets, padding_waste
from anchordetr_jax.data.loader import eval_batches, evaluation_plan, reading_problem
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.data.transforms import evaluation_draws
from anchordetr_jax.detection.postprocess import TopDetections, top_detections
from anchordetr_jax.devices import batch_sharding, global_batch, make_mesh, replicated
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import Scores, coco_scores
from anchordetr_jax.evaluation.journal import Journal, fingerprint
from anchordetr_jax.evaluation.processes import agree_on_found, float_type, gather, metrics_of_process_zero
from anchordetr_jax.evaluation.results import DatasetDetections, coco_results, joined
from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.model.anchor_detr import AnchorDETR

BATCHES_IN_FLIGHT = 2
"""Batches handed to the device before the detections of the first are fetched: it computes while the host decodes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """What came of evaluating one model."""

    metrics: dict[str, float]
    """COCO's 12 numbers by name, on every process; {} for images without annotations."""
    scores: Scores | None
    """With per-class figures; on process 0 only, and None without annotations."""
    results: list[dict[str, Any]]
    """COCO result entries, which `scores` are of; on process 0 only."""
    unreadable: tuple[str, ...]
    """Files that could not be read; they count as images without detections."""
    not_finite: int
    """Detections left out because their score or box was not finite."""
    num_images: int
    kept_images: int
    """Images among them whose detections were found in the journal of an evaluation that was stopped."""
    padding: float
    """The share of padding in all pixels that the network was given, fillers of batches aside."""
    seconds: float
    """For reading and detecting (and compiling), without the scoring."""
    compilations: int
    """Of the detecting function since the evaluator was made: one for each shape of a batch."""
    cached_compilations: int
    """Those of them that were found in JAX's persistent cache, and took next to no time."""

    @property
    def images_per_second(self) -> float:
        """Of the images detected on in this run."""
        return (self.num_images - self.kept_images) / max(self.seconds, 1e-9)


class Evaluator:
    """Evaluates models on one data set. Make it once; it compiles one function a bucket, whichever weights come.

    Every process of a multi-host run makes one and calls `run` at the same time; each evaluates its share.
    """

    def __init__(self, dataset: DetectionSource, config: Config, mesh: Mesh | None = None):
        """Prepares the evaluation of `dataset`.

        Args:
            dataset: images, and annotations to score the detections with if it has any.
            config: its `data`, `augment` and `eval` settings are used. `eval.batch_size` is rounded to a multiple of
                the number of devices.
            mesh: the devices that share a batch; all devices by default.
        """
        self.dataset = dataset
        self.mesh = make_mesh(config.mesh) if mesh is None else mesh
        self.config = config
        self.buckets = evaluation_buckets(dataset.sizes, config.data, config.augment)
        self.padding = padding_waste(evaluation_draws(dataset.sizes, config.augment).size, self.buckets)
        self.compilations = self.cached_compilations = 0
        self._detect = jax.jit(
            self._traced,
            static_argnums=0,
            out_shardings=batch_sharding(self.mesh),
            compiler_options=compiler_options(self.mesh.devices.flat[0].platform),
        )

    def describe(self) -> str:
        """Batches, their shapes and their padding, for a line of the log."""
        config, multiple = self.config, self.mesh.size
        return describe_plan(
            evaluation_plan(self.dataset, config, multiple=multiple, equal_memory=config.eval.equal_memory)
        )

    def run(self, model: AnchorDETR, *, progress: bool = True, journal: Journal | None = None) -> EvaluationResult:
        """Detects on all images and scores the detections.

        Args:
            model: with weights on the mesh of this evaluator, or on local devices (then copied to all of it). With a
                journal, every process must hold all of them.
            progress: whether to show a progress bar (on process 0).
            journal: keeps the detections of finished batches, and knows those of an evaluation that was stopped, which
                are not made again. The caller removes it once the results are written.

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
        kept, is_kept = self._kept(model, journal)
        detected = self._detect_share(model, np.flatnonzero(~is_kept), journal, progress=progress)
        parts = [part for part in (kept, detected) if part is not None]
        images = gather(joined(parts) if parts else None)
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
                truth = self.dataset.ground_truth()
                if truth is not None:
                    scores = coco_scores(truth, results, self.dataset.image_ids, name=self.dataset.name)
            except Exception as error:  # raised only once the other processes know, or they would wait for ever
                failure = error
        metrics = metrics_of_process_zero(None if failure else scores.metrics if scores else {})
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
            kept_images=int(is_kept.sum()),
            padding=self.padding,
            seconds=seconds,
            compilations=self.compilations,
            cached_compilations=self.cached_compilations,
        )

    def _kept(self, model: AnchorDETR, journal: Journal | None) -> tuple[DatasetDetections | None, np.ndarray]:
        """The journal's detections that this process contributes, and which images some process has (bool [n])."""
        if journal is None:
            return None, np.zeros(len(self.dataset), bool)
        found = journal.read(fingerprint(model, self.dataset, self.config), len(self.dataset))
        kept, is_kept = agree_on_found(found, len(self.dataset))
        if jax.process_index() == 0:
            for note in journal.notes:
                print(note, file=sys.stderr)
            if is_kept.any():
                print(
                    f"Going on after {is_kept.sum()} of {len(self.dataset)} images: "
                    f"their detections are in {journal.folder}.",
                    file=sys.stderr,
                )
        return kept, is_kept

    def _traced(
        self, graphdef: Any, state: Any, images: jax.Array, image_sizes: jax.Array, original_sizes: jax.Array
    ) -> TopDetections:
        self.compilations += 1  # Python runs only while JAX traces: once for each image shape
        predictions = nnx.merge(graphdef, state)(images, image_sizes)
        return top_detections(
            predictions.logits[-1], predictions.boxes[-1], original_sizes, self.config.eval.max_detections
        )

    def _compiled_once(self, *arguments: Any) -> TopDetections:
        """Detects, and keeps count of what had to be compiled for it."""
        before = self.compilations
        with CacheHits() as hits:
            detections = self._detect(*arguments)
        self.cached_compilations += self.compilations > before and hits.count > 0
        return detections

    def _detect_share(
        self, model: AnchorDETR, wanted: np.ndarray, journal: Journal | None, *, progress: bool
    ) -> DatasetDetections | None:
        """Detections of this process's share of the rows `wanted` (fillers among them); None if none are wanted."""
        if not len(wanted):
            return None
        graphdef, state = nnx.split(model)
        state = self._placed(state)
        in_flight: collections.deque[tuple[np.ndarray, np.ndarray, TopDetections]] = collections.deque()
        done: list[DatasetDetections] = []
        bar = tqdm.tqdm(
            total=len(self.dataset),
            initial=len(self.dataset) - len(wanted),
            desc="evaluate",
            unit="image",
            disable=not progress or jax.process_index() > 0,
            dynamic_ncols=True,
        )

        def fetch_oldest() -> None:
            rows, readable, detections = in_flight.popleft()
            scores, labels, boxes = map(_local_part, detections)
            done.append(
                DatasetDetections(rows, readable, scores.astype(float_type()), labels, boxes.astype(float_type()))
            )
            if journal is not None:
                journal.add(done[-1])
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
            equal_memory=self.config.eval.equal_memory,
            rows=wanted,
        )
        with contextlib.ExitStack() as stack:
            stack.enter_context(bar)
            stack.enter_context(contextlib.closing(batches))
            if journal is not None:
                stack.callback(journal.flush)  # also when Ctrl-C ends it
            for batch in batches:
                shared = global_batch((batch.images, batch.image_sizes, batch.original_sizes), self.mesh)
                in_flight.append((batch.rows, batch.valid, self._compiled_once(graphdef, state, *shared)))
                if len(in_flight) > BATCHES_IN_FLIGHT:
                    fetch_oldest()
            while in_flight:
                fetch_oldest()
        return joined(done)

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
