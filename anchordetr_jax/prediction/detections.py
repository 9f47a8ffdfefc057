"""What a detector saw in one image, for people: `Detections`, and each of them as a `Detection`."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from PIL import Image

from anchordetr_jax.data.images import array_pixels, picture_pixels, read_image
from anchordetr_jax.errors import UserError
from anchordetr_jax.pictures.boxes import draw_detections

if TYPE_CHECKING:
    import supervision

BOX_DECIMALS, SCORE_DECIMALS = 3, 8
"""Of numbers that are written down, as in `scripts/evaluate.py`."""


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
    """The N objects seen in one image, best first. Iterating gives a `Detection` each.

    `detections[0]` is the best one; a slice, a list of places or a mask picks some: `detections[:3]`,
    `detections[detections.scores > 0.8]`. The arrays cannot be written to.
    """

    boxes: np.ndarray
    """float32 [N,4]: left, top, right, bottom in pixels of the image, inside it."""
    scores: np.ndarray
    """float32 [N], between 0 and 1, falling."""
    labels: np.ndarray
    """int32 [N]: class outputs of the detector."""
    names: tuple[str, ...]
    """N class names."""
    category_ids: np.ndarray
    """int32 [N]: ids of the classes in the annotations that the detector was trained on."""
    image_size: tuple[int, int]
    """(height, width) of the image in pixels, turned as its EXIF data says."""
    source: str | None = None
    """The image's file; None for an image in memory."""

    def __post_init__(self) -> None:
        shapes = {"boxes": (-1, 4), "scores": (-1,), "labels": (-1,), "category_ids": (-1,)}
        for name, shape in shapes.items():
            dtype = np.float32 if name in ("boxes", "scores") else np.int32
            array = np.array(getattr(self, name), dtype).reshape(shape)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
        object.__setattr__(self, "names", tuple(self.names))
        lengths = {len(getattr(self, name)) for name in (*shapes, "names")}
        if len(lengths) != 1:
            raise ValueError("boxes, scores, labels, names and category_ids differ in length")

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
        )

    def __repr__(self) -> str:
        height, width = self.image_size
        counts = ", ".join(f"{count} {name}" for name, count in Counter(self.names).most_common())
        return f"<Detections in {self.source or 'an image'} of {width} x {height} pixels: {counts or 'none'}>"

    def above(self, threshold: float) -> "Detections":
        """Those with a score of at least `threshold`."""
        return self[self.scores >= threshold]

    def of(self, *names: str) -> "Detections":
        """Those of the classes so named."""
        return self[np.array([name in names for name in self.names], bool)]

    def draw(self, image: Image.Image | np.ndarray | None = None, *, min_size: int = 640) -> Image.Image:
        """The image with boxes, names and scores on it, as a new RGB picture.

        Args:
            image: the one that these are the detections of; by default its file is read again.
            min_size: an image whose long side has fewer pixels is enlarged to that many, so that the text on it can be
                read; 0 keeps the size.

        Raises:
            UserError: `image` has another size, or its file cannot be read.
        """
        if image is not None:
            pixels = picture_pixels(image) if isinstance(image, Image.Image) else array_pixels(image)
        elif self.source is not None:
            pixels = read_image(self.source)
        else:
            raise UserError("These detections are of an image in memory: draw(image) needs it.")
        if pixels.shape[:2] != self.image_size:
            found, expected = (f"{width} x {height}" for height, width in (pixels.shape[:2], self.image_size))
            raise UserError(f"The image to draw on has {found} pixels, but the detections are of one with {expected}.")
        labels, scores = self.labels.tolist(), self.scores.tolist()
        return draw_detections(pixels, self.boxes, labels, self.names, scores, min_size=min_size)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Entries of COCO's result format, as pycocotools' `loadRes` takes them: `bbox` is [left, top, width, height]
        in pixels, rounded to thousandths."""
        corners = self.boxes.astype(np.float64)
        boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1).round(BOX_DECIMALS)
        scores = self.scores.astype(np.float64).round(SCORE_DECIMALS)
        return [
            {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}
            for category_id, box, score in zip(self.category_ids.tolist(), boxes.tolist(), scores.tolist(), strict=True)
        ]

    def to_supervision(self) -> "supervision.Detections":
        """The same as `supervision.Detections`, with the class names in its `data["class_name"]`.

        Raises `UserError` where the package supervision is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise UserError("to_supervision() needs the package supervision: pip install supervision.") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.scores.copy(),
            class_id=self.labels.astype(int),
            data={"class_name": np.array(self.names, dtype=str)},
        )
