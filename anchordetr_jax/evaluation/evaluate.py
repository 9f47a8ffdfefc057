"""From a model and a data set to detections and COCO's scores. Batches do not change the detections."""

import collections
import contextlib
import dataclasses
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.sharding import Mesh
from tqdm.auto import tqdm

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
from anchordetr_jax.evaluation.results import DatasetDetections, coco_results, joined, not_finite_sentence
from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.model.anchor_detr import AnchorDETR

BATCHES_IN_FLIGHT = 2
"""The device gets this number of batches before the detections of the first one are fetched: it computes while the
host decodes images."""
SHOWN_PROBLEMS = 10
"""The number of unreadable images that messages name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of evaluating one model."""

    metrics: dict[str, float]
    """COCO's 12 scores by name, on every process; {} for images without annotations."""
    scores: Scores | None
    """With the scores of each class. None on other processes than 0, and for images without annotations."""
    results: list[dict[str, Any]]
    """COCO result entries, to which `scores` belong; [] on other processes than 0."""
    unreadable: tuple[str, ...]
    """For each image that could not be read, a sentence with its file and the reason. These images count as images
    without detections."""
    not_finite: int
    """The number of detections that are left out because their score or box is not finite."""
    num_images: int
    kept_images: int
    """How many of them have their detections from the journal of a stopped evaluation."""
    padding: float
    """The share of padding in all pixels that the network got, without the fillers of batches."""
    seconds: float
    """Time for reading, compiling and detecting; without the scoring."""
    compilations: int
    """The number of compilations since the evaluator was made: one for each shape of a batch."""
    cached_compilations: int
    """How many of them were found in JAX's persistent cache, and took almost no time."""

    @property
    def images_per_second(self) -> float:
        """Speed, for the images that are detected on in this run."""
        return (self.num_images - self.kept_images) / max(self.seconds, 1e-9)


