"""Finds the images and annotations of a split of a COCO-format data set, in the layouts that tools export.

    COCO       train2017/ … annotations/instances_train2017.json
    Roboflow   train/_annotations.coco.json with the images beside it, valid/, test/
    CVAT       annotations/instances_default.json (or any name), images/ and folders in it
    others     a JSON file of any name, in the root or one of its folders, and images in any folder of it

Label Studio lists images by their paths on its server. Such images are found by the last parts of these paths.

Paths that the settings give are taken as they are. The folder is looked through only where a split's paths are the
defaults and do not exist: first for the annotation file, by its name and the name of its folder, then for the folder of
the images that it lists.
"""

import dataclasses
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from etils import epath

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.records.locating import DEPTH, folders_below, listed_name, name_key
from anchordetr_jax.data.source import MissingSplitError, Split
from anchordetr_jax.data.sources.split_words import WORDS, words_of
from anchordetr_jax.errors import UserError, result_or_error
from anchordetr_jax.files import stored_path

OTHER_TASKS = ("captions", "keypoints", "panoptic", "stuff", "densepose", "info")
"""Words in the names of COCO's own annotation files that are not for detection."""
SAMPLE = 24
"""The number of a file's images that are looked for in each folder."""


@dataclasses.dataclass(frozen=True)
class SplitFiles:
    """Where the images and annotations of a split are."""

    images: epath.Path
    annotations: epath.Path
    found: bool
    """Whether they were looked for, rather than given by the settings."""


def split_files(config: DataConfig, split: Split) -> SplitFiles:
    """The folder of images and the annotation file of a split.

    Raises:
        MissingSplitError: no file can be meant.
        UserError: there is no folder `data.root`; several files can be meant; a file that a setting names is missing.
    """
    if not config.root:
        raise UserError("Setting 'data.root' is empty; set it to the folder of a COCO-format data set.")
    root = stored_path(config.root)
    if not root.is_dir():
        raise UserError(f"There is no data set folder {config.root}; set data.root to one.")
    images_setting, annotations_setting = f"{split}_images", f"{split}_annotations"
    images, annotations = getattr(config, images_setting), getattr(config, annotations_setting)
    if (root / images).is_dir() and (root / annotations).is_file():
        return SplitFiles(root / images, root / annotations, found=False)
    default = DataConfig()
    given_images = images != getattr(default, images_setting)
    given_annotations = annotations != getattr(default, annotations_setting)
    if (given_images and given_annotations) or "://" in config.root:
        return SplitFiles(root / images, root / annotations, found=False)
    file = root / annotations if given_annotations else _annotation_file(root, split)
    if given_annotations and not file.is_file():
        raise UserError(f"There is no annotation file {file}; check data.root and data.{annotations_setting}.")
    if given_images:
        return SplitFiles(root / images, file, found=True)
    return SplitFiles(_image_folder(root, file, split), file, found=True)


def _annotation_file(root: epath.Path, split: Split) -> epath.Path:
    """The annotation file under `root` whose name is that of the split. For training, the only file will do."""
    files = list(annotation_files(root))
    if not files:
        raise _nothing_found(root, UserError if split == "train" else MissingSplitError)
    by_split = {name: [file for file in files if _names_split(root, file, name)] for name in WORDS}
    found = by_split[split]
    unnamed = [file for file in files if not any(file in named for named in by_split.values())]
    if not found and split == "train" and len(unnamed) == 1:
        found = unnamed
    if len(found) > 1:
        found = [file for file in found if "instances" in words_of(file.stem)] or found
    if len(found) > 1:
        raise UserError(
            f"{root} has several annotation files for '{split}' ({_listed(root, found)}): choose one with "
            f"data.{split}_annotations=FILE (relative to data.root)."
        )
    if found:
        return found[0]
    have = f"{root} has no annotation file for '{split}', only {_listed(root, files)}"
    if split == "val":
        raise MissingSplitError(
            f"{have}: name one with data.val_annotations=FILE, or hold training images out for validation with "
            f"data.val_fraction=0.1, or train without evaluation (train.evaluate_every=0, train.keep_best=False)."
        )
    raise MissingSplitError(f"{have}: name one with data.{split}_annotations=FILE (relative to data.root).")


