"""Reads Pascal VOC data sets: an XML file of boxes for each image.

    JPEGImages/ Annotations/ ImageSets/Main/train.txt      VOC
    images/ annotations/ (or annots/, or any folders)      others, without or with words for the splits in their names
    train/ valid/ test/ with XML files beside images       Roboflow

Corners count from 1, and both belong to the box. Objects marked `difficult` are like COCO's crowd regions: nothing is
trained on them, and scoring ignores them. Classes are the names of all objects in the data set, in alphabetical order,
with the category ids 1, 2, 3, …
"""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from etils import epath

from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.locating import Skipped, folders_below, image_files, name_key, report_skipped
from anchordetr_jax.data.records.raw import WHERE, RawSplit
from anchordetr_jax.data.records.values import number, short, text_problem, whole_number, yes_or_no
from anchordetr_jax.data.source import MissingSplitError, Split
from anchordetr_jax.data.sources.split_words import split_in
from anchordetr_jax.data.sources.voc_files import UnreadableXmlError, VocFile, read_xml, text_of
from anchordetr_jax.errors import UserError

TRAINVAL = "trainval.txt"
"""The list of training and validation images together."""
LISTS: dict[Split, tuple[str, ...]] = {
    "train": ("train.txt", TRAINVAL),
    "val": ("val.txt", "valid.txt"),
    "test": ("test.txt",),
}
"""The lists of images in ImageSets/Main, the first that is there."""


def xml_folders(root: epath.Path) -> dict[str, list[str]]:
    """Folders under `root` with XML files of annotations (relative to it), and the names of these files."""
    found: dict[str, list[str]] = {}
    for folder in folders_below(str(root)):
        with os.scandir(os.path.join(root, folder)) as entries:
            names = sorted(entry.name for entry in entries if entry.name.lower().endswith(".xml"))
        names = [name for name in names if not name.startswith(".")]
        if names and any(_is_annotation(root / folder / name) for name in names):
            found[folder] = names
    return found


def read_voc(root: epath.Path, split: Split, *, val_from_train: bool = False) -> RawSplit:
    """The records of a split, not checked yet.

    Args:
        root: the folder.
        split: which images.
        val_from_train: validation images are held out of the training images, so those in `val.txt` are not used.

    Raises `UserError` when the data set has no annotations or no images for the split.
    """
    folders = xml_folders(root)
    paths = [posixpath.join(folder, name) for folder, names in folders.items() for name in names]
    if not paths:
        raise UserError(f"{root} holds no XML files of Pascal VOC annotations; set data.root to the folder of them.")
    findings = Findings(str(root))
    chosen = _paths_of_split(root, split, paths, findings, val_from_train=val_from_train)
    contents = dict(_contents(root, paths, set(chosen), findings))
    names = sorted({name for content in contents.values() for name in _class_names(content)})
    ids = {name: place for place, name in enumerate(names, start=1)}
    found = {path: contents[path] for path in chosen if path in contents}
    images, annotations = _records(root, found, ids, findings)
    return RawSplit(
        name=f"{root} ({split}, Pascal VOC)",
        folder=root,
        images=images,
        annotations=annotations,
        categories=[{"id": place, "name": name} for name, place in ids.items()],
        box_form="corners",
        remarks=(f"Found a Pascal VOC data set: {len(chosen)} {split} files in {', '.join(sorted(folders))}.",),
        findings=tuple(findings.all),
    )


def _paths_of_split(
    root: epath.Path, split: Split, paths: Sequence[str], findings: Findings, *, val_from_train: bool
) -> list[str]:
    """The annotation files of a split: by the lists in ImageSets, or by words in their paths, or all for training."""
    by_list = {other: _list_of(root, names) for other, names in LISTS.items()}
    if any(by_list.values()):
        file = by_list[split]
        if file is None:
            raise _no_split(root, split, f"ImageSets has no list {LISTS[split][0]}")
        chosen = _listed(root, file, paths, findings)
        if (held_out := by_list["val"]) is None or file.name != TRAINVAL or val_from_train:
            return chosen
        validation = set(_listed(root, held_out, paths, Findings(str(root))))
        if not set(chosen) - validation:
            raise UserError(f"All images of {file} are in {held_out} too: remove some of them there, or add train.txt.")
        return [path for path in chosen if path not in validation]
    named = {path: _split_of(path) for path in paths}
    chosen = [path for path, found in named.items() if found == split]
    if split == "train" and not chosen:
        chosen = [path for path, found in named.items() if found is None]
    if not chosen:
        raise _no_split(root, split, f"no folder of annotations has a name for '{split}'")
    unused = sum(found is None for found in named.values()) if any(named.values()) else 0
    if unused:
        findings.warning("annotation files of no split", f"{unused} files are in folders that name no split")
    return chosen


