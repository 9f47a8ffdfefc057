"""Reads YOLO data sets: a data.yaml, folders or lists of images, and a text file of labels for each image.

    images/train/a.jpg  labels/train/a.txt      ultralytics
    train/images/a.jpg  train/labels/a.txt      Roboflow

An image without a label file has no objects. Class i of `names` gets the category id i + 1.
"""

import collections
import dataclasses
import os
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import yaml
from etils import epath

from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.locating import (
    ImageFiles,
    Skipped,
    folders_below,
    image_files,
    is_image,
    listed_name,
    report_skipped,
)
from anchordetr_jax.data.records.raw import RawSplit
from anchordetr_jax.data.records.values import text_problem, whole_number
from anchordetr_jax.data.source import MissingSplitError, Split
from anchordetr_jax.data.sources.yolo_labels import LabelReader
from anchordetr_jax.errors import UserError

KEYS: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
"""The keys of the splits in data.yaml."""
USUAL_NAMES = ("data.yaml", "data.yml")
_MERGE = "tag:yaml.org,2002:merge"
"""YAML's tag of the key `<<`, which takes in the entries of another mapping."""


@dataclasses.dataclass(frozen=True)
class Description:
    """What a data.yaml says."""

    file: epath.Path
    names: dict[int, str]
    splits: dict[Split, list[str]]
    """The folders and lists of images of each split, as they are written."""
    path: str
    """The folder to which these are relative, as it is written."""
    keypoints: bool
    text: str
    """Its contents, for the lines in messages."""

    def place_of(self, entry: str) -> str:
        """The file, and the line that names a folder or list."""
        lines = (number for number, line in enumerate(self.text.splitlines(), start=1) if entry in line)
        number = next(lines, None)
        return str(self.file) if number is None else f"{self.file}, line {number},"


def find_descriptions(root: epath.Path) -> list[epath.Path]:
    """The YAML files directly in a folder that describe a YOLO data set."""
    if root.is_file():
        return [root] if _describes_yolo(root) else []
    names = sorted(entry.name for entry in os.scandir(root) if entry.name.lower().endswith((".yaml", ".yml")))
    return [root / name for name in names if _describes_yolo(root / name)]


def read_yolo(root: epath.Path, split: Split) -> RawSplit:
    """The records of a split, not checked yet. `root` is the folder of the data.yaml, or this file.

    Raises `UserError` when the file or the images of the split are missing, or the file makes no sense.
    """
    files = find_descriptions(root)
    if len(files) != 1:
        found = ", ".join(file.name for file in files) if files else "none"
        raise UserError(f"{root} needs one YAML file with 'names' and 'train', and has {found}: set data.root to one.")
    description = _read_description(files[0])
    entries = description.splits.get(split, [])
    if not entries:
        ways = " hold training images out with data.val_fraction=0.1, or" if split == "val" else ""
        raise MissingSplitError(
            f"{description.file} names no '{split}' images:{ways} add '{KEYS[split][0]}: FOLDER' to it."
        )
    findings, remarks = Findings(str(description.file)), [f"Found a YOLO data set: {description.file}."]
    names: list[str] = []
    folders: list[str] = []
    for entry in entries:
        images_there, their_folders = _images_of(entry, description, findings, remarks)
        names += images_there
        folders += their_folders
    if len({os.path.isabs(path) for path in names + folders}) > 1:
        names, folders = [os.path.abspath(path) for path in names], [os.path.abspath(path) for path in folders]
    for name, count in collections.Counter(names).items():
        if count > 1:
            findings.warning("image that is listed twice", f"it is there {count} times and counts once", name)
    names = sorted(dict.fromkeys(names))
    folder = epath.Path(os.path.commonpath(folders))
    images, annotations = _records(names, folder, description, findings)
    _report_lonely_labels(names, findings)
    return RawSplit(
        name=f"{description.file} ({split})",
        folder=folder,
        images=images,
        annotations=annotations,
        categories=[{"id": index + 1, "name": name} for index, name in sorted(description.names.items())],
        box_form="relative",
        has_sizes=False,
        remarks=tuple(remarks),
        findings=tuple(findings.all),
    )


def label_file(image: str) -> str:
    """The label file of an image: `images` in its path becomes `labels`, and its suffix `.txt`."""
    parts = image.split("/")
    places = [place for place, part in enumerate(parts[:-1]) if part == "images"]
    if places:
        parts[places[-1]] = "labels"
    return posixpath.splitext("/".join(parts))[0] + ".txt"