class Evaluator:
    """Evaluates models on one data set. Make it once: it compiles one function per bucket, for all weights.

    On several hosts every process makes one, and all call `run` at the same time. Each evaluates its share.
    """

    def __init__(self, dataset: DetectionSource, config: Config, mesh: Mesh | None = None):
        """Prepares the evaluation of `dataset`.

        Args:
            dataset: the images. If it has annotations, the detections are scored with them.
            config: its `data`, `augment` and `eval` settings are used. `eval.batch_size` is rounded to a multiple of
                the number of devices.
            mesh: the devices that share a batch. Default: all devices.

        Raises:
            UserError: not a single image can be read.
        """
        _check_an_image_is_readable(dataset)
        self.dataset = dataset
        self.mesh = make_mesh(config.mesh) if mesh is None else mesh
        self.config = config
        self.buckets = evaluation_buckets(dataset.sizes, config.data, config.augment)
        self.padding = padding_waste(evaluation_draws(dataset.sizes, config.augment).size, self.buckets)
        self.compilations = self.cached_compilations = 0
        self._warned: set[str] = set()
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
            model: its weights are on the mesh of this evaluator, or on local devices, from where they are copied to
                the mesh. With a journal, every process must hold all weights.
            progress: whether process 0 shows a progress bar.
            journal: keeps the detections of finished batches. Detections that it has from a stopped evaluation are not
                computed again. The caller removes it after the results are written.

        Raises:
            UserError: the model has fewer class outputs than the labels of the data set need, not a single image can be
                read, or the ground truth cannot be scored.
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
        unreadable_rows = np.sort(images.rows[(images.rows >= 0) & ~images.readable]).tolist()
        if len(unreadable_rows) == len(self.dataset):
            raise _nothing_readable(self.dataset)
        unreadable = tuple(_reading_problem(self.dataset, row) for row in unreadable_rows)

        results: list[dict[str, Any]] = []
        not_finite, scores, failure = 0, None, None
        if jax.process_index() == 0:
            try:
                results, not_finite = coco_results(images, self.dataset.image_ids, categories)
                truth = self.dataset.ground_truth()
                if truth is not None:
                    scores = coco_scores(truth, results, self.dataset.image_ids, name=self.dataset.name)
            except Exception as error:  # It is raised after the other processes know, or they would wait for ever.
                failure = error
        metrics = metrics_of_process_zero(None if failure else scores.metrics if scores else {})
        if failure is not None:
            raise failure
        if jax.process_index() == 0:
            self._warn(unreadable, not_finite, scores)
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

    def _warn(self, unreadable: Sequence[str], not_finite: int, scores: Scores | None) -> None:
        """Logs what makes the scores wrong, or different from what a reader expects: each sentence once."""
        sentences = [] if scores is None else list(scores.notes)
        if unreadable:
            shown = "\n  ".join(unreadable[:SHOWN_PROBLEMS])
            more = len(unreadable) - SHOWN_PROBLEMS
            sentences.append(
                f"{len(unreadable)} of {len(self.dataset)} images could not be read. They count as images without "
                f"detections, so the scores are lower than the model's:\n  {shown}"
                + (f"\n  … and {more} more" if more > 0 else "")
            )
        if not_finite:
            sentences.append(not_finite_sentence(not_finite))
        for sentence in sentences:
            if sentence not in self._warned:
                self._warned.add(sentence)
                logging.warning("%s", sentence)

    def _kept(self, model: AnchorDETR, journal: Journal | None) -> tuple[DatasetDetections | None, np.ndarray]:
        """The detections from the journal that this process gives, and bool [n]: which images any process has."""
        if journal is None:
            return None, np.zeros(len(self.dataset), bool)
        found = journal.read(fingerprint(model, self.dataset, self.config), len(self.dataset))
        kept, is_kept = agree_on_found(found, len(self.dataset))
        if jax.process_index() == 0:
            for note in journal.notes:
                print(note, file=sys.stderr)
            if is_kept.any():
                print(
                    f"The evaluation continues after {is_kept.sum()} of {len(self.dataset)} images, whose detections "
                    f"are in {journal.folder}.",
                    file=sys.stderr,
                )
        return kept, is_kept

    def _traced(
        self, graphdef: Any, state: Any, images: jax.Array, image_sizes: jax.Array, original_sizes: jax.Array
    ) -> TopDetections:
        self.compilations += 1  # Python runs this while JAX traces: once for each shape.
        predictions = nnx.merge(graphdef, state)(images, image_sizes)
        return top_detections(
            predictions.logits[-1], predictions.boxes[-1], original_sizes, self.config.eval.max_detections
        )

    def _compiled_once(self, *arguments: Any) -> TopDetections:
        """Detects, and counts the compilations that this needs."""
        before = self.compilations
        with CacheHits() as hits:
            detections = self._detect(*arguments)
        self.cached_compilations += self.compilations > before and hits.count > 0
        return detections

    def _detect_share(
        self, model: AnchorDETR, wanted: np.ndarray, journal: Journal | None, *, progress: bool
    ) -> DatasetDetections | None:
        """Detections for this process's share of the rows `wanted`, with fillers; None if no rows are wanted."""
        if not len(wanted):
            return None
        graphdef, state = nnx.split(model)
        state = self._placed(state)
        in_flight: collections.deque[tuple[np.ndarray, np.ndarray, TopDetections]] = collections.deque()
        done: list[DatasetDetections] = []
        bar = tqdm(
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
                stack.callback(journal.flush)  # Also after Ctrl-C.
            for batch in batches:
                shared = global_batch((batch.images, batch.image_sizes, batch.original_sizes), self.mesh)
                in_flight.append((batch.rows, batch.valid, self._compiled_once(graphdef, state, *shared)))
                if len(in_flight) > BATCHES_IN_FLIGHT:
                    fetch_oldest()
            while in_flight:
                fetch_oldest()
        return joined(done)

    def _placed(self, state: Any) -> Any:
        """The weights on the mesh. Weights that are on it already stay as they are, also if they are split over it."""
        devices = set(self.mesh.devices.flat)
        if all(leaf.sharding.device_set == devices for leaf in jax.tree.leaves(state)):
            return state
        return jax.device_put(jax.tree.map(np.asarray, state), replicated(self.mesh))

    def _check_each_image_once(self, rows: np.ndarray) -> None:
        if not np.array_equal(np.sort(rows[rows >= 0]), np.arange(len(self.dataset))):
            raise RuntimeError("the evaluation plan does not hold every image exactly once")


def _check_an_image_is_readable(dataset: DetectionSource) -> None:
    """Raises `UserError` if not a single image can be read. Otherwise it reads as few images as it needs to know."""
    if all(reading_problem(dataset, row) for row in range(len(dataset))):
        raise _nothing_readable(dataset)


def _nothing_readable(dataset: DetectionSource) -> UserError:
    problem = _reading_problem(dataset, 0)
    return UserError(f"None of the {len(dataset)} images of {dataset.name} can be read. The first one: {problem}")


def _reading_problem(dataset: DetectionSource, row: int) -> str:
    """Why an image was not readable, also if it is readable now."""
    return reading_problem(dataset, row) or f"{dataset.describe(row)} was not readable."


def _local_part(array: jax.Array) -> np.ndarray:
    """This process's share of an array that is split along its first axis, in its order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