def _split_of(path: str) -> Split | None:
    """The split that the nearest folder names, of those that name one."""
    return next((split for folder in reversed(path.split("/")[:-1]) if (split := split_in(folder))), None)


def _no_split(root: epath.Path, split: Split, why: str) -> MissingSplitError:
    ways = ": hold training images out with data.val_fraction=0.1" if split == "val" else ""
    return MissingSplitError(f"The Pascal VOC data set {root} has no '{split}' images, as {why}{ways}.")


def _list_of(root: epath.Path, names: Sequence[str]) -> epath.Path | None:
    folders = [folder for folder in folders_below(str(root)) if "ImageSets" in folder.split("/")]
    for name in names:
        found = [root / folder / name for folder in folders if (root / folder / name).is_file()]
        main = [file for file in found if file.parent.name == "Main"] or found
        if len(main) > 1:
            raise UserError(f"{root} has several lists of images ({', '.join(map(str, main))}): set data.root to one.")
        if main:
            return main[0]
    return None


def _listed(root: epath.Path, file: epath.Path, paths: Sequence[str], findings: Findings) -> list[str]:
    by_stem: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        by_stem[posixpath.splitext(posixpath.basename(path))[0]].append(path)
    chosen: list[str] = []
    try:
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The list of images {file} cannot be read ({text_problem(error)}).") from None
    for line, content in enumerate(lines, start=1):
        if not content.strip():
            continue
        stem = content.strip()  # Lists of one class have a number after the name.
        spellings = (stem, stem.split()[0], posixpath.splitext(stem)[0])
        found = next((by_stem[spelling] for spelling in spellings if spelling in by_stem), [])
        if len(found) == 1:
            chosen.append(found[0])
        else:
            there = "there is none" if not found else f"there are several: {', '.join(found)}"
            findings.error(
                "listed annotation file missing",
                f"{stem!r} needs one annotation file, and {there}",
                f"{file}, line {line}",
            )
    return list(dict.fromkeys(chosen))


def _contents(
    root: epath.Path, paths: Sequence[str], chosen: set[str], findings: Findings
) -> Iterator[tuple[str, VocFile]]:
    """All files that can be read: those of other splits, too, since all splits have the same classes."""
    for path in paths:
        try:
            content = read_xml(root / path)
        except UnreadableXmlError as error:
            if path in chosen:
                findings.error("annotation file unreadable", f"it is no XML that can be read: {error}", root / path)
            continue
        if content.root.tag != "annotation":
            if path in chosen:
                detail = f"it is no Pascal VOC annotation, but <{content.root.tag}>"
                findings.error("annotation file unreadable", detail, root / path)
            continue
        yield path, content


def _class_names(content: VocFile) -> Iterator[str]:
    return (name for thing in content.root.findall("object") if (name := text_of(thing, "name")) is not None)


