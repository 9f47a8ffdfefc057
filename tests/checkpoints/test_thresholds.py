"""Which score thresholds the evaluations of a run recommend for its checkpoints."""

import json
from pathlib import Path

import pytest

from anchordetr_jax.checkpoints.thresholds import Thresholds, recommended_thresholds
from tests.detector import save_detector


@pytest.mark.parametrize("folder", ["checkpoints/200", "best/100"])
def test_the_thresholds_of_the_newest_evaluation_are_those_of_its_run(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 200, "threshold": {"score": 0.321}}))
    assert recommended_thresholds(tmp_path / folder, int(folder[-3:])) == Thresholds(0.321, {})


def test_a_checkpoint_that_was_evaluated_has_thresholds_of_its_own(tmp_path: Path) -> None:
    for step in (100, 200):
        save_detector(tmp_path / "checkpoints" / str(step))
    per_class = [{"category_id": 3, "threshold": {"score": 0.4}}, {"category_id": 7, "threshold": None}]
    own = json.dumps({"step": 100, "threshold": {"score": 0.25}, "per_class": per_class})
    (tmp_path / "checkpoints" / "100" / "evaluation.json").write_text(own)
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 150, "threshold": {"score": 0.5}}))
    assert recommended_thresholds(tmp_path / "checkpoints" / "100", 100) == Thresholds(0.25, {3: 0.4})
    assert recommended_thresholds(tmp_path / "checkpoints" / "200", 200) == Thresholds(0.5, {})


@pytest.mark.parametrize("content", ["", "{}", '{"threshold": null}', '{"threshold": {"score": "high"}}', "[]"])
def test_without_a_threshold_there_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    assert recommended_thresholds(tmp_path / "checkpoints" / "100", 100) is None
