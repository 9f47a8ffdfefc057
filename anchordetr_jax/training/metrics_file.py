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


def has_evaluation(workdir: epath.PathLike, step: int) -> bool:
    """Whether the metrics of a run hold an evaluation after so many steps."""
    path = epath.Path(workdir) / METRICS_FILE
    lines = path.read_text().splitlines() if path.exists() else []
    return any(EVALUATION_PREFIX in line and _step_of(line) == step for line in lines)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # Cut off when the run was killed: dropped, whichever step it was of.


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None
