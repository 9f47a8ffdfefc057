"""The categories of a data set: checked, and without a heading that is no class."""

import re
import unicodedata
from collections.abc import Collection, Sequence
from typing import Any

from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.raw import Record
from anchordetr_jax.data.records.values import short, whole_number

MAX_RAW_LABELS = 10_000
"""The largest category id that can be a class output itself."""


def clean_categories(
    records: Sequence[Record], used: Collection[Any], scheme: LabelScheme, findings: Findings
) -> Categories:
    """The categories that are classes.

    Args:
        records: of one split.
        used: the category ids that annotations of the whole data set name, as they are written.
        scheme: how class outputs are numbered.
        findings: gets everything that is wrong.
    """
    names: dict[int, str] = {}
    heading = heading_category(records, used)
    for place, record in enumerate(records):
        number, name = whole_number(record.get("id")), record.get("name")
        if number is None or not isinstance(name, str) or not name:
            findings.error("malformed record", f"category {short(record)} needs a whole number as id and a name")
            continue
        if type(record["id"]) is not int:
            findings.warning("text or float taken as a number", f"category id {short(record['id'])} is {number}")
        if number in names:
            findings.error("category id twice", f"category {number} is {names[number]!r} and {name!r}")
            continue
        if place == heading:
            findings.note("category that only heads the others", f"category {number} ({name!r}) is no class")
            continue
        if name in names.values():
            findings.warning("category name twice", f"{name!r} is the name of two categories; one has id {number}")
        names[number] = name
    _look_for_similar_names(names, findings)
    ids = tuple(sorted(names))
    if not ids:
        findings.error("no categories", "it lists no usable category" if records else "it lists no categories")
    elif scheme == "raw" and not (ids[0] >= 0 and ids[-1] < MAX_RAW_LABELS):
        findings.error(
            "category ids that cannot number class outputs",
            f"the category ids are from {ids[0]} to {ids[-1]}; set data.labels='contiguous'",
        )
    return Categories(ids=ids, names=tuple(names[number] for number in ids), scheme=scheme)


def heading_category(records: Sequence[Record], used: Collection[Any]) -> int | None:
    """The place of a category that is the supercategory of all others and that no annotation names.

    Roboflow adds one. `used` are the category ids that annotations name.
    """
    if len(records) < 2:
        return None
    for place, record in enumerate(records):
        name = record.get("name")
        others = [*records[:place], *records[place + 1 :]]
        if isinstance(name, str) and all(other.get("supercategory") == name for other in others):
            number = whole_number(record.get("id"))
            return None if any(whole_number(one) == number for one in used) else place
    return None


def _look_for_similar_names(names: dict[int, str], findings: Findings) -> None:
    """Notes class names that differ only by case, spaces, hyphens or Unicode form."""
    first: dict[str, str] = {}
    for number, name in names.items():
        key = re.sub(r"[\s_-]+", "", unicodedata.normalize("NFKC", name).casefold())
        if first.setdefault(key, name) != name:
            findings.note(
                "class names that are nearly equal",
                f"{first[key]!r} and {name!r} (category {number}) differ only by case, spaces or hyphens",
            )