def annotation_files(root: epath.Path) -> Iterator[epath.Path]:
    """JSON files under `root` that may hold boxes in COCO's form, in the order of their paths.

    Files that are named for another task come only where there is no other file.
    """
    files = [
        folder / entry.name
        for folder in _folders(root)
        for entry in os.scandir(folder)
        if entry.name.lower().endswith(".json") and not entry.name.startswith(".") and entry.is_file()
    ]
    detection: list[epath.Path] = []
    other: list[epath.Path] = []
    for file in sorted(files):
        words = words_of(file.stem)
        (other if any(word in words for word in OTHER_TASKS) else detection).append(file)
    found = False
    for file in filter(_looks_like_coco, detection):
        found = True
        yield file
    if not found:
        yield from filter(_looks_like_coco, other)


def _looks_like_coco(file: epath.Path) -> bool:
    """Whether a JSON file has the two lists that COCO's form cannot do without."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(1)
            opened.seek(0)
            # Files of results or of settings have no lists of these names. A large file is not parsed for this.
            content = opened.read()
    except OSError:
        return False
    lists = {
        name for name in (b"images", b"categories", b"annotations") if re.search(b'"%s"\\s*:\\s*\\[' % name, content)
    }
    return beginning in (b"{", b"\xef", b" ", b"\n") and b"images" in lists and len(lists) > 1


def _names_split(root: epath.Path, file: epath.Path, split: Split) -> bool:
    """Whether the name of a file, or of the nearest folder that names a split, is that of the split."""
    parts = [file.stem, *reversed(file.relative_to(root).parts[:-1])]
    for part in parts:
        words = words_of(part)
        named = [name for name, spellings in WORDS.items() if any(word in words for word in spellings)]
        if len(named) == 1:  # `train_val.json` does not say of which split it is.
            return split in named
    return False


def _image_folder(root: epath.Path, file: epath.Path, split: Split) -> epath.Path:
    """The folder under `root` that has the images of an annotation file, at least by the last parts of their paths."""
    names = _file_names(file)
    search = _Search(root, names)
    left = _without_other_splits(root, file, split, search)
    if not left:
        raise UserError(
            f"None of the images that {file} lists (such as {names[0]!r}) is in a folder under {root}, up to "
            f"{DEPTH} folders deep: put them there, or name their folder with data.{split}_images=FOLDER."
        )
    most = max(left.values())
    best = [folder for folder, count in left.items() if count == most]
    # Where several folders have images of these names, a folder that belongs to the annotations comes first.
    for belongs in (
        lambda folder: folder == file.parent,
        lambda folder: file.parent in folder.parents and file.parent != root,
        lambda folder: folder.name == file.stem,
        lambda folder: any(word in WORDS[split] for word in words_of(folder.name)),
        lambda folder: "images" in words_of(folder.name),
    ):
        if len(best) > 1:
            best = [folder for folder in best if belongs(folder)] or best
    parts = search.parts_with(best[0], left)
    common = epath.Path(os.path.commonpath([str(folder) for folder in parts]))
    if len(parts) > 1 and not any(common in folder.parents for folder in search.found.keys() - left.keys()):
        return common
    if len(best) > 1 or len(parts) > 1:
        several = best if len(best) > 1 else parts
        raise UserError(
            f"The images that {file} lists are in several folders ({_listed(root, several)}): choose one with "
            f"data.{split}_images=FOLDER (relative to data.root)."
        )
    return best[0]


class _Search:
    """Which folders under `root` have which images of an annotation file."""

    def __init__(self, root: epath.Path, names: Sequence[str]):
        self._names, self._folders = names, _folders(root)
        self.found = self._having(names[:: max(1, len(names) // SAMPLE)])
        """The folders that have some of a sample of the images, with the number that they have."""
        self._keys: set[str] = set()
        self._keys_in: dict[epath.Path, set[str]] = {}
        """Where no name is found as it is: names compared without case, percent-encoding and Unicode form."""
        if not self.found:
            keys = {name_key(PurePosixPath(name).name) for name in names}
            if len(keys) == len(set(names)):  # Otherwise one file could stand for several images.
                self._keys = keys
                for folder in self._folders:
                    self._keys_in[folder] = keys & {name_key(entry.name) for entry in os.scandir(folder)}
                self.found = {folder: len(there) for folder, there in self._keys_in.items() if there}

    def shares_names_with(self, others: Sequence[str]) -> bool:
        """Whether other images have the names of these, in the way in which these were found."""
        if self._keys:
            return any(name_key(PurePosixPath(name).name) in self._keys for name in others)
        return not set(self._names).isdisjoint(others)

    def parts_with(self, folder: epath.Path, allowed: Collection[epath.Path]) -> list[epath.Path]:
        """The folder, and those of the allowed ones that have the images which it lacks, and no other ones."""
        if self._keys:
            here = self._keys_in[folder]
            return [folder, *(one for one in allowed if one != folder and self._keys_in[one].isdisjoint(here))]
        missing = [name for name in self._names if not os.path.isfile(os.path.join(folder, name))]
        there = sorted(set(self._names) - set(missing))
        twice = self._having(there[:: max(1, len(there) // SAMPLE)])
        lacking = self._having(missing[:: max(1, len(missing) // SAMPLE)]) if missing else {}
        return [folder, *(one for one in lacking if one not in twice and (one in allowed or one not in self.found))]

    def _having(self, some: Sequence[str]) -> dict[epath.Path, int]:
        counts = {folder: sum((folder / name).is_file() for name in some) for folder in self._folders}
        return {folder: count for folder, count in counts.items() if count}


def _without_other_splits(root: epath.Path, file: epath.Path, split: Split, search: _Search) -> dict[epath.Path, int]:
    """The folders without those of other splits, if the annotation file of such a split has images of the same names.

    Splits often have images of the same names (`frame_0001.jpg`). A missing image must not come from another split.

    Raises `UserError` if no folder is left.
    """

    def of_another_split(path: epath.Path) -> bool:
        return any(_names_split(root, path, other) for other in WORDS if other != split)

    of_others = [folder for folder in search.found if of_another_split(folder / "_")]
    files = (one for one in annotation_files(root) if one != file and of_another_split(one)) if of_others else ()
    theirs = next((one for one in files if search.shares_names_with(_file_names_or_none(one))), None)
    if theirs is None:
        return search.found
    left = {folder: count for folder, count in search.found.items() if folder not in of_others}
    if not left:
        raise UserError(
            f"The images that {file} lists are only in {_listed(root, of_others)}, and {theirs} lists images of the "
            f"same names: name their folder with data.{split}_images=FOLDER."
        )
    return left


def _file_names_or_none(file: epath.Path) -> list[str]:
    """The file names in the annotation file of another split, which may be damaged."""
    names = result_or_error(lambda: _file_names(file))
    return [] if isinstance(names, UserError) else names


def _file_names(file: epath.Path) -> list[str]:
    """The file names in an annotation file that make sense."""
    try:
        content: Any = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"Annotation file {file} is not valid JSON, or not all of it is there ({error}).") from None
    images: Any = content.get("images") if isinstance(content, Mapping) else None
    records = images if isinstance(images, list) else []
    values = [record.get("file_name") for record in records if isinstance(record, Mapping)]
    names = [listed_name(value) for value in values if isinstance(value, str) and value]
    if not names:
        raise UserError(f"{file} lists no images with a 'file_name'.")
    return names


def _folders(root: epath.Path) -> list[epath.Path]:
    """`root` and the folders in it, the nearer ones first."""
    return [root / folder for folder in folders_below(str(root))]


def _nothing_found(root: epath.Path, kind: type[UserError]) -> UserError:
    names = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "") or "nothing"
    return kind(
        f"{root} holds no annotation file in COCO's form (a .json file with images, annotations and categories), only "
        f"{shown}: set data.root to the folder of a COCO-format data set, or data.source to 'auto'."
    )


def _listed(root: epath.Path, paths: Sequence[epath.Path]) -> str:
    names = [str(path.relative_to(root)) for path in paths]
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
