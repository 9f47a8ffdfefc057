"""Opens the source of images that the settings name."""

import dataclasses
import functools
import os
import sys
from collections.abc import Iterator

import jax
from etils import epath

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.portion import Portion
from anchordetr_jax.data.records.raw import RawSplit
from anchordetr_jax.data.records.reading import Records, read_records
from anchordetr_jax.data.records.values import counted
from anchordetr_jax.data.source import DetectionSource, MissingSplitError, Split
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.coco import read_coco
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.data.sources.folder import ImageFolder
from anchordetr_jax.data.sources.kinds import kind_of
from anchordetr_jax.data.sources.layouts import split_files
from anchordetr_jax.data.sources.tfds import TfdsDataset
from anchordetr_jax.data.sources.tfds_records import find_prepared
from anchordetr_jax.data.sources.voc import read_voc
from anchordetr_jax.data.sources.yolo import read_yolo
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path

SPLITS: tuple[Split, ...] = ("train", "val", "test")
IN_FILES = ("auto", "coco", "yolo", "voc")
"""The sources whose training images can be held out."""
HELD_OUT = 0.1
"""The share of training images that is held out where a data set has no validation images."""


def open_source(config: DataConfig, split: Split, categories: Categories | None = None) -> DetectionSource:
    """The images that the settings name. Process 0 prints the remarks of the source.

    Args:
        config: `source` says which of the other settings count.
        split: what the images are for. Test images need no annotations.
        categories: those of the detector that is to be run. TFDS data sets take their category ids from them, by name.
            Plain folders have no classes, so they take all of them. The default is COCO's categories.

    Raises:
        UserError: the source is missing or wrong, or has nothing to train on.
    """
    if config.source == "folder":
        if split == "train":
            raise UserError("A plain folder has no annotations to train on; set data.source to 'auto' or 'tfds'.")
        if not config.root:
            raise UserError("Setting 'data.root' is empty; set it to a folder of images.")
        return ImageFolder(config.root, categories or coco_categories(config.labels))
    dataset: DetectionSource
    if config.source == "tfds":
        if config.val_fraction > 0 and split != "test":
            raise UserError(
                "data.val_fraction has no effect on data.source=tfds: leave it out, and hold images out with "
                "data.tfds_train='train[:90%]' and data.tfds_val='train[90%:]'."
            )
        split_name = {"train": config.tfds_train, "val": config.tfds_val, "test": config.tfds_test}[split]
        directory = find_prepared(config.root, config.tfds_name)
        dataset = TfdsDataset(directory, split_name, split, labels=config.labels, categories=categories)
    else:
        dataset = open_split(config, split)
    if jax.process_index() == 0:
        for line in dataset.remarks:
            _say_once(line)
    return dataset


def open_for_evaluation(
    config: DataConfig, split: Split, categories: Categories | None = None, *, trained: DataConfig
) -> DetectionSource:
    """The images to evaluate a detector on. Process 0 prints which they are.

    Images that a run held out (`val_fraction`) are those of its own data set. Another data set that has validation
    images of its own is evaluated on these.

    Args:
        config: see `open_source`.
        split: see `open_source`.
        categories: see `open_source`.
        trained: the settings of the run that made the detector.

    Raises:
        UserError: like `open_source`.
    """
    lines = []
    if config.source == "tfds" and config.val_fraction == trained.val_fraction:
        config = dataclasses.replace(config, val_fraction=0.0)  # It is about the files of the run.
    elif split != "test" and _has_its_own_validation_images(config, trained):
        lines.append(
            f"{config.root} has validation images of its own, so data.val_fraction={config.val_fraction:g} of the "
            "detector's run does not count."
        )
        config = dataclasses.replace(config, val_fraction=0.0)
    dataset = open_source(config, split, categories)
    if jax.process_index() == 0:
        print(*lines, f"Evaluating on {counted(len(dataset), 'image')}: {dataset.name}", sep="\n", file=sys.stderr)
    return dataset


def open_split(config: DataConfig, split: Split) -> AnnotatedImages:
    """A split of a data set in files. Raises `UserError` where it is missing, or something in it stops the work."""
    return AnnotatedImages(*open_records(config, split))


