"""Single values of records: whole numbers, numbers and yes or no, as exporters write them."""

import json
import math
import re
from typing import Any

LARGEST = 2**63
"""Numbers must be smaller than this."""


def whole_number(value: Any) -> int | None:
    """An integer that is written as one, as a float (`550.0`) or as text (`"550"`). None for anything else."""
    if type(value) is str:
        value = int(value) if re.fullmatch(r"\s*[+-]?[0-9]{1,19}\s*", value) else number(value)
    if type(value) is float and math.isfinite(value) and value == int(value):
        value = int(value)
    return value if type(value) is int and abs(value) < LARGEST else None


def number(value: Any) -> float | int | None:
    """A finite number that is written as one, or as text. None for anything else."""
    if type(value) is str:
        if not re.fullmatch(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*", value):
            return None
        value = float(value)
    return value if type(value) in (int, float) and abs(value) < LARGEST else None  # Not NaN.


def yes_or_no(value: Any) -> bool | None:
    """A flag that is written as 0 or 1, as true or false, or as text of these. None for anything else."""
    if type(value) is str:
        value = {"false": 0, "true": 1}.get(value.strip().lower(), whole_number(value))
    return bool(value) if type(value) in (bool, int, float) and value in (0, 1) else None


def text_problem(error: OSError | UnicodeDecodeError) -> str:
    """Why a text file cannot be read."""
    if isinstance(error, UnicodeDecodeError):
        line = error.object.count(b"\n", 0, error.start) + 1
        return f"line {line}: it is no text in UTF-8"
    return error.strerror or str(error)


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and what it counts: "1 image", "2 images"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def short(value: Any) -> str:
    """A value for a message."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        text = str(type(value))
    return text if len(text) <= 80 else text[:77] + "..."