def _records(
    names: Sequence[str], folder: epath.Path, description: Description, findings: Findings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    reader = LabelReader(description.names, findings, description.keypoints)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    owner: dict[str, str] = {}
    without = 0
    for number, name in enumerate(names, start=1):
        images.append({"id": number, "file_name": posixpath.relpath(name, str(folder))})
        file = next(
            (file for file in (label_file(name), posixpath.splitext(name)[0] + ".txt") if os.path.isfile(file)), ""
        )
        if not file:
            without += 1
            continue
        if file in owner:
            findings.error(
                "label file of two images", f"the images {owner[file]} and {name} have the same label file", file
            )
        owner[file] = name
        annotations += [{"id": None, "image_id": number, **record} for record in reader.read(epath.Path(file))]
    for number, annotation in enumerate(annotations, start=1):
        annotation["id"] = number
    if without == len(names) and names:
        looked_for = label_file(names[0])
        findings.error("no label files", f"none of the {len(names)} images has a label file, such as {looked_for}")
    elif without:
        findings.note(
            "images without a label file", f"{without} of {len(names)} images have none: they have no objects"
        )
    return images, annotations


def _report_lonely_labels(names: Sequence[str], findings: Findings) -> None:
    """Reports label files, in the folders of the used ones, that have no image."""
    used = {label_file(name) for name in names}
    for folder in sorted({posixpath.dirname(file) for file in used}):
        if not os.path.isdir(folder):
            continue
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            is_label = entry.name.endswith(".txt") and entry.name != "classes.txt" and not entry.name.startswith(".")
            if is_label and posixpath.join(folder, entry.name) not in used:
                findings.warning("label file without an image", "no image of this name is listed", entry.path)


def _images_of(
    entry: str, description: Description, findings: Findings, remarks: list[str]
) -> tuple[list[str], list[str]]:
    """The paths of the images of one folder, list or image that data.yaml names, and the folders that hold them.

    Where data.yaml names a folder, it is the only one, so names relative to it stay when it gets further subfolders.
    """
    path, moved = _resolved(entry, description)
    if moved:
        place = description.place_of(entry)
        remarks.append(f"{place} names {moved!r}: {path} is taken, as only this can be meant.")
    if os.path.isdir(path):
        skipped: list[Skipped] = []
        found = [posixpath.join(path, name) for name in image_files(path, skipped)]
        report_skipped(path, skipped, findings)
        if not found:
            raise UserError(f"{path}, which {description.file} names, holds no image.")
        return found, [path]
    found = [path] if is_image(posixpath.basename(path)) else _listed_images(path, description, findings)
    return found, [posixpath.dirname(name) for name in found]


def _resolved(entry: str, description: Description) -> tuple[str, str]:
    """Where a folder or file is that data.yaml names. If it is somewhere else than it says: also what it says.

    Roboflow writes `../train/images` for a folder beside the data.yaml. A path of another machine is found by its last
    parts.
    """
    beside = str(description.file.parent)
    name = listed_name(entry)
    base = posixpath.join(beside, listed_name(description.path)) if description.path else beside
    named, written = posixpath.join(base, name), posixpath.join(listed_name(description.path), name)
    if os.path.exists(named):
        return posixpath.normpath(named), ""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for candidate in (posixpath.join(beside, name), *(posixpath.join(beside, *parts[i:]) for i in range(len(parts)))):
        if os.path.exists(candidate):
            # A `..` too many, as Roboflow writes it, is nothing to speak of.
            expected = posixpath.normpath(posixpath.join(beside, name.lstrip("./"))) == posixpath.normpath(candidate)
            return posixpath.normpath(candidate), "" if expected and base == beside else written
    raise UserError(
        f"{description.place_of(entry)} names {entry!r}, and neither {named} nor anything like it beside the file is "
        "there: correct 'path' and the folders in it."
    )


def _listed_images(path: str, description: Description, findings: Findings) -> list[str]:
    """The images that a text file lists, one per line. Missing ones keep the place that the list says."""
    try:
        with open(path, "rb") as file:
            lines = file.read().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list of images {path} cannot be read ({text_problem(error)}).") from None
    listed = [listed_name(line.strip()) for line in lines if line.strip()]
    if not listed:
        raise UserError(f"The list of images {path} is empty.")
    base = posixpath.join(str(description.file.parent), listed_name(description.path))
    bases = dict.fromkeys((posixpath.dirname(path), base, str(description.file.parent)))
    found: list[str] = []
    moved: list[int] = []
    for line, name in enumerate(listed):
        there = next((full for one in bases if os.path.exists(full := posixpath.join(one, name))), None)
        found.append(posixpath.normpath(there or posixpath.join(posixpath.dirname(path), name)))
        if there is None:
            moved.append(line)
    if moved:
        beside = ImageFiles(str(description.file.parent))
        for line, there in zip(moved, beside.find([listed[line] for line in moved]), strict=True):
            if there is not None:
                found[line] = posixpath.join(str(description.file.parent), there)
                detail = f"listed as {listed[line]!r}, and only {found[line]} can be meant"
                findings.warning("file found under another name", detail, f"{path}, line {line + 1}")
    return found


def _describes_yolo(file: epath.Path) -> bool:
    try:
        content = yaml.safe_load(file.read_bytes())
    except (OSError, yaml.YAMLError, ValueError, RecursionError):
        return file.name.lower() in USUAL_NAMES  # The reader says what is wrong.
    if not isinstance(content, Mapping):
        return False
    facts = [any(name in content for name in names) for names in (("names", "nc"), sum(KEYS.values(), ()))]
    return any(facts) if file.name.lower() in USUAL_NAMES else all(facts)


def _read_description(file: epath.Path) -> Description:
    try:
        data = file.read_bytes()
        content, texts = yaml.safe_load(data), yaml.load(data, _TextLoader)
        twice = _key_twice(yaml.compose(data, yaml.SafeLoader), set())
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file} is no YAML file that can be read ({' '.join(str(error).split())}).") from None
    if twice is not None:
        raise UserError(f"{file} has the key {twice!r} twice: keep one of them.")
    if not isinstance(content, Mapping):
        raise UserError(f"{file} is no description of a YOLO data set: it has no 'names' and 'train'.")
    path = content.get("path") or ""
    if not isinstance(path, str):
        raise UserError(f"'path' in {file} is {path!r}, not a text.")
    splits: dict[Split, list[str]] = {}
    for split, keys in KEYS.items():
        value: Any = next((content[key] for key in keys if content.get(key)), [])
        entries = [value] if isinstance(value, str) else value
        if not isinstance(entries, list) or not all(isinstance(entry, str) and entry for entry in entries):
            raise UserError(f"'{split}' in {file} is {value!r}, not a folder, a list of images, or a list of these.")
        splits[split] = entries
    return Description(
        file, _names(content, texts, file), splits, path, "kpt_shape" in content, data.decode(errors="replace")
    )


