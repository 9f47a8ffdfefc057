"""The scores of an evaluation are kept in the checkpoints of its step, and only there."""

import json
from pathlib import Path

from anchordetr_jax.checkpoints.checkpoint import find_problem
from anchordetr_jax.checkpoints.scores import newest_scores, scores_of_checkpoint, store_scores
from anchordetr_jax.files import stored_path
from tests.detector import save_detector


def test_checkpoints_of_the_step_get_the_scores_and_stay_sound(tmp_path: Path) -> None:
    for folder in ("checkpoints/100", "checkpoints/200", "best/200"):
        save_detector(tmp_path / folder)
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 200, "AP": 0.5}))
    store_scores(tmp_path, 200)
    for folder in ("checkpoints/200", "best/200"):
        assert json.loads((tmp_path / folder / "evaluation.json").read_text()) == {"step": 200, "AP": 0.5}
        assert find_problem(stored_path(tmp_path / folder)) is None
    assert not (tmp_path / "checkpoints" / "100" / "evaluation.json").exists()
    assert scores_of_checkpoint(tmp_path / "best" / "200", 200) == {"step": 200, "AP": 0.5}
    assert scores_of_checkpoint(tmp_path / "checkpoints" / "100", 100) is None


def test_scores_of_another_step_are_not_stored(tmp_path: Path) -> None:
    save_detector(tmp_path / "checkpoints" / "200")
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 100, "AP": 0.5}))
    store_scores(tmp_path, 200)
    assert not (tmp_path / "checkpoints" / "200" / "evaluation.json").exists()


def test_the_newest_evaluation_of_the_run_counts_if_it_is_of_the_same_step(tmp_path: Path) -> None:
    save_detector(tmp_path / "checkpoints" / "200")
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 200, "AP": 0.5}))
    assert scores_of_checkpoint(tmp_path / "checkpoints" / "200", 200) == {"step": 200, "AP": 0.5}
    assert scores_of_checkpoint(tmp_path / "checkpoints" / "200", 0) is None


def test_a_checkpoint_elsewhere_in_the_workdir_is_not_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps({"step": 200, "AP": 0.5}))
    assert newest_scores(tmp_path / "models" / "theirs") is None
    assert newest_scores(tmp_path / "best" / "100") == {"step": 200, "AP": 0.5}
