"""Reads YOLO's label files: one object per line, as a box or as a polygon, with shares of the image as numbers."""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from anchordetr_jax.data.records.findings import Findings
from anchordetr_jax.data.records.raw import WHERE
from anchordetr_jax.data.records.values import counted, short, text_problem

BEYOND = 0.01
"""Shares may lie this far outside 0 and 1: tools round."""


@dataclasses.dataclass(frozen=True)
class LabelReader:
    """Reads label files, and reports the lines that make no sense.

    Args:
        names: of the classes, by their index.
        findings: gets the lines that make no sense.
        keypoints: whether lines hold keypoints after the box.
    """

    names: Mapping[int, str]
    findings: Findings
    keypoints: bool = False

    def read(self, file: epath.Path) -> list[dict[str, Any]]:
        """The objects of a label file as records without ids: `category_id` (index + 1), `bbox` (cx, cy, w, h)."""
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            self.findings.error("label file unreadable", f"the label file cannot be read: {text_problem(error)}", file)
            return []
        records = []
        for line, content in enumerate(text.splitlines(), start=1):
            if content.strip():
                record = self._object(content.split(), f"{file}, line {line}")
                if record is not None:
                    records.append(record)
        return records

    def _object(self, words: list[str], where: str) -> dict[str, Any] | None:
        findings = self.findings
        numbers = [_number(word) for word in words]
        wrong = [word for word, value in zip(words, numbers, strict=True) if value is None]
        if wrong:
            findings.error("malformed label line", f"{short(wrong[0])} is no number", where)
            return None
        values = [value for value in numbers if value is not None]
        index, shares = values[0], values[1:]
        is_polygon = len(shares) >= 6 and len(shares) % 2 == 0 and not self.keypoints
        if not (len(shares) == 4 or is_polygon or (self.keypoints and len(shares) > 4)):
            detail = (
                "a line has a class and 4 numbers, or a class and the corners of a polygon, and this one a class and "
                f"{counted(len(shares), 'number')}"
            )
            findings.error("malformed label line", detail, where)
            return None
        if index not in self.names:
            known = f"from {min(self.names)} to {max(self.names)}" if self.names else "none"
            findings.error("unknown class", f"the class {index:g} is not among the names ({known})", where)
            return None
        box = _box_of(shares) if is_polygon else shares[:4]
        worst = max([*shares[:4], *box], key=lambda value: abs(value - 0.5))
        if not -BEYOND <= worst <= 1 + BEYOND:
            kind, meant = ("label in pixels", " pixels") if worst > 2 else ("label beyond its image", "")
            findings.error(kind, f"coordinates are shares from 0 to 1 of the image, not {worst:g}{meant}", where)
            return None
        decimals = min(len(word.partition(".")[2]) if "e" not in word.lower() else 17 for word in words[1:])
        return {
            WHERE: where,
            "category_id": int(index) + 1,
            "bbox": box,
            "decimals": 17 if decimals == 0 else decimals,  # Whole numbers are exact.
        }


def _box_of(corners: list[float]) -> list[float]:
    """Centre x, centre y, width, height of the box around a polygon."""
    x, y = corners[::2], corners[1::2]
    return [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]


def _number(word: str) -> float | None:
    if not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", word):
        return None
    value = float(word)
    return value if math.isfinite(value) else None