class _TextLoader(yaml.SafeLoader):
    """Keeps all values as the texts that are written: `no` is a name, and not False."""

    yaml_implicit_resolvers: ClassVar = {
        start: [(tag, pattern) for tag, pattern in resolvers if tag == _MERGE]
        for start, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _key_twice(node: yaml.Node | None, seen: set[int]) -> str | None:
    """A key that is there twice in one mapping of a document. The reader would take the last one without a word."""
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return None
    seen.add(id(node))
    below = node.value
    if isinstance(node, yaml.MappingNode):
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            return twice
        below = [value for _, value in node.value]
    return next((twice for one in below if (twice := _key_twice(one, seen))), None)


def _names(content: Mapping[Any, Any], texts: Mapping[Any, Any], file: epath.Path) -> dict[int, str]:
    """Class names by index. `texts` is `content` with all values as they are written."""
    names, written = content.get("names"), texts.get("names")
    if names is None and (count := whole_number(content.get("nc"))):
        names = written = [str(index) for index in range(min(count, 10_000))]
    if not isinstance(names, Mapping | list) or not names:
        raise UserError(f"{file} has no 'names' of classes.")
    pairs = list(names.items() if isinstance(names, Mapping) else enumerate(names))
    as_written: list[Any] = list(written.values() if isinstance(written, Mapping) else written or ())
    if len(pairs) != len(as_written):  # 1 and 0x1 are one index, and two texts.
        raise UserError(f"'names' in {file} has a class index twice: keep one of them.")
    result: dict[int, str] = {}
    for (index, value), name in zip(pairs, as_written, strict=True):
        number = whole_number(index)
        is_name = isinstance(value, str | int | float) and name != ""
        if number is None or number < 0 or number in result or not is_name:
            raise UserError(f"'names' in {file} has {index!r}: {value!r}, which is not a new class index and a name.")
        result[number] = name
    count = whole_number(content.get("nc"))
    if count is not None and count != len(result):
        raise UserError(f"{file} has nc: {count} and {len(result)} names: correct one of them.")
    return result


def has_labels_without_description(root: epath.Path) -> bool:
    """Whether a folder has label files beside images, and no data.yaml that names the classes."""
    folders = folders_below(str(root))
    return not find_descriptions(root) and any(posixpath.basename(folder) == "labels" for folder in folders)
