"""What every source of images and annotations answers."""

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
        """Of each row the id by which results name the image."""

    @property
    def sizes(self) -> np.ndarray:
        """int32 [n, 2]: (height, width) of each image in pixels, known without reading it."""

    @property
    def categories(self) -> Categories: ...

    @property
    def box_counts(self) -> np.ndarray:
        """int64 [n]: how many boxes each image has."""

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
        """All annotations, crowd regions too, as COCO's annotation files hold them, for scoring; None without any."""
