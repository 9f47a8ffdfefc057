"""`metrics.jsonl` over several starts of a run."""

import json
import math
from pathlib import Path

import pytest

from anchordetr_jax.checkpoints.run_metrics import read_evaluations
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.watching.metrics_file import MetricsFile, rounded


def steps(workdir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def write(workdir: Path, first_step: int, at: list[int]) -> None:
    with MetricsFile(workdir, first_step) as metrics:
        for step in at:
            metrics.write(step, {"loss": 1.0 / step})


def test_lines_are_added_to_those_of_an_earlier_start(tmp_path: Path) -> None:
    write(tmp_path, 0, [10, 20])
    write(tmp_path, 20, [30])
    assert steps(tmp_path) == [10, 20, 30]


def test_lines_of_steps_that_are_taken_again_are_replaced(tmp_path: Path) -> None:
    write(tmp_path, 0, [10, 20, 30])
    write(tmp_path, 15, [20])
    assert steps(tmp_path) == [10, 20]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "loss": 1.0}\n{"step": 20, "lo')
    write(tmp_path, 20, [30])
    assert steps(tmp_path) == [10, 30]


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    with MetricsFile(tmp_path, 0) as metrics:
        metrics.write(1, {"loss": float("nan"), "rate": 2.5})
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "loss": None, "rate": 2.5}


def test_evaluations_come_back_as_they_were_written(tmp_path: Path) -> None:
    assert read_evaluations(tmp_path, 9) == []
    with MetricsFile(tmp_path, 0) as metrics:
        metrics.write(5, {"loss": 1.0})
        metrics.write(6, {"val/AP": 1 / 3})
        metrics.write(8, {"val/AP": float("nan")})
        metrics.write(12, {"val/AP": 0.5})
    assert read_evaluations(tmp_path, 9) == [(6, rounded(1 / 3)), (8, -math.inf)]


def test_a_workdir_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="run"):
        MetricsFile(tmp_path / "run", 0)