def open_records(config: DataConfig, split: Split) -> tuple[Records, Findings]:
    """The checked records of a split of a data set in files, and everything that was found about them.

    Raises `UserError` when the files cannot be found or read at all.
    """
    portion = None
    if config.val_fraction > 0 and split != "test":
        portion = Portion(config.val_fraction, split)
    wanted: Split = split if portion is None else "train"
    raw = raw_split(config, wanted)
    findings = Findings(raw.name)
    records = read_records(
        raw,
        split,
        findings,
        labels=config.labels,
        orientation=config.orientation,
        portion=portion,
        others=lambda: list(_others(config, wanted)),
    )
    return records, findings


def raw_split(config: DataConfig, split: Split) -> RawSplit:
    """The records of a split as they are given. Raises `UserError` when they cannot be found or read."""
    kind = kind_of(config)
    if kind == "yolo":
        return read_yolo(_root(config), split)
    if kind == "voc":
        return read_voc(_root(config), split, val_from_train=config.val_fraction > 0)
    files = split_files(config, split)
    remarks = (f"Found the {split} images: {files.images}, {files.annotations}.",) if files.found else ()
    return read_coco(files.images, files.annotations, annotated=split != "test", remarks=remarks)


def with_validation_images(config: DataConfig) -> tuple[DataConfig, str]:
    """The settings, and a line for the person if they were changed, or if validation images are not used.

    Where a data set in files has no validation images, a tenth of the training images is held out. Call it for a
    training that evaluates.
    """
    if config.source not in IN_FILES:
        return config, ""
    try:
        file = _find_validation_images(config)
    except MissingSplitError:
        if config.val_fraction > 0:
            return config, ""
        line = (
            f"{config.root} has no validation images: {HELD_OUT:.0%} of the training images are held out "
            f"(data.val_fraction={HELD_OUT:g})."
        )
        return dataclasses.replace(config, val_fraction=HELD_OUT), line
    except UserError:
        return config, ""  # Whoever opens the images raises it again.
    if config.val_fraction > 0 and (file is None or file.is_file()):
        line = (
            f"{config.root} has validation images of its own. They are not used, as data.val_fraction="
            f"{config.val_fraction:g} holds training images out instead; data.val_fraction=0 takes them."
        )
        return config, line
    return config, ""


def _find_validation_images(config: DataConfig) -> epath.Path | None:
    """The file of their annotations, if it is one file. In a bucket, or where a setting names it, it may be missing.

    Raises `MissingSplitError` where a data set in files has none, and `UserError` where they cannot be read.
    """
    if kind_of(config) == "coco":
        return split_files(config, "val").annotations
    raw_split(config, "val")
    return None


def _has_its_own_validation_images(config: DataConfig, trained: DataConfig) -> bool:
    """Whether these settings name another data set than a run was trained on, one with validation images.

    False where they hold images out by themselves: `val_fraction` is not that of the run.
    """
    held_out_by_the_run = config.val_fraction > 0 and config.val_fraction == trained.val_fraction
    if not held_out_by_the_run or config.source not in IN_FILES or _place(config) == _place(trained):
        return False
    try:
        _find_validation_images(config)
    except MissingSplitError:
        return False
    except UserError:
        return True  # Whoever opens them raises it again.
    return True


def _place(config: DataConfig) -> tuple[str, ...]:
    """Where training and validation images are."""
    root = config.root if "://" in config.root else os.path.realpath(config.root)
    return root, config.train_images, config.train_annotations, config.val_images, config.val_annotations


@functools.cache
def _say_once(line: str) -> None:
    """Training and validation images can have the same remark: where one file describes both, for example."""
    print(line, file=sys.stderr)


def _root(config: DataConfig) -> epath.Path:
    if not config.root:
        raise UserError("Setting 'data.root' is empty; set it to the folder of a data set.")
    root = stored_path(config.root)
    if not root.exists():
        raise UserError(f"There is no data set folder {config.root}; set data.root to one.")
    return root


def _others(config: DataConfig, split: Split) -> Iterator[RawSplit]:
    """The other splits of the data set, as far as there are any."""
    for other in SPLITS:
        if other != split and not (other == "val" and config.val_fraction > 0):
            try:
                yield raw_split(config, other)
            except UserError:
                continue
