"""What every source of images and annotations answers, and which one the settings name."""

import sys
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.sources.coco import Categories, open_split
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.data.sources.folder import ImageFolder
from anchordetr_jax.data.sources.layouts import Split as Split
from anchordetr_jax.data.sources.tfds import TfdsDataset
from anchordetr_jax.data.sources.tfds_records import find_prepared
from anchordetr_jax.errors import UserError


class DetectionSource(Protocol):
    """One split of a data set: n images in a fixed order. A row is an image's place in it, from 0."""

    @property
    def name(self) -> str:
        """For messages: the file or folder it comes from."""

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


def open_source(config: DataConfig, split: Split, categories: Categories | None = None) -> DetectionSource:
    """The images that the settings name.

    Args:
        config: `source` tells which settings count.
        split: what the images are for; `test` images need no annotations.
        categories: those of the detector that is to be run. TFDS data sets take their category ids by name, and plain
            folders, which have none, all of them; both fall back on COCO's.

    Raises:
        UserError: the source is missing or not as it should be, or has no annotations to train on.
    """
    if config.source == "tfds":
        split_name = {"train": config.tfds_train, "val": config.tfds_val, "test": config.tfds_test}[split]
        directory = find_prepared(config.root, config.tfds_name)
        return TfdsDataset(directory, split_name, labels=config.labels, categories=categories)
    if config.source == "folder":
        if split == "train":
            raise UserError("A plain folder has no annotations to train on; set data.source to 'coco' or 'tfds'.")
        if not config.root:
            raise UserError("Setting 'data.root' is empty; set it to a folder of images.")
        return ImageFolder(config.root, categories or coco_categories(config.labels))
    dataset = open_split(config, split)
    if jax.process_index() == 0:
        print(*dataset.remarks, sep="\n", end="\n" if dataset.remarks else "", file=sys.stderr)
    return dataset
