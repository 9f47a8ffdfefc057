"""From a model and a data set to detections and COCO's scores. Batches do not change the detections."""

import collections
import contextlib
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
from anchordetr_jax.data.image_shapes import shape_remark
from anchordetr_jax.data.loader import eval_batches, evaluation_plan, reading_problem
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.data.transforms import evaluation_draws
from anchordetr_jax.detection.postprocess import TopDetections, top_detections
from anchordetr_jax.devices import batch_sharding, global_batch, make_mesh, replicated
from anchordetr_jax.evaluation.journal import Journal, fingerprint
from anchordetr_jax.evaluation.processes import float_type, gather
from anchordetr_jax.evaluation.results import DatasetDetections, joined
from anchordetr_jax.evaluation.shares import (
    EvaluationResult,
    Kept,
    check_class_outputs,
    kept_detections,
    nothing_readable,
    remarks,
    score_images,
)
from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.model.anchor_detr import AnchorDETR

BATCHES_IN_FLIGHT = 2
"""The device gets this number of batches before the detections of the first one are fetched: it computes while the
host decodes images."""


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
        check_class_outputs(model, self.dataset)
        if jax.process_index() == 0:
            self._warn([shape_remark(self.dataset.sizes, self.config.augment.shown_ratios)])
        started = time.perf_counter()
        kept, is_kept = self._kept(model, journal)
        detected = self._detect_share(model, np.flatnonzero(~is_kept), journal, progress=progress)
        parts = [part for part in (kept, detected) if part is not None]
        images = gather(joined(parts) if parts else None)
        seconds = time.perf_counter() - started
        scored = score_images(self.dataset, images)
        if jax.process_index() == 0:
            self._warn(remarks(scored, len(self.dataset)))
        return EvaluationResult(
            **scored._asdict(),
            num_images=len(self.dataset),
            kept_images=int(is_kept.sum()),
            padding=self.padding,
            seconds=seconds,
            compilations=self.compilations,
            cached_compilations=self.cached_compilations,
        )

    def _warn(self, sentences: Sequence[str]) -> None:
        """Logs each sentence once."""
        for sentence in sentences:
            if sentence and sentence not in self._warned:
                self._warned.add(sentence)
                logging.warning("%s", sentence)

    def _kept(self, model: AnchorDETR, journal: Journal | None) -> Kept:
        if journal is None:
            return Kept(None, np.zeros(len(self.dataset), bool))
        return kept_detections(journal, fingerprint(model, self.dataset, self.config), len(self.dataset))

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
            scores, boxes = scores.astype(float_type()), boxes.astype(float_type())
            done.append(DatasetDetections(rows, readable, scores, labels, boxes, np.zeros(len(rows), np.int32)))
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


def _check_an_image_is_readable(dataset: DetectionSource) -> None:
    """Raises `UserError` if not a single image can be read. Otherwise it reads as few images as it needs to know."""
    if all(reading_problem(dataset, row) for row in range(len(dataset))):
        raise nothing_readable(dataset)


def _local_part(array: jax.Array) -> np.ndarray:
    """This process's share of an array that is split along its first axis, in its order."""
    shards = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([np.asarray(shards[start]) for start in sorted(shards)])
