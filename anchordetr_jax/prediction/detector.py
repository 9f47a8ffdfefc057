"""Objects in your own images: `Detector`."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
from absl import logging
from flax import nnx

from anchordetr_jax.checkpoints.scores import scores_of_checkpoint
from anchordetr_jax.checkpoints.thresholds import USUAL, Thresholds
from anchordetr_jax.config import AugmentConfig, Config, DataConfig, EvalConfig
from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.image_shapes import shape_remark, tile_remark
from anchordetr_jax.detection.postprocess import TopDetections
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.results import not_finite_sentence
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.prediction.batched import detect_in_batches
from anchordetr_jax.prediction.class_names import Names, class_names, renamed_categories
from anchordetr_jax.prediction.detections import Detections
from anchordetr_jax.prediction.inputs import gather_images
from anchordetr_jax.prediction.network import ImageDetections, compiled_detection, reading_threads
from anchordetr_jax.prediction.run_folder import better_checkpoint
from anchordetr_jax.prediction.selection import check_limits, selected
from anchordetr_jax.prediction.static_shapes import StaticShapes
from anchordetr_jax.prediction.tiled import TileSettings, detect_in_tiles
from anchordetr_jax.prediction.tiling import OVERLAP, check_tiles
from anchordetr_jax.weights.folder import SavedDetector
from anchordetr_jax.weights.hub import HubOptions
from anchordetr_jax.weights.pretrained import open_pretrained
from anchordetr_jax.weights.saving import CardFacts, facts_of, push_detector, save_detector, saved_from_model


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
        shown_ratios: Sequence[float] = (),
    ):
        """Makes a detector from a model in memory. `from_pretrained` loads one from a file.

        Args:
            model: with its weights, on one device.
            categories: what its class outputs stand for.
            names: class names by class output, {1: "person", 3: "car"}, instead of those of `categories`. Outputs
                without a name detect nothing. Or a list with a name for each output.
            eval_size: the short side of an image is resized to this number of pixels…
            max_size: …but the long side to at most this number.
            max_detections: the largest number of detections per image.
            thresholds: score thresholds by category id, where an evaluation tells those with the best F1 score.
            shown_ratios: the ratios of height to width of the images that it was trained on, if they are known. It
                warns of the first image and the first tile of another shape.
        """
        self.model = model
        self.categories = renamed_categories(categories, names)
        self.labels: LabelScheme = DataConfig().labels if self.categories is None else self.categories.scheme
        """How its class outputs are numbered, as in `DataConfig.labels`."""
        self.remarks: tuple[str, ...] = ()
        """Sentences about how its weights were read."""
        self.trained: Config | None = None
        """The settings of the run that made it; None where nobody knows them."""
        self.scores: Mapping[str, Any] | None = None
        """The evaluation of its checkpoint, as `Scores.to_dict` gives it; None where nobody knows it."""
        self.facts = CardFacts()
        """What a model card says of it where nobody says something else."""
        self.augment = AugmentConfig(eval_size=eval_size, max_size=max_size, shown_ratios=tuple(shown_ratios))
        self.shapes = StaticShapes(self.augment)
        self.max_detections = EvalConfig(max_detections=max_detections).max_detections  # It checks the number.
        self.thresholds = thresholds
        """The score thresholds that `predict` uses where none is given, by category id; None: 0.5 for each class."""
        self.names = class_names(categories, names, model.config.num_classes)
        self.category_ids = {
            label: label if categories is None else categories.category_of(label) or 0 for label in self.names
        }
        self._graphdef, self._state = nnx.split(model)
        self._warned: set[Callable[..., str]] = set()

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
            names: see `__init__`; for weights that have none. The outputs of official weights are category ids.
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
            names=found.names if names is None else names,
            eval_size=config.augment.eval_size if eval_size is None else eval_size,
            max_size=config.augment.max_size if max_size is None else max_size,
            max_detections=config.eval.max_detections if max_detections is None else max_detections,
            thresholds=found.thresholds,
            shown_ratios=config.augment.shown_ratios,
        )
        detector.remarks, detector.facts = found.remarks, facts_of(found)
        if (
            detector.model.config,
            detector.augment.eval_size,
            detector.augment.max_size,
            detector.max_detections,
            detector.names.keys(),
        ) != (
            config.model,
            config.augment.eval_size,
            config.augment.max_size,
            config.eval.max_detections,
            class_names(found.categories, None, config.model.num_classes).keys(),
        ):
            detector.facts = dataclasses.replace(detector.facts, scores=None)  # They are of other settings.
        if detector.categories is None:
            detector.labels = config.data.labels
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
            license, data, scores: for the card: "apache-2.0", the name of the data set, {"AP": 0.443, …}. By default
                what is known: the facts of a published model, or the scores of the checkpoint.

        Raises:
            UserError: the folder cannot be written, or has a README.md that is not such a card.
        """
        facts = CardFacts(license=license, data=data, scores=scores)
        save_detector(folder, self._saved(), facts.completed(self.facts))

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
        return push_detector(repo, self._saved(), facts.completed(self.facts), token=token, private=private)

    def _saved(self) -> SavedDetector:
        saved = saved_from_model(
            self.model, self.categories, self.augment, self.max_detections, self.thresholds, self.labels
        )
        known = class_names(self.categories, None, self.model.config.num_classes)
        return dataclasses.replace(saved, names=None if self.names.keys() == known.keys() else self.names)

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
                uint8, uint16, bool, or floats from 0 to 1). The channels of an array are red, green and blue; for one
                of OpenCV, which has blue first, give `image[:, :, ::-1]`. Or many: a list or other iterable of these, a
                folder, or an array [n, h, w, 3].
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

        Raises:
            UserError: before the first image, if something given is no image: None, a web address or a video.
        """
        check_limits(threshold, batch_size)
        given, _ = gather_images(images)
        if tiles is not None:
            readers = [image.pixels for image in given]
            found = self.predict_in_tiles(readers, threshold, tiles=tiles, overlap=overlap, batch_size=batch_size)
            for index, outcome in found:
                if not isinstance(outcome, UserError):
                    outcome = dataclasses.replace(outcome, source=given[index].path)
                yield index, outcome
            return
        with reading_threads() as pool:
            for index, picture in detect_in_batches(given, self._compute, pool, self.shapes, batch_size):
                yield index, self._outcome(picture, threshold, given[index].path)

    def predict_in_tiles(
        self,
        readers: Sequence[Callable[[], np.ndarray]],
        threshold: float | None = None,
        *,
        tiles: int,
        overlap: float = OVERLAP,
        batch_size: int = 8,
    ) -> Iterator[tuple[int, Detections | UserError]]:
        """Like `predict_each` with `tiles`, for pictures that functions read.

        Args:
            readers: each gives the pixels uint8 [h, w, 3] of a picture, or raises `UserError`.
            threshold, tiles, overlap, batch_size: see `predict`.
        """
        check_limits(threshold, batch_size)
        check_tiles(tiles, overlap)
        settings = TileSettings.of(self.shapes, tiles, overlap, batch_size)
        with reading_threads() as pool:
            for index, picture in detect_in_tiles(readers, self._compute, pool, settings):
                if isinstance(picture, ImageDetections):
                    self._warn_once(tile_remark, picture.size, tiles)
                yield index, self._outcome(picture, threshold)

    def _compute(self, pixels: np.ndarray, image_sizes: np.ndarray, original_sizes: np.ndarray) -> TopDetections:
        compiled = compiled_detection()
        return compiled(self._graphdef, self.max_detections, self._state, pixels, image_sizes, original_sizes)

    def _outcome(
        self, found: ImageDetections | UserError, threshold: float | None, source: str | None = None
    ) -> Detections | UserError:
        if isinstance(found, UserError):
            return found
        self._warn_once(shape_remark, found.size)
        thresholds = {label: self.threshold_of(label) if threshold is None else threshold for label in self.names}
        return selected(found, self.names, self.category_ids, thresholds, source)

    def _warn_once(self, remark: Callable[..., str], size: tuple[int, int], *more: int) -> None:
        """Logs the first sentence that `shape_remark` or `tile_remark` has about an image of a size (h, w)."""
        if remark in self._warned:
            return
        if sentence := remark(np.array([size]), *more, self.augment.shown_ratios):
            self._warned.add(remark)
            logging.warning("%s", sentence)

    def threshold_of(self, label: int) -> float:
        """The score threshold of a class output where none is given."""
        if self.thresholds is None or label not in self.category_ids:
            return USUAL
        return self.thresholds.of(self.category_ids[label])
