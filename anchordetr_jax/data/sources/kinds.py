"""Finds out of which kind a data set in a folder is: COCO, YOLO or Pascal VOC."""

import os
from typing import Literal

from etils import epath

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.records.locating import DEPTH
from anchordetr_jax.data.sources.layouts import annotation_files
from anchordetr_jax.data.sources.voc import xml_folders
from anchordetr_jax.data.sources.yolo import find_descriptions, has_labels_without_description
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path

Kind = Literal["coco", "yolo", "voc"]

PATHS = tuple(f"{split}_{what}" for split in ("train", "val", "test") for what in ("images", "annotations"))
"""The settings that only COCO data sets have."""


def kind_of(config: DataConfig) -> Kind:
    """The kind of the data set `data.root`.

    Raises `UserError` when there is no such folder, or nothing in it is a data set, or several kinds fit.
    """
    if config.source in ("coco", "yolo", "voc"):
        return config.source  # type: ignore[return-value]
    if not config.root:
        raise UserError("Setting 'data.root' is empty; set it to the folder of a data set.")
    root = stored_path(config.root)
    is_bucket = "://" in config.root
    if not is_bucket and root.is_file() and config.root.lower().endswith((".yaml", ".yml")):
        return "yolo"
    if not root.is_dir():
        raise UserError(f"There is no data set folder {config.root}; set data.root to one.")
    default = DataConfig()
    if is_bucket or any(getattr(config, name) != getattr(default, name) for name in PATHS):
        return "coco"
    found = _kinds_in(root)
    if len(found) > 1:
        listed = "; ".join(f"{kind} ({where})" for kind, where in found.items())
        raise UserError(f"{config.root} holds data sets of several kinds: {listed}. Choose one with data.source=KIND.")
    if not found:
        raise _nothing_found(root)
    return next(iter(found))


def _kinds_in(root: epath.Path) -> dict[Kind, str]:
    """The kinds of data sets in a folder, each with a file or folder that shows it."""
    found: dict[Kind, str] = {}
    usual = (getattr(DataConfig(), f"{split}_annotations") for split in ("train", "val"))
    coco = next((root / name for name in usual if (root / name).is_file()), None) or next(annotation_files(root), None)
    if coco is not None:
        found["coco"] = str(coco.relative_to(root))
    if descriptions := find_descriptions(root):
        found["yolo"] = descriptions[0].name
    if folders := xml_folders(root):
        found["voc"] = f"XML files in {next(iter(folders)) or root.name}"
    return found


def _nothing_found(root: epath.Path) -> UserError:
    names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    shown = f"no data set, only {', '.join(names[:8])}{', …' if len(names) > 8 else ''}" if names else "nothing"
    if has_labels_without_description(root):
        return UserError(
            f"{root} holds folders 'labels' as a YOLO data set does, and no data.yaml: add one with 'train', 'val' and "
            "the 'names' of the classes."
        )
    return UserError(
        f"{root} holds {shown}: it needs annotations as COCO has them (a .json file with images, "
        "annotations and categories), as YOLO has them (a data.yaml and label files), or as Pascal VOC has them (XML "
        f"files), up to {DEPTH} folders deep."
    )
