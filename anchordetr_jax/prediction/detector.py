"""Objects in your own images: `Detector`.

Images are resized as in evaluation and padded to one of a few static shapes. The shapes depend on the settings alone.
Each shape is compiled once, for all calls and all detectors of the same architecture.
"""

import collections
import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from absl import logging
from flax import nnx

from anchordetr_jax.checkpoints.scores import scores_of_checkpoint
from anchordetr_jax.checkpoints.thresholds import USUAL, Thresholds
from anchordetr_jax.config import AugmentConfig, Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.transforms import Draw, apply_draw
from anchordetr_jax.detection.postprocess import TopDetections, top_detections
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.results import not_finite_sentence
from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.prediction.class_names import Names, class_names, renamed_categories
from anchordetr_jax.prediction.detections import Detections
from anchordetr_jax.prediction.inputs import GivenImage, gather_images
from anchordetr_jax.prediction.run_folder import better_checkpoint, recommended_thresholds
from anchordetr_jax.prediction.static_shapes import StaticShapes
from anchordetr_jax.prediction.tiled import TileSettings, detect_in_tiles
from anchordetr_jax.prediction.tiling import OVERLAP, check_tiles
from anchordetr_jax.weights.folder import SavedDetector
from anchordetr_jax.weights.hub import HubOptions
from anchordetr_jax.weights.pretrained import open_pretrained
from anchordetr_jax.weights.saving import CardFacts, push_detector, save_detector, saved_from_model

READERS = 8
"""Threads that decode and resize images."""
BATCHES_AHEAD = 2
"""Batches that are read while the device computes."""


class _Loaded(NamedTuple):
    """An image as the network sees it."""

    pixels: np.ndarray
    """uint8 [h, w, 3]."""
    original_size: tuple[int, int]


class _Planned(NamedTuple):
    """A batch before its images are read."""

    shape: tuple[int, int]
    rows: int
    """The number of images that the network gets, with fillers."""
    members: list[int]
    """The indices of the images among those given."""


