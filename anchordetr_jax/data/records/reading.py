"""Makes checked records of raw ones: the one way for every source, in training, evaluation and inspection."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.images import Orientation
from anchordetr_jax.data.records.annotations import Annotations, clean_annotations
from anchordetr_jax.data.records.boxes import clipped_corners, has_area
from anchordetr_jax.data.records.categories import clean_categories, heading_category
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.images import (
    CleanImage,
    Votes,
    clean_images,
    count_votes,
    decide_orientation,
    find_files,
    read_headers,
    settle_sizes,
)
from anchordetr_jax.data.records.locating import ImageFiles
from anchordetr_jax.data.records.portion import Portion
from anchordetr_jax.data.records.raw import RawSplit
from anchordetr_jax.data.records.values import whole_number
from anchordetr_jax.data.source import Split


@dataclasses.dataclass(frozen=True, kw_only=True)
class Records:
    """The checked records of one split, with images in the order of their ids."""

    raw: RawSplit
    name: str
    """For messages."""
    categories: Categories
    images: list[CleanImage]
    orientation: Orientation
    """How pictures are read whose size does not tell whether they were annotated as shown or as stored."""
    annotations: Annotations | None
    """None where the split has no annotations."""

    @functools.cached_property
    def sizes(self) -> np.ndarray:
        """int32 [n, 2]: (height, width) of the images in pixels."""
        return np.array([image.size for image in self.images], np.int32).reshape(-1, 2)


def read_records(
    raw: RawSplit,
    split: Split,
    findings: Findings,
    *,
    labels: LabelScheme = "contiguous",
    orientation: Literal["auto", "shown", "stored"] = "auto",
    portion: Portion | None = None,
    others: Callable[[], Sequence[RawSplit]] = lambda: (),
    look: bool = True,
    categories: Categories | None = None,
) -> Records:
    """Checks all records of a split, and looks at the headers of its images. Raises nothing for what is wrong.

    Args:
        raw: the records as they are given.
        split: what the images are for.
        findings: gets everything that is wrong, left out, clipped, changed or assumed.
        labels: how class outputs are numbered.
        orientation: the setting `data.orientation`.
        portion: the side of the images that is taken, where one set of images is divided.
        others: the records of the other splits of the data set. It is called only where they decide something.
        look: whether image files are looked for and looked at.
        categories: those to be taken; None: those of the records.
    """
    findings.all += raw.findings
    cached_others = functools.cache(others)
    if categories is None:
        categories = _categories(raw, labels, cached_others, findings)
    everything = clean_images(raw, findings)
    images, elsewhere = _taken(everything, portion)
    name = raw.name if portion is None else f"{raw.name} ({portion})"

    if look:
        find_files(images, raw.folder, findings, ImageFiles(raw.folder))
        read_headers(images, raw.folder, f"{split} images")
    votes = functools.partial(_votes, images, elsewhere, raw, cached_others)
    rule = decide_orientation(images, orientation, votes, findings, raw.folder)
    usable = settle_sizes(images, raw, rule, split, findings)
    unusable = {image.id for image in everything} - {image.id for image in usable}

    annotations = None
    if raw.annotations is not None:
        annotations = clean_annotations(
            raw.annotations,
            usable,
            _known(raw, categories),
            frozenset(unusable),
            raw.folder,
            findings,
            raw.box_form,
        )
    records = Records(
        raw=raw, name=name, categories=categories, images=usable, orientation=rule, annotations=annotations
    )
    if split == "train":
        _check_use(records, findings)
    return records


def _categories(
    raw: RawSplit, labels: LabelScheme, others: Callable[[], Sequence[RawSplit]], findings: Findings
) -> Categories:
    """A heading category is judged by the annotations of all splits, so that these have the same classes."""
    used = _used(raw)
    if heading_category(raw.categories, used) is not None:
        used |= {number for other in others() for number in _used(other)}
    return clean_categories(raw.categories, used, labels, findings)


def _used(raw: RawSplit) -> set[int | None]:
    return {whole_number(annotation.get("category_id")) for annotation in raw.annotations or ()}


def _known(raw: RawSplit, categories: Categories) -> dict[int, bool]:
    listed = (whole_number(record.get("id")) for record in raw.categories)
    return {number: number in categories.ids for number in listed if number is not None}


def _taken(images: list[CleanImage], portion: Portion | None) -> tuple[list[CleanImage], list[CleanImage]]:
    """The images on this side of a division, and those on the other side."""
    if portion is None or not images:
        return images, []
    takes = portion.takes([image.listed for image in images]).tolist()
    sides: tuple[list[CleanImage], list[CleanImage]] = ([], [])
    for image, taken in zip(images, takes, strict=True):
        sides[0 if taken else 1].append(image)
    return sides


def _votes(
    images: Iterable[CleanImage], elsewhere: list[CleanImage], raw: RawSplit, others: Callable[[], Sequence[RawSplit]]
) -> Votes:
    """Counts over the whole data set: this side of the images, the other side, and the other splits."""
    votes = count_votes(images)
    for more, split in [(elsewhere, raw), *((clean_images(other, Findings("")), other) for other in others())]:
        if split.has_sizes:
            find_files(more, split.folder, Findings(""), ImageFiles(split.folder))
            read_headers(more, split.folder, "orientation of other images")
            votes += count_votes(more)
    return votes


def _check_use(records: Records, findings: Findings) -> None:
    """Reports where nothing is left to train on."""
    annotations = records.annotations
    if annotations is None:
        findings.error("no annotations", "it has no annotations to train on")
        return
    if not records.images:
        return  # That is reported.
    corners = clipped_corners(annotations.xywh, records.sizes[annotations.rows])
    usable = ~annotations.crowds & has_area(corners)
    if not usable.any():
        total, crowds = len(usable), int(annotations.crowds.sum())
        detail = (
            f"there is no box to train on: of {total} annotations {crowds} are crowd regions, and {total - crowds} "
            "have no area inside their images"
        )
        findings.error("nothing to train on", detail)
