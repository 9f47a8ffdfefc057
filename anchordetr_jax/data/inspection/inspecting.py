"""Looks at all splits of a data set: their records, their files, and what they have in common."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from etils import epath
from PIL import Image

from anchordetr_jax.config import DataConfig
from anchordetr_jax.data.images import DARK, darkness, read_image
from anchordetr_jax.data.inspection.copies import look_for_copies, look_for_near_copies, look_for_shared_files
from anchordetr_jax.data.loader import padded_boxes
from anchordetr_jax.data.records.annotations import Annotations
from anchordetr_jax.data.records.boxes import clipped_corners, has_area
from anchordetr_jax.data.records.findings import Finding, Findings
from anchordetr_jax.data.records.headers import READERS
from anchordetr_jax.data.records.locating import ImageFiles, report_skipped
from anchordetr_jax.data.records.reading import Records
from anchordetr_jax.data.source import MissingSplitError, Split
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.opening import SPLITS, open_records, with_validation_images
from anchordetr_jax.errors import UserError

NEAR_COPIES_UP_TO = 20_000
"""With more images than this, nearly equal images are looked for only where all pixels are decoded anyway."""

Ask = Callable[[Iterable[Any], int, str], Iterable[Any]]
"""Shows progress over an iterable, of known length and with a title."""


@dataclasses.dataclass
class InspectedImage:
    """An image and the boxes that are trained on."""

    id: int
    path: epath.Path
    size: tuple[int, int]
    """(height, width) in pixels."""
    boxes: list[list[float]]
    """xyxy in pixels, clipped to the image."""
    classes: list[int]
    """The place of each box's class among the classes."""
    readable: bool
    """Whether the file is there and its header can be read."""


@dataclasses.dataclass
class SplitInspection:
    """What a split holds, and what was found about it."""

    split: Split
    records: Records
    findings: Findings
    images: list[InspectedImage]

    @property
    def num_annotations(self) -> int:
        found = self.records.annotations
        return 0 if found is None else len(found.rows)

    @property
    def num_crowds(self) -> int:
        found = self.records.annotations
        return 0 if found is None else int(found.crowds.sum())


@dataclasses.dataclass
class DataSetInspection:
    """All splits of a data set, and all findings."""

    splits: list[SplitInspection]
    findings: list[Finding]
    remarks: list[str]


def inspect_dataset(
    config: DataConfig, *, decode: bool, evaluated: bool, ask: Ask, pieces: int = 1
) -> DataSetInspection:
    """Looks at every split. What is wrong is among the findings.

    Args:
        config: where the data set is.
        decode: whether to decode all pixels, instead of reading headers only.
        evaluated: whether training evaluates, so that it stops without validation images.
        ask: shows progress.
        pieces: the number of images of which a training image may consist.

    Raises `UserError` where there are no training images at all.
    """
    splits: list[SplitInspection] = []
    across = Findings(config.root)
    remarks: list[str] = []
    if evaluated or config.val_fraction > 0:
        config, line = with_validation_images(config)
        remarks += [line] if line else []
    for split in SPLITS:
        try:
            records, findings = open_records(config, split)
        except UserError as error:
            if split == "train":
                raise
            if split == "val" and evaluated:
                across.error("no validation images", str(error).rstrip("."))
            elif not isinstance(error, MissingSplitError):
                # Neither training nor its scores need them.
                across.warning(f"{split} images cannot be opened", str(error).rstrip("."))
            continue
        splits.append(inspect_split(split, records, findings, decode=decode, ask=ask))
        if split == "train" and records.images:
            _look_at_max_boxes(records, findings, config, pieces)
    _compare_classes(splits, across)
    files = [(found.split, image.id, image.path) for found in splits for image in found.images if image.readable]
    look_for_shared_files(files, across, ask)
    if decode or len(files) <= NEAR_COPIES_UP_TO:
        look_for_near_copies(files, across, ask)
    _look_for_unlisted(splits, across)
    remarks += [remark for found in splits for remark in found.records.raw.remarks]
    return DataSetInspection(splits, [*_findings_of(splits), *across.all], list(dict.fromkeys(remarks)))


def inspect_split(split: Split, records: Records, findings: Findings, *, decode: bool, ask: Ask) -> SplitInspection:
    """Adds to the findings about records what only the images and their use tell."""
    images = _images(records)
    found = SplitInspection(split, records, findings, images)
    if records.annotations is not None:
        _look_at_use(found)
    if decode:
        _decode(found, ask)
    look_for_copies([(split, image.id, image.path) for image in images if image.readable], findings, ask)
    return found


def _findings_of(splits: Sequence[SplitInspection]) -> list[Finding]:
    """The findings of all splits. What one file says of two splits is there once."""
    findings: list[Finding] = []
    known: set[str] = set()  # As text: an id of a record may be anything, also a list.
    for found in splits:
        findings += [finding for finding in found.findings.all if repr(finding) not in known]
        known.update(map(repr, found.findings.all))
    return findings


