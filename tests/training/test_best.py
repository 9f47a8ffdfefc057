"""The best evaluation of a run, in itself and in whole runs: kept, and the run ended when none is better for long."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.checkpoints.checkpoint import find_checkpoint, load_variables, read_meta, saved_shapes, saved_steps
from anchordetr_jax.checkpoints.scores import scores_of_checkpoint
from anchordetr_jax.config import Config, MeshConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.training.best import Best, read_best
from anchordetr_jax.training.loop import Outcome, train
from anchordetr_jax.training.watching.metrics_file import MetricsFile
from tests.training.shared_runs import share_runs
from tests.training.tiny import CONFIG, NoiseData, equal

SCORES = {5: 0.1, 10: 0.3, 15: 0.2, 20: 0.3, 25: 0.25, 30: 0.9}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    share_runs(monkeypatch)


class KilledAt(NoiseData):
    """Ends the run before the batch of a step."""

    def __init__(self, step: int):
        self.at = step

    def batch(self, step: int) -> Batch:
        if step == self.at:
            raise RuntimeError("killed")
        return super().batch(step)


def settings(**changes: Any) -> Config:
    changes = {"epochs": 6, "checkpoint_every": 1000, "keep_best": True, **changes}
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))


def run(workdir: Path, config: Config, data: NoiseData | None = None) -> Outcome:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return train(config, workdir, data or NoiseData(), evaluate=lambda model, step: {"AP": SCORES[step]}, mesh=mesh)


def weights(checkpoint: Path) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shapes = saved_shapes(checkpoint).items()
    wanted = {name: jax.ShapeDtypeStruct(shape, "float32", sharding=device) for name, shape in shapes}
    return load_variables(checkpoint, wanted)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.1, 1 / 3, 0.5, math.nan]), max_size=8))
def test_the_best_evaluation_is_the_first_with_the_highest_ap(scores: list[float]) -> None:
    scores = [*scores, 0.1]
    best = Best()
    for step, ap in enumerate(scores):
        best = best.after(step, ap)
    numbers = [ap for ap in scores if not math.isnan(ap)]
    assert best.step == (scores.index(max(numbers)) if numbers else -1)
    assert best.newest == len(scores) - 1
    assert best.since == (len(scores) - 1 - best.step)


@pytest.mark.parametrize(("ap", "since"), [(-1.0, 0), (0.0, 2)])
def test_without_any_ap_the_newest_weights_are_the_best(ap: float, since: int) -> None:
    best = Best()
    for step in (10, 20, 30):
        best = best.after(step, ap)
    assert best == Best(ap, step=30, since=since, newest=30)


def test_the_best_evaluation_is_read_from_the_metrics_exactly(tmp_path: Path) -> None:
    told = Best()
    with MetricsFile(tmp_path, 0) as metrics:
        for step, ap in ((5, 1 / 7), (10, 1 / 7), (15, math.nan), (20, 0.1)):
            told = told.after(step, ap)
            metrics.write(step, {"val/AP": ap})
    assert read_best(tmp_path, 20) == told == Best(0.142857, step=5, since=3, newest=20)
    assert read_best(tmp_path, 5) == Best(0.142857, step=5, since=0, newest=5)


def test_a_run_stops_early_keeps_the_best_and_continues_when_patience_is_raised(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, settings(patience=3), KilledAt(17))
    assert saved_steps(tmp_path / "checkpoints")[-1] == 15
    assert saved_steps(tmp_path / "best") == [10]
    assert run(tmp_path, settings(patience=3)) == Outcome(step=25, stopped_by=None)
    assert "Stopped early: no better AP than 0.300 (step 10) in 3 evaluations" in "".join(capsys.readouterr())
    assert saved_steps(tmp_path / "checkpoints")[-1] == 25
    assert run(tmp_path, settings(patience=3)) == Outcome(step=25, stopped_by=None)
    assert "This run is finished: no better AP than 0.300" in capsys.readouterr().out
    assert read_meta(find_checkpoint(tmp_path / "best")).step == 10
    assert find_checkpoint(tmp_path).name == "25"

    assert run(tmp_path, settings(patience=4)) == Outcome(step=30, stopped_by=None)
    assert saved_steps(tmp_path / "best") == [30]
    assert equal(weights(tmp_path / "best/30"), weights(tmp_path / "checkpoints/30"))
    found = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {line["step"]: line["val/AP"] for line in found if "val/AP" in line} == SCORES


def test_a_run_that_begins_to_keep_the_best_says_that_an_earlier_one_was_not_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, settings(epochs=3, keep_best=False))
    assert "not kept" not in capsys.readouterr().out
    run(tmp_path, settings(epochs=5))
    assert "highest AP so far (0.300, step 10) were not kept: best/ gets" in capsys.readouterr().out
    assert saved_steps(tmp_path / "best") == []
    run(tmp_path, settings())
    assert saved_steps(tmp_path / "best") == [30]


def run_with_scores(workdir: Path, config: Config) -> None:
    """A run that leaves its newest scores in the workdir, as a real evaluation does."""

    def evaluate(model: Any, step: int) -> dict[str, float]:
        (workdir / "evaluation.json").write_text(json.dumps({"step": step, "AP": SCORES[step]}))
        return {"AP": SCORES[step]}

    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    train(config, workdir, NoiseData(), evaluate=evaluate, mesh=mesh)


def test_the_last_checkpoint_of_a_run_that_stops_early_has_its_scores(tmp_path: Path) -> None:
    run_with_scores(tmp_path, settings(patience=1, keep_best=False))
    assert saved_steps(tmp_path / "checkpoints") == [15]
    assert (tmp_path / "checkpoints/15/evaluation.json").exists()


def test_checkpoints_keep_the_scores_of_their_evaluation(tmp_path: Path) -> None:
    run_with_scores(tmp_path, settings(epochs=3))
    assert scores_of_checkpoint(tmp_path / "best/10", 10) == {"step": 10, "AP": 0.3}
    assert scores_of_checkpoint(tmp_path / "checkpoints/15", 15) == {"step": 15, "AP": 0.2}
    assert (tmp_path / "checkpoints/15/evaluation.json").exists()


def test_a_best_checkpoint_later_than_the_resumed_step_is_removed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, settings(), KilledAt(12))
    assert saved_steps(tmp_path / "best") == [10]
    (tmp_path / "checkpoints/10/meta/data.json").unlink()  # so that it goes on from 5
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, settings(), KilledAt(7))
    assert saved_steps(tmp_path / "best") == []
