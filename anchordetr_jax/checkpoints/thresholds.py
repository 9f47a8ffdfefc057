"""The score from which a detection counts, for each class of a detector."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from etils import epath

from anchordetr_jax.checkpoints.scores import newest_scores, scores_of_checkpoint

USUAL = 0.5
"""The threshold of predictions where no evaluation tells a better one."""


@dataclasses.dataclass(frozen=True)
class Thresholds:
    """The score from which a detection counts, for each class."""

    overall: float = USUAL
    """For classes without one of their own."""
    by_category: Mapping[int, float] = dataclasses.field(default_factory=dict)
    """By category id."""

    def of(self, category_id: int) -> float:
        """The threshold of a category."""
        return self.by_category.get(category_id, self.overall)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for `from_dict`."""
        return {"overall": self.overall, "by_category": {str(i): score for i, score in self.by_category.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Thresholds":
        return cls(float(values["overall"]), {int(i): float(score) for i, score in values["by_category"].items()})

    @classmethod
    def from_scores(cls, scores: Mapping[str, Any]) -> "Thresholds | None":
        """Those in `Scores.to_dict()`, as it is read from a file; None where it tells none."""
        try:
            overall = float(scores["threshold"]["score"])
            by_category = {
                int(entry["category_id"]): float(entry["threshold"]["score"])
                for entry in scores.get("per_class", [])
                if entry.get("threshold")
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(overall, by_category)


def recommended_thresholds(checkpoint: epath.PathLike, step: int) -> Thresholds | None:
    """The score thresholds with the best F1 score in the evaluation of a checkpoint, one a class.

    Where that checkpoint was not evaluated, they come from the newest evaluation of its run. None where there is none.
    """
    for scores in (scores_of_checkpoint(checkpoint, step), newest_scores(checkpoint)):
        if scores is not None and (thresholds := Thresholds.from_scores(scores)) is not None:
            return thresholds
    return None
