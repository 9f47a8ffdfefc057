"""What the metrics of a run say, also of one that was killed or resumed."""

import math
from pathlib import Path

import pytest

from anchordetr_jax.checkpoints.run_metrics import METRICS_FILE, read_evaluations, read_metrics
from anchordetr_jax.errors import UserError


def test_a_torn_last_line_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "loss": 5}\n{"step": 2, "loss": 4}\n{"step": 6, "loss": 3')
    assert [line["step"] for line in read_metrics(tmp_path / METRICS_FILE)] == [1, 2]


def test_steps_written_again_by_a_resumed_run_count_once(tmp_path: Path) -> None:
    lines = '{"step": 1, "loss": 5}\n{"step": 2, "loss": 4}\n{"step": 2, "loss": 3}\n{"step": 3, "loss": 2}\n'
    (tmp_path / METRICS_FILE).write_text(lines)
    assert [line["loss"] for line in read_metrics(tmp_path / METRICS_FILE)] == [5, 3, 2]


def test_the_evaluation_of_a_step_comes_after_its_training(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text('{"step": 2, "val/AP": 0.5}\n{"step": 2, "loss": 3}\n')
    assert [set(line) for line in read_metrics(tmp_path / METRICS_FILE)] == [{"step", "loss"}, {"step", "val/AP"}]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        read_metrics(tmp_path / METRICS_FILE)


def test_evaluations_have_minus_infinity_where_there_was_no_number(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path) == []
    (tmp_path / METRICS_FILE).write_text(
        '{"step": 5, "loss": 1}\n{"step": 6, "val/AP": 0.25}\n{"step": 8, "val/AP": null}\n{"step": 9, "val/AP": 1}\n'
    )
    assert read_evaluations(tmp_path, last_step=8) == [(6, 0.25), (8, -math.inf)]
