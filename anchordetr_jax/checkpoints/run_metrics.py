"""What `metrics.jsonl` in the workdir of a run says: one JSON object per line, of training or of an evaluation."""

import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from etils import epath

from anchordetr_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"
EVALUATION_PREFIX = "val/"
"""Stands before the names of the numbers of an evaluation."""


def is_evaluation(line: Mapping[str, Any]) -> bool:
    """Whether a line is of an evaluation; else it is of training."""
    return any(name.startswith(EVALUATION_PREFIX) for name in line)


def read_metrics(path: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, in the order of their steps.

    A line that is not complete JSON, such as the last line of a killed run, is left out. Where a resumed run wrote
    steps again, the later lines count. Raises `UserError` when the file cannot be read.
    """
    try:
        text = epath.Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Cannot read the metrics of a run from {path}: give the metrics.jsonl of a workdir."
        ) from error
    latest: dict[tuple[int, bool], dict[str, Any]] = {}
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int):
            latest[entry["step"], is_evaluation(entry)] = entry
    return [latest[key] for key in sorted(latest)]


def read_evaluations(workdir: epath.PathLike, last_step: int = sys.maxsize) -> list[tuple[int, float]]:
    """(step, AP) of each evaluation up to a step, from the metrics of a run. AP is -inf if it is not a number."""
    path = epath.Path(workdir) / METRICS_FILE
    lines = read_metrics(path) if path.exists() else []
    found = [line for line in lines if is_evaluation(line) and line["step"] <= last_step]
    aps = [line.get(f"{EVALUATION_PREFIX}AP") for line in found]
    return [(line["step"], -math.inf if ap is None else ap) for line, ap in zip(found, aps, strict=True)]
