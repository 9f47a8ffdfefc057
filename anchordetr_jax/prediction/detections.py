"""The result of a detector for one image: `Detections`, and each of them as a `Detection`."""

import dataclasses
import difflib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from anchordetr_jax.data.images import array_pixels, picture_pixels, read_image
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.results import BOX_DECIMALS, SCORE_DECIMALS
from anchordetr_jax.pictures.boxes import draw_detections

if TYPE_CHECKING:
    import supervision

SHOWN_CLASSES = 10
"""The number of class names in the message about an unknown class."""


@dataclasses.dataclass(frozen=True)
class Detection:
    """One object."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels of the image."""
    score: float
    """Between 0 and 1."""
    label: int
    """The class output of the detector."""
    name: str
    """The class."""
    category_id: int
    """The class's id in the annotations that the detector was trained on."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Detections:
    """The N objects that a detector found in one image, best first. Iterating gives a `Detection` for each.

    `detections[0]` is the best one. A slice, a list of indices or a mask picks some: `detections[:3]`,
    `detections[detections.scores > 0.8]`. The arrays are read-only.
    """

    boxes: np.ndarray
    """float32 [N,4]: left, top, right, bottom in pixels of the image, inside it."""
    scores: np.ndarray
    """float32 [N], between 0 and 1, in descending order."""
    labels: np.ndarray
    """int32 [N]: class outputs of the detector."""
    names: tuple[str, ...]
    """N class names."""
    category_ids: np.ndarray
    """int32 [N]: ids of the classes in the annotations that the detector was trained on."""
    image_size: tuple[int, int]
    """(height, width) in pixels of the image as viewers show it: turned as its EXIF data says."""
    source: str | None = None
    """The image's file; None for an image in memory."""
    classes: tuple[str, ...] = ()
    """The names of all classes that the detector knows; empty where they are unknown."""
    best_score: float = 0.0
    """The highest score in the image, also of detections below the threshold; 0 where it is unknown."""
    not_finite: int = 0
    """How many detections were left out because their score or box was not finite."""
    track_ids: np.ndarray | None = None
    """int32 [N]: the number of each object's track in a video; None without tracking."""

    def __post_init__(self) -> None:
        shapes: dict[str, tuple[int, ...]] = {
            "boxes": (-1, 4),
            "scores": (-1,),
            "labels": (-1,),
            "category_ids": (-1,),
            **({} if self.track_ids is None else {"track_ids": (-1,)}),
        }
        for name, shape in shapes.items():
            dtype = np.float32 if name in ("boxes", "scores") else np.int32
            array = np.array(getattr(self, name), dtype).reshape(shape)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "names", tuple(self.names))
        object.__setattr__(self, "classes", tuple(self.classes))
        lengths = {len(getattr(self, name)) for name in (*shapes, "names")}
        if len(lengths) != 1:
            raise ValueError("boxes, scores, labels, names, category_ids and track_ids differ in length")

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Detection: ...

    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray) -> "Detections": ...

    def __getitem__(self, index: int | slice | Sequence[int] | np.ndarray) -> "Detection | Detections":
        if isinstance(index, int | np.integer):
            left, top, right, bottom = self.boxes[index].tolist()
            return Detection(
                box=(left, top, right, bottom),
                score=float(self.scores[index]),
                label=int(self.labels[index]),
                name=self.names[index],
                category_id=int(self.category_ids[index]),
            )
        chosen = index if isinstance(index, slice) else np.asarray(index, None if len(index) else np.int64)
        places = np.arange(len(self))[chosen]
        return dataclasses.replace(
            self,
            boxes=self.boxes[places],
            scores=self.scores[places],
            labels=self.labels[places],
            names=tuple(self.names[place] for place in places),
            category_ids=self.category_ids[places],
            track_ids=None if self.track_ids is None else self.track_ids[places],
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common())
        none = f"none (best score {self.best_score:.2f})" if self.best_score else "none"
        return f"<Detections in {self.source or 'an image'} of {width} x {height} pixels: {counts or none}>"

    def above(self, threshold: float) -> "Detections":
        """Those with a score of at least `threshold`. Raises `UserError` for one that is no score."""
        check_threshold(threshold)
        return self[self.scores >= threshold]

    def of(self, *names: str) -> "Detections":
        """Those of the named classes.

        Raises `UserError` for a name that is not among `classes`, where these are known.
        """
        for name in names:
            if self.classes and name not in self.classes:
                raise UserError(_unknown_class(name, self.classes))
        return self[np.array([name in names for name in self.names], bool)]

    def with_tracks(self, track_ids: np.ndarray) -> "Detections":
        """The same detections with the numbers of their tracks, int [N]."""
        return dataclasses.replace(self, track_ids=track_ids)

    def draw(self, image: Image.Image | np.ndarray | None = None, *, min_size: int = 640) -> Image.Image:
        """The image with boxes, names and scores on it, as a new RGB picture.

        Args:
            image: the image of these detections; by default its file is read again.
            min_size: an image whose long side has fewer pixels is enlarged to this number, so that people can read the
                text on it; 0 keeps the size.

        Raises:
            UserError: `image` has another size, or its file cannot be read.
        """
        if image is not None:
            pixels = picture_pixels(image) if isinstance(image, Image.Image) else array_pixels(image)
        elif self.source is not None:
            pixels = read_image(self.source)
        else:
            raise UserError("These detections belong to an image in memory: give that image to draw(image).")
        if pixels.shape[:2] != self.image_size:
            found, expected = (f"{width} x {height}" for height, width in (pixels.shape[:2], self.image_size))
            raise UserError(f"The image to draw on has {found} pixels, but the detections are of one with {expected}.")
        labels, names, scores = self.labels.tolist(), self.names, self.scores.tolist()
        if self.track_ids is not None:  # Then each object has a colour of its own.
            labels = self.track_ids.tolist()
            names = tuple(f"{number} {name}" for number, name in zip(labels, names, strict=True))
        return draw_detections(pixels, self.boxes, labels, names, scores, min_size=min_size)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of COCO's result format, for `loadRes` of pycocotools.

        `bbox` is [left, top, width, height] in pixels, rounded to thousandths. With tracks, an entry has `track_id`.
        """
        corners = self.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(BOX_DECIMALS)
        scores = self.scores.astype(np.float64).round(SCORE_DECIMALS)
        entries: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for category_id, box, score in zip(self.category_ids.tolist(), boxes.tolist(), scores.tolist(), strict=True)
        ]
        if self.track_ids is not None:
            for entry, number in zip(entries, self.track_ids.tolist(), strict=True):
                entry["track_id"] = number
        return entries

    def to_supervision(self) -> "supervision.Detections":
        """These detections as `supervision.Detections`, with the class names in `data["class_name"]`.

        Tracks are in `tracker_id`.

        Raises `UserError` if the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UserError("to_supervision() needs the package supervision: pip install supervision.") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            tracker_id=None if self.track_ids is None else self.track_ids.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )


