"""COCO's scores of a detector that sees each image whole and in tiles."""

import functools
import time

import jax
import numpy as np
from absl import logging
from flax import nnx
from tqdm.auto import tqdm

from anchordetr_jax.compilation import CacheHits
from anchordetr_jax.config import Config
from anchordetr_jax.data.image_shapes import shape_remark, tile_remark
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.journal import Journal, fingerprint
from anchordetr_jax.evaluation.processes import gather, no_detections
from anchordetr_jax.evaluation.results import DatasetDetections, joined
from anchordetr_jax.evaluation.shares import (
    EvaluationResult,
    Kept,
    check_class_outputs,
    kept_detections,
    remarks,
    score_images,
)
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.prediction.detections import Detections
from anchordetr_jax.prediction.detector import Detector
from anchordetr_jax.prediction.static_shapes import StaticShapes
from anchordetr_jax.prediction.tiled import TileSettings, padding_share
from anchordetr_jax.prediction.tiling import OVERLAP

NO_OUTPUT = -1
"""The label of the rest of a row, which stands for no class."""


def evaluate_in_tiles(
    model: AnchorDETR,
    config: Config,
    dataset: DetectionSource,
    tiles: int,
    *,
    overlap: float = OVERLAP,
    progress: bool = True,
    journal: Journal | None = None,
) -> EvaluationResult:
    """Detects on all images of a data set in tiles, and scores the detections.

    Boxes are clipped to their image. An image has at most `eval.max_detections` detections, the best ones. On several
    hosts all processes call it at the same time. Each computes its share of the images on its first device.

    Args:
        model: its class outputs are those of `dataset.categories`. Every process holds all weights.
        config: its `augment` and `eval` settings are used. `eval.batch_size` is the number of views that each process
            computes at a time.
        dataset: the images.
        tiles, overlap: see `Detector.predict`.
        progress: whether process 0 shows a progress bar.
        journal: keeps the detections of finished images. Detections that it has from a stopped evaluation are not
            computed again. The caller removes it after the results are written.

    Raises:
        UserError: the model has fewer class outputs than the labels of the data set need, not a single image can be
            read, or the ground truth cannot be scored.
    """
    check_class_outputs(model, dataset)
    if jax.process_index() == 0:
        shown = config.augment.shown_ratios
        for remark in (shape_remark(dataset.sizes, shown), tile_remark(dataset.sizes, tiles, shown)):
            if remark:
                logging.warning("%s", remark)
    started = time.perf_counter()
    settings = TileSettings.of(StaticShapes(config.augment), tiles, overlap, config.eval.batch_size)
    kept = Kept(None, np.zeros(len(dataset), bool))
    if journal is not None:
        kept = kept_detections(journal, fingerprint(model, dataset, config, (tiles, overlap)), len(dataset))
    wanted = np.flatnonzero(~kept.is_kept)
    own = wanted[jax.process_index() :: jax.process_count()]
    bar = tqdm(
        total=len(dataset),
        initial=len(dataset) - len(wanted),
        desc="evaluate",
        unit="image",
        disable=not progress or jax.process_index() > 0,
        dynamic_ncols=True,
    )
    with CacheHits() as hits, bar:
        found = _detect(model, config, dataset, own, tiles, overlap, bar, journal)
    parts = [part for part in (kept.share, *found) if part is not None]
    images = gather(joined(parts) if parts else None)
    seconds = time.perf_counter() - started
    scored = score_images(dataset, images)
    if jax.process_index() == 0:
        for sentence in remarks(scored, len(dataset)):
            logging.warning("%s", sentence)
    return EvaluationResult(
        **scored._asdict(),
        num_images=len(dataset),
        kept_images=int(kept.is_kept.sum()),
        padding=padding_share(dataset.sizes, settings),
        seconds=seconds,
        compilations=int(len(own) > 0),
        cached_compilations=int(hits.count > 0),
    )


def _detect(
    model: AnchorDETR,
    config: Config,
    dataset: DetectionSource,
    rows: np.ndarray,
    tiles: int,
    overlap: float,
    bar: tqdm,
    journal: Journal | None,
) -> list[DatasetDetections]:
    """The detections of each of the images `rows`."""
    sizes, limit = config.augment, config.eval.max_detections
    detector = Detector(
        _on_this_device(model),
        dataset.categories,
        eval_size=sizes.eval_size,
        max_size=sizes.max_size,
        max_detections=limit,
    )
    readers = [functools.partial(dataset.open_image, row) for row in rows.tolist()]
    done: list[DatasetDetections] = []
    try:
        for place, outcome in detector.predict_in_tiles(
            readers, 0.0, tiles=tiles, overlap=overlap, batch_size=config.eval.batch_size
        ):
            done.append(_as_row(int(rows[place]), outcome, limit))
            if journal is not None:
                journal.add(done[-1])
            bar.update(min(jax.process_count(), len(dataset) - int(bar.n)))
    finally:
        if journal is not None:
            journal.flush()  # Also after Ctrl-C.
    return done


def _on_this_device(model: AnchorDETR) -> AnchorDETR:
    """The model on one device of this process; the weights are on all devices of the evaluation."""
    graphdef, state = nnx.split(model)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf.addressable_data(0), state))


def _as_row(row: int, outcome: Detections | UserError, most: int) -> DatasetDetections:
    """The best detections of an image, filled up to `most`."""
    images = no_detections(1, most)
    images.rows[0] = row
    images.labels[:] = NO_OUTPUT
    if isinstance(outcome, UserError):
        return images
    images.readable[0] = True
    images.left_out[0] = outcome.not_finite
    best = outcome[:most]
    for name in ("scores", "labels", "boxes"):
        getattr(images, name)[0, : len(best)] = getattr(best, name)
    return images
