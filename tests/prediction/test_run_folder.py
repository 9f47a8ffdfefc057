"""The folder of a run tells of a better checkpoint."""

import json
from pathlib import Path

import pytest

from anchordetr_jax import Detector
from anchordetr_jax.prediction.run_folder import better_checkpoint
from tests.detector import save_detector


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with checkpoints of the steps 100 and 200, and the best one of step 100."""
    workdir = tmp_path_factory.mktemp("run")
    for folder in ("checkpoints/100", "checkpoints/200", "best/100"):
        save_detector(workdir / folder)
    write_scores(workdir, {100: 0.5, 200: 0.3})
    (workdir / "evaluation.json").write_text(json.dumps({"step": 200, "threshold": {"score": 0.321}}))
    return workdir


def write_scores(workdir: Path, aps: dict[int, float]) -> None:
    lines = [json.dumps({"step": step, "val/AP": ap}) + "\n" for step, ap in aps.items()]
    (workdir / "metrics.jsonl").write_text("".join(lines))


@pytest.mark.parametrize("folder", ["", "checkpoints"])
def test_a_better_checkpoint_than_the_newest_is_named(run: Path, folder: str) -> None:
    sentence = better_checkpoint(run / folder)
    assert sentence is not None
    assert "is used (step 200, with AP 0.300)" in sentence
    assert f"step 100 has a better AP, 0.500. To use that one, give {run / 'best' / '100'}." in sentence


@pytest.mark.parametrize("folder", ["checkpoints/200", "best", "best/100"])
def test_nothing_is_said_of_a_chosen_checkpoint(run: Path, folder: str) -> None:
    assert better_checkpoint(run / folder) is None


def test_nothing_is_said_of_the_best_checkpoint(run: Path) -> None:
    write_scores(run, {100: 0.2, 200: 0.3})
    try:
        assert better_checkpoint(run) is None
    finally:
        write_scores(run, {100: 0.5, 200: 0.3})


def test_a_checkpoint_that_was_not_evaluated_yields_to_one_that_was(run: Path) -> None:
    write_scores(run, {100: 0.2})
    try:
        assert "(step 200)" in str(better_checkpoint(run))
    finally:
        write_scores(run, {100: 0.5, 200: 0.3})


def test_a_weight_file_and_a_folder_without_a_run_tell_nothing(tmp_path: Path) -> None:
    (tmp_path / "weights.pth").touch()
    for path in (tmp_path, tmp_path / "weights.pth"):
        assert better_checkpoint(path) is None


def test_a_detector_says_and_knows_both(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = Detector.from_pretrained(run)
    assert detector.recommended_threshold == 0.321
    assert [detector.threshold_of(label) for label in detector.names] == [0.321, 0.321]
    (message,) = [record.getMessage() for record in caplog.records]
    assert message == better_checkpoint(run)