def check_threshold(threshold: float) -> None:
    """Raises `UserError` for a threshold that is no score."""
    if isinstance(threshold, str):
        raise UserError(f"The threshold must be a score between 0 and 1, not {threshold!r}.")
    if not 0 <= threshold <= 1:
        meant = f" (did you mean {threshold / 100:g}?)" if 1 < threshold <= 100 else ""
        raise UserError(f"The threshold must be a score between 0 and 1, not {threshold:g}{meant}.")


def nothing_found_sentence(threshold: float | None, best_score: float, recommended: float | None) -> str:
    """What to say when no detection reaches the threshold: the best score, and the thresholds that help.

    `recommended` is the threshold that the last evaluation recommends, where it is known. With the threshold None each
    class has its own.
    """
    shown = math.floor(best_score * 1000) / 1000  # Rounded down, so that this threshold gives a detection.
    helps = f"--threshold {shown:g} shows that detection"
    if threshold is None:
        return f"The best score is {shown:g}, and it is below the threshold of its class: {helps}."
    if recommended is not None:
        helps += f", and the last evaluation of the run recommends --threshold {recommended:g} (the best F1 score)"
    return f"The best score is {shown:g}, and the threshold is {threshold:g}: {helps}."


def thresholds_sentence(by_class: Mapping[str, float], *, evaluated: bool) -> str:
    """What to say of the score thresholds that are used because none was given.

    Args:
        by_class: the threshold of each class.
        evaluated: an evaluation of the checkpoint tells them.
    """
    levels = sorted(set(by_class.values()))
    if len(levels) == 1:
        shown = f"is {levels[0]:g}"
    else:
        names = [f"{name} {value:g}" for name, value in by_class.items()]
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        shown = f"is that of the class: {', '.join(names[:SHOWN_CLASSES])}{more}"
    if not evaluated:
        return f"The threshold {shown}, because no evaluation of this checkpoint tells a better one (--threshold)."
    return (
        f"The threshold {shown}. It has the best F1 score in the evaluation of this checkpoint or of its run; "
        "--threshold gives another."
    )


def _unknown_class(name: str, classes: Sequence[str]) -> str:
    """The error for a class that a detector does not know: its classes, the most similar name first."""

    def similarity(known: str) -> float:
        return difflib.SequenceMatcher(None, name.casefold(), known.casefold()).ratio()

    nearest = sorted(dict.fromkeys(classes), key=similarity, reverse=True)
    shown = ", ".join(repr(known) for known in nearest[:SHOWN_CLASSES])
    more = f" and {len(nearest) - SHOWN_CLASSES} more" if len(nearest) > SHOWN_CLASSES else ""
    return f"The detector has no class {name!r}. It has {shown}{more}."
