"""Opens the source of images that the settings name."""

import sys

import jax

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.source import DetectionSource, Split
from anchordetr_jax.data.sources.coco import open_split
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.data.sources.folder import ImageFolder
from anchordetr_jax.data.sources.tfds import TfdsDataset
from anchordetr_jax.data.sources.tfds_records import find_prepared
from anchordetr_jax.errors import UserError


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
