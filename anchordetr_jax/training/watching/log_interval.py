"""The metrics since the last line of `metrics.jsonl`. Checkpoints keep them: a resumed run writes the same lines."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

AVERAGED = ("loss", "loss/class", "loss/box", "loss/giou", "class_error", "grad_norm", "num_boxes")
"""Metrics whose mean over the interval is logged."""
DENOISING = ("denoising/class", "denoising/box", "denoising/giou")
"""The same, with `train.denoising_groups`."""


@dataclasses.dataclass
class LogInterval:
    """Sums of metrics over the steps since the last line. Refused steps do not count."""

    sums: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(AVERAGED, 0.0))
    steps: int = 0

    def add(self, metrics: Mapping[str, float]) -> None:
        """Adds the metrics of a step. The first step decides whether the interval has those of denoising."""
        if self.steps == 0:
            self.sums |= {name: 0.0 for name in DENOISING if name in metrics}
        # One after another in float64: the sum is the same to the bit, whether the run was stopped in between or not.
        self.sums = {name: total + metrics[name] for name, total in self.sums.items() if name in metrics}
        self.steps += 1

    def means(self) -> dict[str, float]:
        """The mean of each metric; NaN if no step counts."""
        return {name: total / self.steps if self.steps else math.nan for name, total in self.sums.items()}

    def to_dict(self) -> dict[str, Any]:
        """For JSON, which keeps every float to the last bit."""
        return {"sums": dict(self.sums), "steps": self.steps}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LogInterval":
        """The interval that `to_dict` described. Metrics that it did not know begin at 0."""
        known = {name: float(value) for name, value in values["sums"].items() if name in AVERAGED + DENOISING}
        return cls({**dict.fromkeys(AVERAGED, 0.0), **known}, int(values["steps"]))
