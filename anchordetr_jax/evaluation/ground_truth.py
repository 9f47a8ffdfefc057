"""Ground truth as pycocotools can score it.

pycocotools trusts what it is given. It takes annotations with equal ids for one annotation, a match with id 0 for no
match, and stops at an `area` that is no number. So annotations get new ids and usable values before they are scored.
"""

import json
import numbers
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from anchordetr_jax.errors import UserError

Record = Mapping[str, Any]

LARGEST = 2**63
"""Numbers must be smaller."""


def scorable(truth: Mapping[str, Any], source: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Ground truth for pycocotools, and sentences about what had to be changed in it.

    Annotations get the ids 1, 2, 3, … in their order. An `area` that is missing or no number becomes that of the box,
    and an `iscrowd` that is missing or null becomes 0. Everything else stays as it is.

    Args:
        truth: the contents of a COCO annotation file.
        source: its name, for messages.

    Raises:
        UserError: `truth` is not in COCO's form, or an annotation cannot be scored.
    """
    if not all(isinstance(truth.get(key), list) for key in ("images", "annotations", "categories")):
        raise UserError(f"{source} is not in COCO's form: it needs the lists 'images', 'annotations' and 'categories'.")
    annotations: Sequence[Record] = truth["annotations"]
    cleaned = [_cleaned(number, record, source) for number, record in enumerate(annotations, start=1)]
    notes = []
    if count := _without_own_id(annotations):
        notes.append(
            f"{count} of {len(annotations)} annotations in {source} have no id of their own (it is missing, repeated, "
            "0 or not a whole number): all are numbered again for scoring."
        )
    if count := sum("area" in record and not _is_area(record["area"]) for record in annotations):
        notes.append(
            f"{count} of {len(annotations)} annotations in {source} have an 'area' that is no number of at least 0: "
            "the area of the box is taken."
        )
    if not any(not record["iscrowd"] for record in cleaned):
        notes.append(
            f"{source} has no object to find (crowd regions do not count), so every score is -1: COCO's value for "
            "'nothing to measure'."
        )
    return {**truth, "annotations": cleaned}, tuple(notes)


def _cleaned(number: int, record: Record, source: str) -> dict[str, Any]:
    for key in ("image_id", "category_id", "bbox"):
        if key not in record:
            raise UserError(f"An annotation in {source} has no '{key}': {_short(record)}; scoring needs it.")
    box = record["bbox"]
    if not (isinstance(box, list | tuple) and len(box) == 4 and all(_is_number(side) for side in box)):
        raise UserError(f"An annotation in {source} has a 'bbox' that is not four numbers: {_short(record)}.")
    crowd = record.get("iscrowd") or 0
    if crowd not in (0, 1):
        raise UserError(f"An annotation in {source} has an 'iscrowd' that is not 0 or 1: {_short(record)}.")
    area = record.get("area")
    return {
        **record,
        "id": number,
        "area": area if _is_area(area) else float(box[2]) * float(box[3]),
        "iscrowd": int(crowd),
    }


def _without_own_id(annotations: Iterable[Record]) -> int:
    """The number of annotations whose id pycocotools would take for another one's, or for none."""
    seen: set[int] = set()
    count = 0
    for record in annotations:
        number = record.get("id")
        if type(number) is not int or number == 0 or number in seen:
            count += 1
        else:
            seen.add(number)
    return count


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and bool(abs(value) < LARGEST)


def _is_area(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _short(record: Record) -> str:
    return json.dumps(record, default=str)[:100]
