"""Writes `metrics.jsonl`, ordered by `step`, also if the run is stopped and resumed."""

import contextlib
import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any, Self, TextIO

from etils import epath

from anchordetr_jax.checkpoints.run_metrics import METRICS_FILE
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import write_atomically

_REMOTE_SECONDS = 60
"""How often the file is written in a bucket, where nothing can be appended."""


class MetricsFile:
    """Appends to the metrics of a run. A context manager; use it on process 0.

    Nothing can be appended to a file in a bucket (`gs://…`): there the whole file is written again once a minute, and
    by `flush`.
    """

    def __init__(self, workdir: epath.PathLike, first_step: int):
        """Opens the file and drops the lines of steps after `first_step`: the run takes those steps again."""
        self.path = epath.Path(workdir) / METRICS_FILE
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self._lines = [line + "\n" for line in lines if _step_of(line) <= first_step]
        self._remote = "://" in os.fspath(self.path)
        self._unwritten = True
        self._file: TextIO | None = None
        self.flush()
        self._file = None if self._remote else self.path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Appends a line. Numbers get six digits, or null if not finite. Raises `UserError` if the disk is full."""
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
                f"{self.path} cannot be written ({error.strerror or error}): make room or repair the folder, then "
                "give the same command again."
            ) from error

    def flush(self) -> None:
        """Writes all lines to the disk or bucket. Call it before a checkpoint of their step is saved."""
        if self._unwritten:
            write_atomically(self.path, "".join(self._lines).encode())
        if self._file is not None:
            with contextlib.suppress(OSError):  # Not every disk can; `write` has reported a full one.
                os.fsync(self._file.fileno())
        self._unwritten = False
        self._written_at = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()
        if self._file is not None:
            with contextlib.suppress(OSError):  # Every line was flushed already, or `write` has reported the error.
                self._file.close()


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf  # Cut off when the run was killed: it is dropped.


def rounded(value: float) -> float:
    """A number with the digits of the metrics; -inf if it is not finite."""
    return float(f"{value:.6g}") if math.isfinite(value) else -math.inf


def _short(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return rounded(value) if math.isfinite(value) else None