class Detector:
    """A trained Anchor DETR with everything that is needed to get from images to named boxes."""

    def __init__(
        self,
        model: AnchorDETR,
        categories: Categories | None = None,
        *,
        names: Names | None = None,
        eval_size: int = 800,
        max_size: int = 1333,
        max_detections: int = 100,
        thresholds: Thresholds | None = None,
    ):
        """Makes a detector from a model in memory. `from_pretrained` loads one from a file.

        Args:
            model: with its weights, on one device.
            categories: what its class outputs stand for.
            names: class names by class output, instead of those of `categories`.
            eval_size: the short side of an image is resized to this number of pixels…
            max_size: …but the long side to at most this number.
            max_detections: the largest number of detections per image.
            thresholds: score thresholds by category id, where an evaluation tells those with the best F1 score.
        """
        self.model = model
        self.categories = renamed_categories(categories, names)
        self.remarks: tuple[str, ...] = ()
        """Sentences about how its weights were read."""
        self.trained: Config | None = None
        """The settings of the run that made it; None where nobody knows them."""
        self.scores: Mapping[str, Any] | None = None
        """The evaluation of its checkpoint, as `Scores.to_dict` gives it; None where nobody knows it."""
        self.augment = AugmentConfig(eval_size=eval_size, max_size=max_size)
        self.shapes = StaticShapes(self.augment)
        self.max_detections = max_detections
        self.thresholds = thresholds
        """The score thresholds that `predict` uses where none is given, by category id; None: 0.5 for each class."""
        self.names = class_names(categories, names, model.config.num_classes)
        self.category_ids = {
            label: label if categories is None else categories.category_of(label) or 0 for label in self.names
        }
        self._graphdef, self._state = nnx.split(model)

    @classmethod
    def from_pretrained(
        cls,
        path: str | os.PathLike[str],
        *,
        dilation: bool | None = None,
        annotations: str | os.PathLike[str] | None = None,
        names: Names | None = None,
        dtype: str | None = None,
        padding: str = "invariant",
        eval_size: int | None = None,
        max_size: int | None = None,
        max_detections: int | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Loads a detector. Logs a sentence if the newest checkpoint of a run is taken, and another one is better.

        Args:
            path: the name of a published model ("anchordetr-r50-dc5"), a detector on the Hugging Face Hub
                ("hf://ORGANISATION/NAME"), a folder of `save_pretrained`, a run's workdir, its checkpoints folder, one
                checkpoint, or a `.pth` or `.safetensors` file with weights of the official code or detrex. Of several
                checkpoints, the newest undamaged one is taken.
            dilation: for a weight file that does not tell: DC5 (True) or C5 (False).
            annotations: for a weight file: the COCO-format file whose categories it was trained on. Without it, 91
                class outputs are taken as COCO's.
            names: class names by class output, for weights that have none.
            dtype: what the network computes in: `float32`, `bfloat16` or `float64`. Default: as it was trained.
            padding: with `invariant`, detections do not depend on which images share a batch. With `official` they do,
                as in the official code.
            eval_size, max_size, max_detections: see `__init__`. Default: as in the run's own evaluation.
            revision, token, cache_dir, local_files_only: for the Hub, as in `huggingface_hub`.

        Raises:
            UserError: there is no detector at `path`, it is damaged, or an argument is missing that the file needs.
        """
        overrides: dict[str, Any] = {"padding": padding} | ({} if dtype is None else {"dtype": dtype})
        hub = HubOptions(revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only)
        found = open_pretrained(path, dilation=dilation, annotations=annotations, hub=hub)
        config = found.config
        if found.checkpoint is not None and (remark := better_checkpoint(path)):
            logging.warning("%s", remark)
        detector = cls(
            found.model(**overrides),
            found.categories,
            names=names,
            eval_size=eval_size or config.augment.eval_size,
            max_size=max_size or config.augment.max_size,
            max_detections=max_detections or config.eval.max_detections,
            thresholds=recommended_thresholds(found.checkpoint, found.step) if found.checkpoint else found.thresholds,
        )
        detector.remarks = found.remarks
        if found.checkpoint is not None:
            detector.trained = config
            detector.scores = scores_of_checkpoint(found.checkpoint, found.step)
        return detector

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        license: str | None = None,
        data: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> None:
        """Saves the detector for `from_pretrained`, by Hugging Face's conventions.

        Args:
            folder: gets model.safetensors, config.json, preprocessor_config.json and a model card, README.md.
            license, data, scores: for the card: "apache-2.0", the name of the data set, {"AP": 0.443, …}.

        Raises:
            UserError: the folder cannot be written, or has a README.md that is not such a card.
        """
        save_detector(folder, self._saved(), CardFacts(license=license, data=data, scores=scores))

    def push_to_hub(
        self,
        repo: str,
        *,
        token: str | bool | None = None,
        private: bool | None = None,
        license: str | None = None,
        data: str | None = None,
        scores: Mapping[str, float] | None = None,
    ) -> str:
        """Saves the detector in the repository ORGANISATION/NAME on the Hugging Face Hub, and returns its address.

        The repository is made if need be. The arguments are those of `save_pretrained` and of `huggingface_hub`.

        Raises:
            UserError: `huggingface_hub` is not installed, or the Hub refuses.
        """
        facts = CardFacts(license=license, data=data, scores=scores)
        return push_detector(repo, self._saved(), facts, token=token, private=private)

    def _saved(self) -> SavedDetector:
        return saved_from_model(self.model, self.categories, self.augment, self.max_detections, self.thresholds)

    def __repr__(self) -> str:
        shown = ", ".join(list(self.names.values())[:3]) + (", …" if len(self.names) > 3 else "")
        return f"<Detector with {self.model.config.backbone}, {len(self.names)} classes ({shown})>"

    @property
    def recommended_threshold(self) -> float | None:
        """The score threshold with the best F1 score, all classes together; None where no evaluation tells it."""
        return None if self.thresholds is None else self.thresholds.overall

    def predict(
        self,
        images: Any,
        threshold: float | None = None,
        *,
        batch_size: int = 8,
        tiles: int | None = None,
        overlap: float = OVERLAP,
    ) -> Any:
        """Detects objects in one image, or in many.

        Args:
            images: one image: a path or `file://` URL, a Pillow image, or an array ([h, w], [h, w, 3] or [h, w, 4];
                uint8, uint16, bool, or floats from 0 to 1). Or many: a list or other iterable of these, a folder, or an
                array [n, h, w, 3].
            threshold: detections with a lower score are left out. Default: for each class the threshold with the best
                F1 score in the evaluation of the checkpoint (`thresholds`), or 0.5 where no evaluation tells it.
            batch_size: the number of images of one shape that the network gets at a time.
            tiles: for small objects in large images: the side of a tile in pixels. The network sees each image whole,
                and in overlapping tiles. A tile is resized to `eval_size`.
            overlap: the share of a tile's side that it has in common with the next one.

        Returns:
            `Detections` for one image. For many images a list of them, in the order of the images; those of a folder
            are in the order of the file names. Boxes are in pixels of the image as viewers show it: turned as its EXIF
            data says.

        Raises:
            UserError: an image is missing, damaged or of an unknown kind; the message names it.
        """
        given, many = gather_images(images)
        results: dict[int, Detections] = {}
        for index, outcome in self.predict_each(given, threshold, batch_size=batch_size, tiles=tiles, overlap=overlap):
            if isinstance(outcome, UserError):
                raise outcome
            results[index] = outcome
        if left_out := sum(detections.not_finite for detections in results.values()):
            logging.warning("%s", not_finite_sentence(left_out))
        return [results[index] for index in range(len(given))] if many else results[0]

    def predict_each(
        self,
        images: Any,
        threshold: float | None = None,
        *,
        batch_size: int = 8,
        tiles: int | None = None,
        overlap: float = OVERLAP,
    ) -> Iterator[tuple[int, Detections | UserError]]:
        """Like `predict`, but gives each image as soon as it is finished, with its index among the images given.

        For an image that cannot be read it gives the error that says why, and continues with the others. Images of the
        same shape are computed together, so the order differs from the order of the images.
        """
        _check(threshold, batch_size)
        given, _ = gather_images(images)
        if tiles is not None:
            readers = [functools.partial(_pixels, image) for image in given]
            found = self.predict_in_tiles(readers, threshold, tiles=tiles, overlap=overlap, batch_size=batch_size)
            for index, outcome in found:
                if not isinstance(outcome, UserError):
                    outcome = dataclasses.replace(outcome, source=given[index].path)
                yield index, outcome
            return
        with ThreadPoolExecutor(READERS) as pool:
            try:
                yield from self._predict_each(given, threshold, batch_size, pool)
            finally:
                pool.shutdown(cancel_futures=True)

    def _predict_each(
        self, given: list[GivenImage], threshold: float | None, batch_size: int, pool: ThreadPoolExecutor
    ) -> Iterator[tuple[int, Detections | UserError]]:
        sizes: dict[int, tuple[int, int]] = {}
        for index, size in enumerate(pool.map(_size, given)):
            if isinstance(size, UserError):
                yield index, size
            else:
                sizes[index] = size
        planned = iter(self._plan(sizes, batch_size))
        loading: collections.deque[tuple[_Planned, list[Future[_Loaded | UserError]]]] = collections.deque()
        computing: collections.deque[tuple[list[int], list[_Loaded], TopDetections]] = collections.deque()

        def read_ahead() -> None:
            for batch in planned:
                targets = self.shapes.resized(np.array([sizes[i] for i in batch.members]))
                loads = [pool.submit(_load, given[i], size) for i, size in zip(batch.members, targets, strict=True)]
                loading.append((batch, loads))
                if len(loading) >= BATCHES_AHEAD:
                    return

        read_ahead()
        while loading or computing:
            if loading:
                batch, loads = loading.popleft()
                read_ahead()
                outcomes = list(zip(batch.members, (load.result() for load in loads), strict=True))
                yield from ((i, outcome) for i, outcome in outcomes if isinstance(outcome, UserError))
                sound = [(i, outcome) for i, outcome in outcomes if not isinstance(outcome, UserError)]
                if sound:
                    indices, loaded = [i for i, _ in sound], [outcome for _, outcome in sound]
                    computing.append((indices, loaded, self._compute(batch, loaded)))
            if computing and (len(computing) > 1 or not loading):
                indices, loaded, found = computing.popleft()
                scores, labels, boxes = (np.asarray(array) for array in found)
                for place, index in enumerate(indices):
                    size, source = loaded[place].original_size, given[index].path
                    row = (scores[place], labels[place], boxes[place])
                    yield index, self._detections(*row, size, source, threshold)

    def predict_in_tiles(
        self,
        readers: Sequence[Callable[[], np.ndarray | UserError]],
        threshold: float | None = None,
        *,
        tiles: int,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Iterator[tuple[int, Detections | UserError]]:
        """Like `predict_each` with `tiles`, for pictures that functions read.

        Args:
            readers: each gives the pixels uint8 [h, w, 3] of a picture, or the error that says why it cannot.
            threshold, tiles, overlap, batch_size: see `predict`.
        """
        _check(threshold, batch_size)
        check_tiles(tiles, overlap)

        def compute(pixels: np.ndarray, image_sizes: np.ndarray, original_sizes: np.ndarray) -> TopDetections:
            return _compiled()(self._graphdef, self.max_detections, self._state, pixels, image_sizes, original_sizes)

        side = self.augment.eval_size
        settings = TileSettings(tiles, overlap, side, self.shapes.padded((side, side)), batch_size)
        with ThreadPoolExecutor(READERS) as pool:
            try:
                for index, picture in detect_in_tiles(readers, compute, pool, settings):
                    if isinstance(picture, UserError):
                        yield index, picture
                    else:
                        size, scores, labels, boxes = picture
                        yield index, self._detections(scores, labels, boxes, size, None, threshold)
            finally:
                pool.shutdown(cancel_futures=True)

    def _plan(self, sizes: Mapping[int, tuple[int, int]], batch_size: int) -> list[_Planned]:
        """All batches, in the order of their first members."""
        if not sizes:
            return []
        groups: dict[tuple[int, int], list[int]] = collections.defaultdict(list)
        for index, size in zip(sizes, self.shapes.resized(np.array(list(sizes.values()))), strict=True):
            groups[self.shapes.padded((int(size[0]), int(size[1])))].append(index)
        batches = []
        for shape, members in groups.items():
            # A batch that is not full gets fillers: up to the compiled size of its shape, or to a power of two.
            rows = min(1 << (len(members) - 1).bit_length(), batch_size)
            batches += [_Planned(shape, rows, members[start : start + rows]) for start in range(0, len(members), rows)]
        return sorted(batches, key=lambda batch: batch.members[0])

    def _compute(self, batch: _Planned, images: list[_Loaded]) -> TopDetections:
        shape, rows = batch.shape, batch.rows
        pixels = np.zeros((rows, *shape, 3), np.uint8)
        image_sizes = np.tile(np.array(shape, np.int32), (rows, 1))
        original_sizes = image_sizes.copy()
        for row, image in enumerate(images):
            height, width = image.pixels.shape[:2]
            pixels[row, :height, :width] = image.pixels
            image_sizes[row] = height, width
            original_sizes[row] = image.original_size
        return _compiled()(self._graphdef, self.max_detections, self._state, pixels, image_sizes, original_sizes)

    def _detections(
        self,
        scores: np.ndarray,
        labels: np.ndarray,
        boxes: np.ndarray,
        image_size: tuple[int, int],
        source: str | None,
        threshold: float | None,
    ) -> Detections:
        height, width = image_size
        if threshold is None:
            lowest = np.array([self.threshold_of(label) for label in labels.tolist()], scores.dtype)
        else:
            lowest = np.full(len(labels), threshold, scores.dtype)
        known = np.array([label in self.names for label in labels.tolist()], bool)  # Some outputs stand for no class.
        finite = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
        kept = known & finite & (scores >= lowest)
        return Detections(
            boxes=boxes[kept].clip(0, np.array([width, height, width, height], boxes.dtype)),
            scores=scores[kept],
            labels=labels[kept],
            names=tuple(self.names[label] for label in labels[kept].tolist()),
            category_ids=np.array([self.category_ids[label] for label in labels[kept].tolist()], np.int32),
            image_size=image_size,
            source=source,
            classes=tuple(self.names.values()),
            best_score=float(scores[known & finite].max(initial=0)),
            not_finite=int(np.count_nonzero(known & ~finite)),
        )

    def threshold_of(self, label: int) -> float:
        """The score threshold of a class output where none is given."""
        if self.thresholds is None or label not in self.category_ids:
            return USUAL
        return self.thresholds.of(self.category_ids[label])


@functools.cache
def _compiled() -> Any:
    return jax.jit(_detect, static_argnums=(0, 1), compiler_options=compiler_options(jax.default_backend()))


def _detect(
    graphdef: Any,
    max_detections: int,
    state: Any,
    images: jax.Array,
    image_sizes: jax.Array,
    original_sizes: jax.Array,
) -> TopDetections:
    predictions = nnx.merge(graphdef, state)(images, image_sizes)
    return top_detections(predictions.logits[-1], predictions.boxes[-1], original_sizes, max_detections)


def _size(image: GivenImage) -> tuple[int, int] | UserError:
    try:
        return image.size()
    except UserError as error:
        return error


def _pixels(image: GivenImage) -> np.ndarray | UserError:
    try:
        return image.pixels()
    except UserError as error:
        return error


def _load(image: GivenImage, size: np.ndarray) -> _Loaded | UserError:
    try:
        pixels = image.pixels()
    except UserError as error:
        return error
    draw = Draw((int(size[0]), int(size[1])))
    resized, _, _ = apply_draw(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int32), draw)
    height, width, _ = pixels.shape
    return _Loaded(resized, (height, width))


def _check(threshold: float | None, batch_size: int) -> None:
    if threshold is not None and not 0 <= threshold <= 1:
        meant = f" (did you mean {threshold / 100:g}?)" if 1 < threshold <= 100 else ""
        raise UserError(f"The threshold must be a score between 0 and 1, not {threshold:g}{meant}.")
    if batch_size < 1:
        raise UserError(f"The batch size must be at least 1, not {batch_size}.")
