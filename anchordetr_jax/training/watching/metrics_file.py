"""`metrics.jsonl`: a JSON object a line, in the order of their `step`s, however often a run is stopped and resumed."""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any, Self

from etils import epath

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import write_atomically

METRICS_FILE = "metrics.jsonl"
EVALUATION_PREFIX = "val/"
"""Starts the names of the numbers that an evaluation gave."""
_REMOTE_SECONDS = 60
"""How often the file is written where nothing can be appended to it."""


class MetricsFile:
    """Appends to the metrics of a run. A context manager; use it on process 0.

    Nothing can be appended to a file in an object store (`gs://…`): there the whole file is written anew, now and then,
    and by `flush`.
    """

    def __init__(self, workdir: epath.PathLike, first_step: int):
        """Opens the file, dropping what it says of steps after `first_step`, as they are about to be taken again."""
        self.path = epath.Path(workdir) / METRICS_FILE
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self._lines = [line + "\n" for line in lines if _step_of(line) <= first_step]
        self._remote = "://" in os.fspath(self.path)
        self._unwritten = True
        self.flush()
        self._file = None if self._remote else self.path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line: numbers to six digits, null if not finite. Raises `UserError` if the disk is full."""
        line = json.dumps({"step": step, **{name: _short(value) for name, value in values.items()}}) + "\n"
        if self._file is None:
            self._lines.append(line)
            self._unwritten = True
            if time.monotonic() - self._written_at > _REMOTE_SECONDS:
                self.flush()
            return
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written ({error.strerror or error}): make room or mend the folder, then give "
                "the same command again."
            ) from error

    def flush(self) -> None:
        """Sees to it that all lines are where they belong. To be called before a checkpoint of their step is made."""
        if self._unwritten:
            write_atomically(self.path, "".join(self._lines).encode())
        self._unwritten = False
        self._written_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()
        if self._file is not None:
            with contextlib.suppress(OSError):  # Every line was flushed; one that could not be was told of.
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
