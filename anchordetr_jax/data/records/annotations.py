"""The annotations of a split: checked, numbered, with boxes in pixels."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from anchordetr_jax.data.records.boxes import (
    OVERHANG,
    clipped_corners,
    has_area,
    look_for_another_form,
    overhang,
)
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.images import CleanImage
from anchordetr_jax.data.records.raw import WHERE, BoxForm, Record
from anchordetr_jax.data.records.values import LARGEST, number, short, whole_number, yes_or_no


@dataclasses.dataclass(frozen=True)
class Annotations:
    """m annotations in the order of their records."""

    ids: np.ndarray
    """int64 [m]: all different, and none is 0, which scoring takes for "not found"."""
    rows: np.ndarray
    """int64 [m]: the image of each."""
    category_ids: np.ndarray
    """int64 [m]"""
    xywh: np.ndarray
    """float64 [m, 4] in pixels, as given: they may reach over the edge of their images."""
    areas: np.ndarray
    """float64 [m] in pixels, by which scoring sorts small, medium and large objects."""
    crowds: np.ndarray
    """bool [m]: regions that are not trained on, and where no detection counts as false."""


class _Row(NamedTuple):
    """One annotation whose values make sense."""

    record: Record
    id: int | None
    row: int
    category: int
    box: list[float]
    area: float
    crowd: bool


class _Reader:
    """Reads one record after the other."""

    def __init__(
        self,
        images: Sequence[CleanImage],
        categories: Mapping[int, bool],
        dropped: frozenset[int],
        folder: epath.Path,
        findings: Findings,
    ):
        self.rows = {image.id: row for row, image in enumerate(images)}
        self.images, self.categories, self.dropped = images, categories, dropped
        self.folder, self.findings = folder, findings

    def read(self, record: Record) -> _Row | None:
        """None where the record makes no sense, which is then among the findings."""
        return self._read_plain(record) or self._read_other(record)

    def place(self, record: Record, row: int) -> object:
        """The file and line of a record, or its image file."""
        return record.get(WHERE) or self.folder / self.images[row].name

    def _read_plain(self, record: Record) -> _Row | None:
        """Reads a record whose values all have the usual types. This makes large data sets load fast."""
        image_id, category, box = record.get("image_id"), record.get("category_id"), record.get("bbox")
        if type(image_id) is not int or type(category) is not int or type(box) is not list or len(box) != 4:
            return None
        row, crowd, given_id = self.rows.get(image_id), record.get("iscrowd"), record.get("id")
        area: Any = record.get("area")
        if row is None or category not in self.categories or (crowd != 0 and crowd != 1) or type(crowd) is not int:
            return None
        for value in (*box, area):
            if (type(value) is not float and type(value) is not int) or not abs(value) < LARGEST:
                return None
        if area < 0 or type(given_id) is not int or abs(given_id) >= LARGEST:
            return None
        return _Row(record, given_id, row, category, box, area, crowd == 1)

    def _read_other(self, record: Record) -> _Row | None:
        findings = self.findings
        given_id, image_id, category = record.get("id"), record.get("image_id"), record.get("category_id")
        image_number = whole_number(image_id)
        if image_number in self.dropped:
            return None  # Its image is reported.
        row = self.rows.get(image_number) if image_number is not None else None
        ids: dict[str, Any] = {"image_id": image_id, "annotation_id": given_id}
        if row is None:
            findings.error("unknown image", f"the image {short(image_id)} is not listed", record.get(WHERE), **ids)
            return None
        ids["image_id"] = image_number
        place = self.place(record, row)
        category_number = whole_number(category)
        if category_number is None or category_number not in self.categories:
            findings.error("unknown category", f"the category {short(category)} is not listed", place, **ids)
            return None
        box = record.get("bbox")
        numbers = [number(value) for value in box] if isinstance(box, list | tuple) and len(box) == 4 else []
        if len(numbers) != 4 or any(value is None for value in numbers):
            findings.error("malformed box", f"bbox is {short(box)}, not four numbers", place, **ids)
            return None
        values = [float(value) for value in numbers if value is not None]
        crowd = self._crowd(record, place, ids)
        if crowd is None:
            return None
        if any(type(value) is not int for value in (image_id, category)) or any(type(v) is str for v in box or ()):
            detail = f"image_id {short(image_id)}, category_id {short(category)}, bbox {short(box)}: read as numbers"
            findings.warning("text or float taken as a number", detail, place, **ids)
        number_or_none = given_id if type(given_id) is int and abs(given_id) < LARGEST else None
        return _Row(record, number_or_none, row, category_number, values, self._area(record, place, ids), crowd)

    def _crowd(self, record: Record, place: object, ids: dict[str, Any]) -> bool | None:
        value = record.get("iscrowd", 0)
        if type(value) in (int, bool) and value in (0, 1):
            return bool(value)
        if value is None:
            self.findings.warning("iscrowd is null", "it is taken as 0", place, **ids)
            return False
        crowd = yes_or_no(value)
        if crowd is None:
            self.findings.error("malformed iscrowd", f"iscrowd is {short(value)}, not 0 or 1", place, **ids)
        else:
            detail = f"iscrowd {short(value)} is taken as {int(crowd)}"
            self.findings.warning("text or float taken as a number", detail, place, **ids)
        return crowd

    def _area(self, record: Record, place: object, ids: dict[str, Any]) -> float:
        """NaN where width x height is to be taken."""
        if "area" not in record:
            return math.nan
        value = record["area"]
        area = number(value)
        if area is None or area < 0:
            self.findings.warning("area is no number", f"area {short(value)}: width x height is taken", place, **ids)
            return math.nan
        if type(value) is str:
            detail = f"area {short(value)} is taken as {area:g}"
            self.findings.warning("text or float taken as a number", detail, place, **ids)
        return float(area)


def clean_annotations(
    records: Sequence[Record],
    images: Sequence[CleanImage],
    categories: Mapping[int, bool],
    dropped: frozenset[int],
    folder: epath.Path,
    findings: Findings,
    box_form: BoxForm = "pixels",
) -> Annotations:
    """The annotations that make sense.

    Args:
        records: of one split.
        images: those of the split, with sizes.
        categories: of each known category id, whether it is a class (and not only a heading).
        dropped: ids of images that are reported as unusable.
        folder: of the images, for messages.
        findings: gets everything that is left out, clipped, changed or wrong.
        box_form: what the numbers of the boxes are.
    """
    reader = _Reader(images, categories, dropped, folder, findings)
    kept = [row for record in records if (row := reader.read(record)) is not None and categories[row.category]]
    sizes = np.array([images[row.row].size for row in kept], np.int64).reshape(-1, 2)
    xywh = np.array([row.box for row in kept], np.float64).reshape(-1, 4)
    areas = np.array([row.area for row in kept], np.float64)
    crowds = np.array([row.crowd for row in kept], bool)
    if box_form == "relative":
        xywh = _pixels(xywh, sizes, kept, reader)
    elif box_form == "pixels":
        form = look_for_another_form(xywh[~crowds], areas[~crowds], sizes[~crowds])
        if form is not None:
            findings.error(*form)
    without = np.isnan(areas)
    product = np.abs(xywh[:, 2] * xywh[:, 3])
    usable = has_area(clipped_corners(xywh, sizes))
    _report_boxes(kept, xywh, sizes, usable, crowds, reader)
    _report_equal_boxes(kept, xywh, usable & ~crowds, reader)
    return Annotations(
        ids=_numbers(kept, reader),
        rows=np.array([row.row for row in kept], np.int64),
        category_ids=np.array([row.category for row in kept], np.int64),
        xywh=xywh,
        areas=np.where(without, product, areas),
        crowds=crowds,
    )


def _numbers(kept: Sequence[_Row], reader: _Reader) -> np.ndarray:
    """The ids of the annotations. Where one is missing, 0 or there twice, all are numbered again, from 1."""
    ids = [row.id for row in kept]
    counts = Counter(ids)
    if None not in counts and 0 not in counts and len(counts) == len(ids):
        return np.array(ids, np.int64)
    seen: set[int] = set()
    for row in kept:
        if row.id is None or row.id == 0 or row.id in seen:
            why = "is there twice" if row.id in seen else "is no whole number other than 0"
            detail = f"the id {short(row.record.get('id'))} {why}: all annotations are numbered again, from 1"
            place = reader.place(row.record, row.row)
            image_id = reader.images[row.row].id
            kind = "annotation ids numbered again"
            reader.findings.warning(kind, detail, place, image_id=image_id, annotation_id=row.record.get("id"))
        if row.id is not None:
            seen.add(row.id)
    return np.arange(1, len(ids) + 1)


def _report_boxes(
    kept: Sequence[_Row], xywh: np.ndarray, sizes: np.ndarray, usable: np.ndarray, crowds: np.ndarray, reader: _Reader
) -> None:
    """Reports crowd regions, boxes that are left out of training, and boxes that are clipped."""
    beyond = overhang(xywh, sizes) > OVERHANG
    flat = np.asarray((xywh[:, 2:] <= 0).any(axis=1))
    for place in np.flatnonzero(crowds | ~usable | beyond).tolist():
        row, findings = kept[place], reader.findings
        image = reader.images[row.row]
        file = reader.place(row.record, row.row)
        ids = {"image_id": image.id, "annotation_id": row.record.get("id")}
        if crowds[place]:
            findings.note("crowd region", "left out of training, and scored as in COCO", file, **ids)
            continue
        box = short(row.record.get("bbox"))
        height, width = sizes[place].tolist()
        placed = f"{box} in an image of {width} x {height}"
        left_out = "it is left out of training, and scoring counts it as missed"
        if not usable[place] and flat[place]:
            findings.warning("box without area", f"{box}: {left_out}", file, **ids)
        elif not usable[place]:
            findings.warning("box outside its image", f"{placed}: {left_out}", file, **ids)
        else:
            clipped = "training clips it, and scoring takes it whole"
            findings.warning("box partly outside its image", f"{placed}: {clipped}", file, **ids)


def _report_equal_boxes(kept: Sequence[_Row], xywh: np.ndarray, trained: np.ndarray, reader: _Reader) -> None:
    """Reports boxes that are there before, in the same image and of the same category, among those `trained` on."""
    places = np.flatnonzero(trained)
    keys = np.array([(row.row, row.category) for row in kept], np.float64).reshape(-1, 2)
    keys = np.concatenate([keys, xywh], axis=1)[places]
    order = np.lexsort(keys.T)  # It is stable, so the first of equal ones stays first.
    again = np.zeros(len(places), bool)
    again[order[1:]] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    for place in places[again].tolist():
        row = kept[place]
        numbers = ", ".join(f"{value:g}" for value in xywh[place])
        reader.findings.warning(
            "same box twice",
            f"[{numbers}] of the same category: it counts as two objects",
            reader.place(row.record, row.row),
            image_id=reader.images[row.row].id,
            annotation_id=row.record.get("id"),
        )


def _pixels(xywh: np.ndarray, sizes: np.ndarray, kept: Sequence[_Row], reader: _Reader) -> np.ndarray:
    """float64 [m, 4]: x, y, width, height in pixels, of centres and sizes as shares of the image."""
    sides = sizes[:, ::-1].astype(np.float64)
    decimals = np.array([row.record.get("decimals", 6) for row in kept])
    centres, spans = xywh[:, :2] * sides, xywh[:, 2:] * sides
    error = 0.76 * 10.0 ** -decimals[:, None] * sides + 1e-9
    corners = np.concatenate([centres - spans / 2, centres + spans / 2], axis=1)
    corners = _fewest_decimals(corners, np.tile(error, 2))
    return np.concatenate(
        [corners[:, :2], _fewest_decimals(corners[:, 2:] - corners[:, :2], np.full_like(error, 1e-9))], axis=1
    )


def _fewest_decimals(values: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Values rounded to whole numbers or two decimals, where such a number lies within `error`."""
    whole, two = np.round(values), np.round(values, 2)
    values = np.where((np.abs(values - two) <= error) & (error < 0.005), two, values)
    return np.where((np.abs(values - whole) <= error) & (error < 0.5), whole, values)
