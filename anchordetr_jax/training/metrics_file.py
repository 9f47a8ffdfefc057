"""`metrics.jsonl`: a JSON object a line, in the order of their `step`s, however often a run is stopped and resumed."""

import json
import math
from collections.abc import Mapping
from typing import Any, Self

from etils import epath

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import write_atomically

METRICS_FILE = "metrics.jsonl"
EVALUATION_PREFIX = "val/"
"""Starts the names of the numbers that an evaluation gave."""


class MetricsFile:
    """Appends to the metrics of a run. A context manager; use it on process 0."""

    def __init__(self, workdir: epath.PathLike, first_step: int):
        """Opens the file, dropping what it says of steps after `first_step`, as they are about to be taken again."""
        self.path = epath.Path(workdir) / METRICS_FILE
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step_of(line) <= first_step]
        write_atomically(self.path, "".join(line + "\n" for line in kept).encode())
        self._file = self.path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line: numbers to six digits, null if not finite. Raises `UserError` if the disk is full."""
        finite = {name: _short(value) for name, value in values.items()}
        try:
            self._file.write(json.dumps({"step": step, **finite}) + "\n")
            self._file.flush()
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror or error}.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()


def read_evaluations(workdir: epath.PathLike, last_step: int) -> list[tuple[int, float]]:
    """(step, AP) of every evaluation up to a step that the metrics of a run hold; -inf where AP is not a number."""
    path = epath.Path(workdir) / METRICS_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    evaluations = []
    for line in lines:
        if EVALUATION_PREFIX in line and (step := _step_of(line)) <= last_step:
            ap = json.loads(line).get(EVALUATION_PREFIX + "AP")
            evaluations.append((int(step), -math.inf if ap is None else ap))
    return evaluations


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # Cut off when the run was killed: dropped, whichever step it was of.


def rounded(value: float) -> float:
    """A number as a line of the metrics has it; -inf if it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else -math.inf


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return rounded(value) if math.isfinite(value) else None