def _images(records: Records) -> list[InspectedImage]:
    images = [
        InspectedImage(
            id=image.id,
            path=records.raw.folder / image.name,
            size=(int(size[0]), int(size[1])),
            boxes=[],
            classes=[],
            readable=image.look is None or image.look.header is not None,
        )
        for image, size in zip(records.images, records.sizes.tolist(), strict=True)
    ]
    if (found := records.annotations) is not None:
        corners, usable = _usable(found, records.sizes)
        places = np.searchsorted(np.array(records.categories.ids), found.category_ids)
        for index in np.flatnonzero(usable).tolist():
            image = images[int(found.rows[index])]
            image.boxes.append(corners[index].tolist())
            image.classes.append(int(places[index]))
    return images


def _usable(found: Annotations, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clipped corners of all annotations, and whether each is trained on."""
    corners = clipped_corners(found.xywh, sizes[found.rows])
    return corners, ~found.crowds & has_area(corners)


def _look_at_use(found: SplitInspection) -> None:
    """Looks for images and classes without objects."""
    annotations, categories = found.records.annotations, found.records.categories
    assert annotations is not None
    annotated = set(annotations.rows.tolist())
    for row, image in enumerate(found.images):
        if not image.boxes:
            why = "nothing usable is annotated" if row in annotated else "nothing is annotated"
            found.findings.note("image without objects", why, image.path, image_id=image.id)
    used = {place for image in found.images for place in image.classes}
    for place, (number, name) in enumerate(zip(categories.ids, categories.names, strict=True)):
        if place not in used:
            detail = f"category {number} ({name!r}) has no usable box"
            found.findings.warning("class without objects", detail)


def _look_at_max_boxes(records: Records, findings: Findings, config: DataConfig, pieces: int) -> None:
    """Training stops at an image with more boxes than the setting allows."""
    try:
        padded_boxes(AnnotatedImages(records, Findings(records.name)), config, pieces)
    except UserError as error:
        findings.error("more boxes than data.max_boxes", str(error).rstrip("."))


def _decode(found: SplitInspection, ask: Ask) -> None:
    """Reads all pixels. Reports files that cannot be read, and those that are nearly black."""

    def problem(image: InspectedImage) -> tuple[str, str] | None:
        try:
            pixels = read_image(image.path, image.size, found.records.orientation)
        except UserError as error:
            return "unreadable file", str(error).rstrip(".")
        if pixels.max() > DARK // 256:  # Most files need no second look.
            return None
        with image.path.open("rb") as file, Image.open(file) as picture:
            dark = darkness(picture)
        return None if dark is None else ("nearly black image", f"it {dark}")

    images = [image for image in found.images if image.readable]
    reported = {finding.image_id for finding in found.findings.all if finding.kind == "wrong size"}
    with ThreadPoolExecutor(READERS) as pool:
        problems = ask(pool.map(problem, images), len(images), f"{found.split} pixels")
        for image, told in zip(images, problems, strict=True):
            if told is None or image.id in reported:
                continue
            kind, detail = told
            if found.split == "train" or kind != "unreadable file":
                found.findings.warning(kind, detail, image.path, image_id=image.id)
            else:
                found.findings.error(kind, detail, image.path, image_id=image.id, stops=False)


def _compare_classes(splits: Sequence[SplitInspection], across: Findings) -> None:
    """Training stops where the validation images have other classes, and the evaluation of test images as well."""
    records = {found.split: found.records for found in splits}
    names = {
        split: dict(zip(found.categories.ids, found.categories.names, strict=True)) for split, found in records.items()
    }
    for split in records:
        if split == "train" or not names[split]:  # Lists of test images may be without classes.
            continue
        for number in sorted(names["train"].keys() | names[split].keys()):
            ours, theirs = names["train"].get(number), names[split].get(number)
            if ours != theirs:
                detail = (
                    f"category {number} is {ours!r} in {records['train'].name} and {theirs!r} in {records[split].name}"
                )
                across.error(
                    f"train and {split} have different classes", detail, records[split].name, stops=split == "val"
                )


def _look_for_unlisted(splits: Sequence[SplitInspection], across: Findings) -> None:
    """Notes image files that no split lists, in the folders of the listed images, and folders that are left out."""
    said = {finding.file for finding in _findings_of(splits)}
    listed = {str(image.path) for found in splits for image in found.images}
    for folder in sorted({str(found.records.raw.folder) for found in splits}):
        files = ImageFiles(folder)
        if files.is_remote:
            continue
        below = [str(files.folder / path) for path in files.below()]
        new = [one for one in files.skipped if str(files.folder / one.path) not in said]
        report_skipped(str(files.folder), new, across)
        said.update(str(files.folder / one.path) for one in new)
        own_parents = {str(epath.Path(path).parent) for path in listed}
        unlisted = [path for path in below if path not in listed and str(epath.Path(path).parent) in own_parents]
        for path in unlisted:
            detail = f"{len(unlisted)} of {len(below)} image files in {folder} are in no annotation file or list"
            across.note("image file that is not listed", detail, path)
