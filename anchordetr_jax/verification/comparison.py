"""Numbers that two implementations computed, side by side: one row per stage, with a verdict."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

Measure = Literal["absolute", "scaled", "relative", "norm"]

HEADER = ("stage", "shape", "max diff", "mean diff", "error", "tolerance", "verdict")


@dataclasses.dataclass(frozen=True)
class Row:
    """One comparison."""

    stage: str
    shape: tuple[int, ...]
    max_difference: float
    """Absolute."""
    mean_difference: float
    """Absolute."""
    error: float
    """The number that the tolerance limits; see `Table.compare`."""
    tolerance: float | None
    """None: the difference is reported and not judged."""
    measure: Measure = "absolute"
    note: str = ""

    @property
    def passed(self) -> bool:
        """False where the error is too large or not a number."""
        if self.tolerance is None:
            return math.isfinite(self.error)
        return self.error <= self.tolerance

    @property
    def verdict(self) -> str:
        if not self.passed:
            return "FAILED"
        return "reported" if self.tolerance is None else "ok"


class Table:
    """A title, rows, and notes below them."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.rows: list[Row] = []
        self.notes: list[str] = []

    @property
    def passed(self) -> bool:
        """True if there is at least one row and no row failed."""
        return bool(self.rows) and all(row.passed for row in self.rows)

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if not row.passed]

    def compare(
        self,
        stage: str,
        ours: np.ndarray | float,
        reference: np.ndarray | float,
        tolerance: float | None,
        measure: Measure = "absolute",
        note: str = "",
    ) -> None:
        """Adds a row for two arrays of the same shape.

        Args:
            stage: name of the row.
            ours: the array to judge.
            reference: the right array.
            tolerance: the largest error that passes. None: the row is reported and not judged.
            measure: how the error is computed. "absolute": the largest difference. "scaled": the largest difference,
                divided by the reference's largest magnitude where that is over 1. "relative": the largest quotient of a
                difference and its reference value. "norm": the norm of all differences, divided by the reference's.
            note: printed after the verdict.
        """
        a, b = np.asarray(ours, np.float64), np.asarray(reference, np.float64)
        if a.shape != b.shape:
            failed = f"shape {list(a.shape)} instead of {list(b.shape)}"
            self.rows.append(Row(stage, b.shape, math.nan, math.nan, math.nan, tolerance, measure, failed))
            return
        difference = np.abs(a - b)
        largest, mean = (float(difference.max()), float(difference.mean())) if a.size else (0.0, 0.0)
        error = largest
        if measure == "scaled":
            error = largest / max(1.0, _largest(b))
        elif measure == "relative" and a.size:
            with np.errstate(divide="ignore", invalid="ignore"):
                error = float(np.max(np.where(difference == 0, 0.0, difference / np.abs(b))))
        elif measure == "norm":
            norm = float(np.linalg.norm(difference))
            error = norm / float(np.linalg.norm(b)) if norm else 0.0
        self.rows.append(Row(stage, b.shape, largest, mean, error, tolerance, measure, note))

    def compare_named(
        self,
        stage: str,
        ours: Mapping[str, float],
        reference: Mapping[str, float],
        tolerance: float | None,
        *,
        floor: float = 0.0,
    ) -> None:
        """Adds one row for many named numbers. Each error is relative to its reference, or to `floor` if it is larger.

        Each number that fails gets another row with its name. A name that only one side has fails.
        """
        names = sorted(reference.keys() & ours.keys())
        a, b = (np.array([side[name] for name in names], np.float64) for side in (ours, reference))
        scale = np.maximum(np.abs(b), floor)
        with np.errstate(divide="ignore", invalid="ignore"):
            errors = np.where(a == b, 0.0, np.abs(a - b) / scale)
        worst = names[int(np.argmax(np.nan_to_num(errors, nan=np.inf)))] if names else ""
        difference = np.abs(a - b)
        self.rows.append(
            Row(
                stage,
                b.shape,
                float(difference.max(initial=0.0)),
                float(difference.mean()) if names else 0.0,
                float(errors.max(initial=0.0)),
                tolerance,
                "relative",
                f"worst: {worst}" if names else "",
            )
        )
        limit = math.inf if tolerance is None else tolerance
        for name, error, gap in zip(names, errors.tolist(), difference.tolist(), strict=True):
            if not error <= limit:
                self.rows.append(Row(f"  {name}", (), gap, gap, error, tolerance, "relative"))
        for name in sorted(reference.keys() ^ ours.keys()):
            where = "not here" if name in reference else "not in the reference"
            self.rows.append(Row(f"  {name}", (), math.nan, math.nan, math.nan, 0.0, "relative", where))

    def note(self, text: str) -> None:
        """Adds a line below the table."""
        self.notes.append(text)

    def __str__(self) -> str:
        lines = [HEADER, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
        texts = []
        for index, line in enumerate(lines):
            cells = [
                cell.ljust(width) if column in (0, 1, 6) else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            note = self.rows[index - 1].note if index else ""
            texts.append("  ".join(cells + ([note] if note else [])).rstrip())
        rule = "-" * len("  ".join("x" * width for width in widths))
        failed = len(self.failed)
        verdict = f"{len(self.rows)} rows, " + ("all agree." if self.passed else f"{failed} FAILED.")
        return "\n".join([self.title, texts[0], rule, *texts[1:], *self.notes, verdict])


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max()) if array.size else 0.0


def _cells(row: Row) -> tuple[str, ...]:
    mark = {"relative": " rel", "norm": " rel", "scaled": " scl"}.get(row.measure, "")
    tolerance = "" if row.tolerance is None else f"{row.tolerance:.1e}"
    shape = "x".join(map(str, row.shape)) or "-"
    numbers = (f"{value:.1e}" for value in (row.max_difference, row.mean_difference))
    return (row.stage, shape, *numbers, f"{row.error:.1e}{mark}", tolerance, row.verdict)
