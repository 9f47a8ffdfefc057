"""The protocol of sources: what training and evaluation ask of one split of a data set.

Where each image is a file, do not write a source: make a `RawSplit` (`data/records/raw.py`) of the records. They are
then checked like those of every other data set. Everything else can be a source. Training takes it as
`TrainingBatches(source, config)`, and evaluation as `Evaluator(source, config)`. This one draws its images:

    class Squares:
        '''Black images, each with one white square.'''

        name = "squares"
        remarks = ()
        image_ids = (1, 2, 3)
        sizes = np.full((3, 2), 64, np.int32)
        categories = Categories(ids=(1,), names=("square",))
        box_counts = np.ones(3, np.int64)

        def __len__(self):
            return 3

        def boxes(self, row):
            return np.array([[8, 8, 24 + 8 * row, 32]], np.float32)

        def labels(self, row):
            return np.zeros(1, np.int32)

        def open_image(self, row):
            pixels = np.zeros((64, 64, 3), np.uint8)
            pixels[8:32, 8 : 24 + 8 * row] = 255
            return pixels

        def describe(self, row):
            return f"square {row}"

        def ground_truth(self):
            boxes = [self.boxes(row)[0] for row in range(3)]
            return {
                "images": [{"id": number, "width": 64, "height": 64} for number in self.image_ids],
                "annotations": [
                    {"id": number, "image_id": number, "category_id": 1, "bbox": [x, y, x2 - x, y2 - y]}
                    | {"area": (x2 - x) * (y2 - y), "iscrowd": 0}
                    for number, (x, y, x2, y2) in zip(self.image_ids, np.array(boxes).tolist())
                ],
                "categories": [{"id": 1, "name": "square"}],
            }
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np

from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError

Split = Literal["train", "val", "test"]


class MissingSplitError(UserError):
    """A data set has no such split at all."""


class DetectionSource(Protocol):
    """One split of a data set: n images in a fixed order. A row is an image's place in it, from 0."""

    @property
    def name(self) -> str:
        """For messages: the file or folder it comes from."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lines for the person: what was found, left out, clipped, changed or assumed, by kind and with counts."""

    @property
    def image_ids(self) -> tuple[int, ...]:
        """The id of each row's image, by which results name it."""

    @property
    def sizes(self) -> np.ndarray:
        """int32 [n, 2]: (height, width) of each image in pixels, known without reading it."""

    @property
    def categories(self) -> Categories:
        """The classes, and the class output of each."""

    @property
    def box_counts(self) -> np.ndarray:
        """int64 [n]: the number of boxes of each image."""

    def __len__(self) -> int: ...

    def boxes(self, row: int) -> np.ndarray:
        """float32 [m, 4]: xyxy in pixels, inside the image, each with an area; no crowd regions."""

    def labels(self, row: int) -> np.ndarray:
        """int32 [m]: the class output of each box."""

    def open_image(self, row: int) -> np.ndarray:
        """uint8 RGB [h, w, 3]. Raises `UserError` naming the image when it cannot be read."""

    def describe(self, row: int) -> str:
        """For messages: the image's file or key."""

    def ground_truth(self) -> Mapping[str, Any] | None:
        """All annotations in the form of COCO's annotation files, with crowd regions, for scoring. None without any.

        Each has `id` (different, and not 0), `image_id`, `category_id`, `bbox`, `area` and `iscrowd`.
        """