def _records(
    root: epath.Path, contents: dict[str, VocFile], ids: dict[str, int], findings: Findings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    finder = _ImageFinder(root, findings)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    files = {path: finder.image_of(path, content) for path, content in contents.items()}
    for image_id, (path, file_name) in enumerate(sorted(files.items(), key=lambda item: item[1]), start=1):
        content = contents[path]
        size = content.root.find("size")
        line = content.lines[content.root if size is None else size]
        images.append(
            {
                WHERE: f"{root / path}, line {line}",
                "id": image_id,
                "file_name": file_name,
                "width": _side(text_of(size, "width")),
                "height": _side(text_of(size, "height")),
            }
        )
        for thing in content.root.findall("object"):
            where = f"{root / path}, line {content.lines[thing]}"
            annotations.append(
                {"id": len(annotations) + 1, "image_id": image_id, **_object(thing, ids, where, findings)}
            )
    return images, annotations


def _side(text: str | None) -> Any:
    value = whole_number(text)
    return text if value is None else value


def _object(thing: ElementTree.Element, ids: dict[str, int], where: str, findings: Findings) -> dict[str, Any]:
    name = text_of(thing, "name")
    texts = [text_of(thing, f"bndbox/{corner}") for corner in ("xmin", "ymin", "xmax", "ymax")]
    corners = [number(text) for text in texts]
    box: Any = texts
    if all(corner is not None for corner in corners):
        x1, y1, x2, y2 = (float(corner) for corner in corners if corner is not None)
        box = [x1 - 1, y1 - 1, x2 - x1 + 1, y2 - y1 + 1]
        if min(x1, y1) == 0:
            detail = f"{short(texts)}: Pascal VOC counts from 1, so 0 lies outside and is clipped"
            findings.note("corner at 0", detail, where)
    difficult = text_of(thing, "difficult")
    crowd = yes_or_no(difficult)
    return {
        WHERE: where,
        "category_id": None if name is None else ids[name],
        "bbox": box,
        "iscrowd": 0 if difficult is None else difficult if crowd is None else int(crowd),
    }


class _ImageFinder:
    """Finds the image of an annotation file: by its own name, or else by the name in it."""

    def __init__(self, root: epath.Path, findings: Findings):
        self.root, self.findings = root, findings
        self.by_stem: dict[str, list[str]] = defaultdict(list)
        self.by_name: dict[str, list[str]] = defaultdict(list)
        skipped: list[Skipped] = []
        for path in image_files(str(root), skipped):
            last = posixpath.basename(path)
            self.by_stem[name_key(posixpath.splitext(last)[0])].append(path)
            self.by_name[name_key(last)].append(path)
        report_skipped(str(root), skipped, findings)

    def image_of(self, path: str, content: VocFile) -> str:
        """The path of the image, relative to the root. Where there is none, the path that it should have."""
        stem = posixpath.splitext(posixpath.basename(path))[0]
        written = text_of(content.root, "filename")
        last = posixpath.basename((written or "").replace("\\", "/"))
        candidates = self.by_stem.get(name_key(stem), [])
        if not candidates:
            candidates = self.by_name.get(name_key(last), [])
            if len(candidates) == 1:
                return candidates[0]
        if len(candidates) > 1:
            candidates = _nearest(path, last, candidates)
        if len(candidates) == 1:
            other = self.by_name.get(name_key(last), [])
            if other and candidates[0] not in other:
                detail = f"it names {last!r}, and {candidates[0]} has its own name and is taken"
                self.findings.warning("annotation file names another image", detail, self.root / path)
            return candidates[0]
        if candidates:
            detail = f"several images can be meant: {', '.join(candidates)}"
            self.findings.error("image of two folders", detail, self.root / path)
        usual = _usual_folder(path)
        folder = usual if (self.root / usual).is_dir() else posixpath.dirname(path)
        return posixpath.join(folder, last or f"{stem}.jpg")


def _usual_folder(path: str) -> str:
    """The folder JPEGImages beside the folder of an annotation file."""
    return posixpath.join(posixpath.dirname(posixpath.dirname(path)), "JPEGImages")


def _nearest(path: str, last: str, candidates: Sequence[str]) -> list[str]:
    """The candidates in the folder JPEGImages of an annotation file. Without one, those that share the most folders.

    Folders are shared at the beginning (`pets/annots/1.xml`, `pets/images/1.jpg`), or else at the end
    (`annots/train/1.xml`, `images/train/1.jpg`). Of these, those with the name `last`, if there are any.
    """
    usual = posixpath.join(_usual_folder(path), "")
    best = [candidate for candidate in candidates if candidate.startswith(usual)] or list(candidates)
    for direction in (1, -1):
        parts = path.split("/")[:-1][::direction]
        shared = [_common(parts, candidate.split("/")[:-1][::direction]) for candidate in best]
        best = [candidate for candidate, count in zip(best, shared, strict=True) if count == max(shared)]
    return [candidate for candidate in best if posixpath.basename(candidate) == last] or best


def _common(first: Sequence[str], second: Sequence[str]) -> int:
    """The number of folders with which both paths begin."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


def _is_annotation(file: epath.Path) -> bool:
    try:
        with file.open("rb") as opened:
            beginning = opened.read(2000)
    except OSError:
        return False
    return b"<annotation" in beginning.replace(b"\0", b"")  # Also in UTF-16.
