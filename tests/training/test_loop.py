"""Whole runs: to the end, stopped and continued, and what they say on the way."""

import dataclasses
import json
import signal
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from anchordetr_jax.checkpoints.checkpoint import find_checkpoint, read_meta, saved_steps
from anchordetr_jax.config import Config, MeshConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.loop import Outcome, resolve_classes, train
from anchordetr_jax.training.run import changed_settings
from tests.training.saved_arrays import saved_arrays
from tests.training.shared_runs import share_runs
from tests.training.tiny import CATEGORIES, CONFIG, NoiseData, StandIn, changed, equal


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    share_runs(monkeypatch)


class StoppedAt(NoiseData):
    """Sends this process a signal before the batch of a step."""

    def __init__(self, step: int, number: signal.Signals):
        self.at, self.number = step, number

    def batch(self, step: int) -> Batch:
        if step == self.at:
            signal.raise_signal(self.number)
        return super().batch(step)


class Changed(NoiseData):
    """Has other batches at some steps."""

    def __init__(self, steps: set[int], **changes: Any):
        self.steps, self.changes = steps, changes

    def batch(self, step: int) -> Batch:
        return super().batch(step)._replace(**(self.changes if step in self.steps else {}))


def settings(**changes: Any) -> Config:
    return dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, **changes))


def run(workdir: Path, data: NoiseData | None = None, config: Config = CONFIG, **arguments: Any) -> Outcome:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return train(config, workdir, NoiseData() if data is None else data, mesh=mesh, **arguments)


def final_arrays(workdir: Path, step: int) -> dict[str, Any]:
    """Everything that the checkpoint of a step holds."""
    return saved_arrays(workdir / "checkpoints" / str(step))


def lines(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def log(workdir: Path) -> list[dict[str, Any]]:
    """The lines without the only number that depends on the clock."""
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines(workdir)]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 10 steps that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        share_runs(patch)
        assert run(workdir) == Outcome(step=10, stopped_by=None)
    return workdir


def test_a_run_leaves_its_checkpoints_metrics_and_settings(whole_run: Path) -> None:
    assert saved_steps(whole_run / "checkpoints") == [9, 10]
    assert [line["step"] for line in lines(whole_run)] == [2, 4, 6, 8, 10]
    assert lines(whole_run)[-1]["epoch"] == 2
    assert all(line["loss"] > 0 and line["learning_rate"] > 0 for line in lines(whole_run))
    kept = json.loads((whole_run / "config.json").read_text())
    assert kept["config"]["train"]["epochs"] == 2
    assert kept["categories"] == CATEGORIES.to_dict()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_and_resumed_ends_like_one_that_is_not(
    number: signal.Signals, whole_run: Path, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    assert run(tmp_path, StoppedAt(6, number)) == Outcome(step=7, stopped_by=number)
    assert saved_steps(tmp_path / "checkpoints")[-1] == 7
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)] == handlers
    assert run(tmp_path) == Outcome(step=10, stopped_by=None)
    assert equal(final_arrays(tmp_path, 10), final_arrays(whole_run, 10))
    assert log(tmp_path) == log(whole_run)


def test_beyond_the_official_recipe_a_resumed_run_also_ends_like_one_that_was_not_stopped(tmp_path: Path) -> None:
    extended = dataclasses.replace(
        settings(ema_decay=0.9, denoising_groups=2, denoising_negatives=True),
        optimizer=dataclasses.replace(CONFIG.optimizer, name="muon", schedule="cosine"),
        augment=dataclasses.replace(CONFIG.augment, brightness=0.4, saturation=0.4),
    )
    run(tmp_path / "whole", config=extended)
    assert run(tmp_path / "stopped", StoppedAt(6, signal.SIGTERM), config=extended).step == 7
    assert run(tmp_path / "stopped", config=extended).step == 10
    assert equal(final_arrays(tmp_path / "stopped", 10), final_arrays(tmp_path / "whole", 10))
    assert log(tmp_path / "stopped") == log(tmp_path / "whole")
    assert all(line["denoising/box"] > 0 for line in lines(tmp_path / "whole"))


class Killed(Changed):
    """Ends the run before the batch of a step."""

    def __init__(self, before: int, steps: set[int], **changes: Any):
        super().__init__(steps, **changes)
        self.before = before

    def batch(self, step: int) -> Batch:
        if step == self.before:
            raise RuntimeError("killed")
        return super().batch(step)


@pytest.mark.parametrize("before", [4, 8])
def test_the_log_of_a_killed_run_that_is_resumed_equals_that_of_a_whole_run(before: int, tmp_path: Path) -> None:
    """Also with refused steps and images that cannot be read on both sides of the kill."""
    valid = np.ones(8, bool)
    valid[[3, 5]] = False
    images = np.full((8, 8, 12, 3), np.nan, np.float32)
    poisoned = {"steps": {1, 4, 8}, "valid": valid, "images": images}
    config = settings(log_every=4)
    run(tmp_path / "whole", Changed(**poisoned), config=config)  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path / "killed", Killed(before, **poisoned), config=config)  # type: ignore[arg-type]
    run(tmp_path / "killed", Changed(**poisoned), config=config)  # type: ignore[arg-type]
    assert log(tmp_path / "killed") == log(tmp_path / "whole")
    assert [line["bad_steps"] for line in lines(tmp_path / "killed")] == [1, 2, 3]
    assert [line["unreadable_images"] for line in lines(tmp_path / "killed")] == [2, 2, 2]


def test_a_checkpoint_of_an_older_version_is_resumed(whole_run: Path, tmp_path: Path) -> None:
    run(tmp_path, StoppedAt(6, signal.SIGTERM))
    path = tmp_path / "checkpoints/7/meta/data.json"
    meta = json.loads(path.read_text())
    del meta["run"]
    path.write_text(json.dumps(meta))
    (tmp_path / "checkpoints/7/checksums.json").unlink()
    assert run(tmp_path) == Outcome(step=10, stopped_by=None)
    assert equal(final_arrays(tmp_path, 10), final_arrays(whole_run, 10))


def test_epochs_that_are_done_stay_done_when_the_batch_size_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Batches of 8 of 40 images for one epoch, then of 20 for two: 5 + 2 * 2 steps."""
    drops = dataclasses.replace(CONFIG.optimizer, drop_epoch=2)
    first = dataclasses.replace(settings(epochs=1), optimizer=drops)
    run(tmp_path, config=first)
    then = dataclasses.replace(settings(epochs=3, batch_size=20, log_every=1), optimizer=drops)
    data = NoiseData().with_epochs(Epochs(images=40, batch_size=20))
    assert run(tmp_path, data, config=then, evaluate=lambda model, step: {"AP": step / 100}).step == 9
    assert "1 epochs are done. They stay done" in capsys.readouterr().out
    trained = [line for line in lines(tmp_path) if "loss" in line and line["step"] > 5]
    assert [line["epoch"] for line in trained] == [1.5, 2, 2.5, 3]
    assert [line["learning_rate"] for line in trained] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3])
    assert [line["step"] for line in lines(tmp_path) if "val/AP" in line] == [5, 7, 9]
    assert run(tmp_path, data, config=then).step == 9
    assert "This run is finished: 9 steps, 3 epochs" in capsys.readouterr().out


def test_epochs_that_are_done_stay_done_when_the_data_set_grows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, config=settings(epochs=1))
    grown = NoiseData().with_epochs(Epochs(images=80, batch_size=8))
    assert run(tmp_path, grown, config=settings(epochs=2)).step == 5 + 10
    assert "the training images: 40 -> 80" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("warmup", "warned"),
    [(4, ""), (5, "as long as the run or longer (5 steps)"), (20, "to at most 25% of their values")],
)
def test_a_warm_up_that_lasts_until_the_end_of_the_run_is_named(
    warmup: int, warned: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, config=changed(settings(epochs=1), optimizer={"warmup_steps": warmup}))
    output = capsys.readouterr().out
    assert (f"Warning: optimizer.warmup_steps={warmup} is" in output) == bool(warned)
    assert warned in output


def test_images_with_more_objects_than_queries_are_counted_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowded = NoiseData()
    crowded.box_counts = np.array([8] * 38 + [9, 11])
    run(tmp_path, crowded, config=settings(epochs=1))
    output = capsys.readouterr().out
    assert "2 training image(s) have more objects than the model has queries (8)" in output
    assert "image39.jpg with 11 objects: set model.num_anchors to at least 11" in output


def test_images_with_more_objects_than_detections_are_counted_before_the_first_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowded = NoiseData()
    crowded.box_counts = np.array([5] * 38 + [7, 8])
    run(tmp_path, crowded, config=changed(settings(epochs=1), eval={"max_detections": 6}))
    output = capsys.readouterr().out
    assert "Warning: 2 training image(s) have more objects than evaluation and prediction report" in output
    assert "(eval.max_detections=6); the fullest has 8" in output


def test_a_grid_that_is_too_small_is_answered_with_a_square_that_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    crowded = NoiseData()
    crowded.box_counts = np.array([8] * 39 + [11])
    run(tmp_path, crowded, config=changed(settings(epochs=1), model={"spatial_prior": "grid", "num_anchors": 9}))
    output = capsys.readouterr().out
    assert "more objects than the model has queries (9)" in output
    assert "with 11 objects: set model.num_anchors to at least 16" in output


@pytest.mark.parametrize(("probability", "objects", "warned"), [(0.3, 3, True), (0.3, 2, False), (0.0, 3, False)])
def test_mosaics_that_can_have_more_objects_than_queries_are_named(
    probability: float, objects: int, warned: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = NoiseData()
    data.box_counts = np.full(40, objects)
    run(tmp_path, data, config=changed(settings(epochs=1), augment={"mosaic_probability": probability}))
    output = capsys.readouterr().out
    sentence = "Warning: a mosaic of 4 images can have up to 12 objects, more than the model has queries (8)"
    assert (sentence in output) == ("Warning: a mosaic" in output) == warned


def test_training_images_without_any_box_are_refused(tmp_path: Path) -> None:
    empty = NoiseData()
    empty.box_counts = np.zeros(40, int)
    with pytest.raises(UserError, match="None of the 40 training images has a box"):
        run(tmp_path, empty)


def test_a_finished_run_says_so_and_changes_nothing(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (whole_run / "metrics.jsonl").read_bytes()
    assert run(whole_run) == Outcome(step=10, stopped_by=None)
    assert "This run is finished" in capsys.readouterr().out
    assert (whole_run / "metrics.jsonl").read_bytes() == before


def test_the_model_is_evaluated_at_the_set_epochs_and_at_the_end(tmp_path: Path) -> None:
    told: list[tuple[int, float | None]] = []

    def evaluate(model: Any, step: int) -> dict[str, float]:
        assert isinstance(model, StandIn)
        return {"AP": step / 100}

    def tell(step: int, line: dict[str, Any]) -> None:
        told.append((step, line.get("val/AP")))

    run(tmp_path, config=settings(epochs=3, evaluate_every=2), evaluate=evaluate, after_line=tell)
    scores = {line["step"]: line["val/AP"] for line in lines(tmp_path) if "val/AP" in line}
    assert scores == {10: 0.1, 15: 0.15}
    assert told == [(line["step"], line.get("val/AP")) for line in lines(tmp_path)]


def test_an_evaluation_that_was_interrupted_is_done_when_the_run_continues(tmp_path: Path) -> None:
    def killed(model: Any, step: int) -> dict[str, float]:
        raise RuntimeError("killed")

    config = settings(epochs=1)
    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, config=config, evaluate=killed)
    assert run(tmp_path, config=config, evaluate=lambda model, step: {"AP": 0.5}).step == 5
    assert [line["val/AP"] for line in lines(tmp_path) if "val/AP" in line] == [0.5]


def test_an_image_that_cannot_be_read_is_named_once_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    valid = np.ones(8, bool)
    valid[3] = False
    run(tmp_path, Changed({1, 2, 4}, valid=valid), config=settings(epochs=1))
    assert "".join(capsys.readouterr()).count("image3.jpg") == 1
    assert [line["unreadable_images"] for line in lines(tmp_path)] == [1, 1, 1]


def test_fillers_are_not_taken_for_unreadable_images(tmp_path: Path) -> None:
    run(tmp_path, Changed({1}, valid=np.zeros(8, bool), rows=np.full(8, -1, np.int32)), config=settings(epochs=1))
    assert lines(tmp_path)[-1]["unreadable_images"] == 0


def test_a_refused_step_is_named_and_the_run_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = np.full((8, 8, 12, 3), np.nan, np.float32)
    run(tmp_path, Changed({2}, images=nothing), config=settings(epochs=1))
    assert "Step 3: loss nan" in "".join(capsys.readouterr())
    assert lines(tmp_path)[-1]["bad_steps"] == 1


def test_too_many_bad_steps_in_a_row_stop_the_run_and_keep_the_checkpoint(tmp_path: Path) -> None:
    nothing = np.full((8, 8, 12, 3), np.nan, np.float32)
    with pytest.raises(UserError, match=r"not finite in 3 steps in a row, up to step 8"):
        run(tmp_path, Changed({5, 6, 7, 8, 9}, images=nothing))
    assert saved_steps(tmp_path / "checkpoints") == [3]
    assert all(np.isfinite(value).all() for value in final_arrays(tmp_path, 3).values())


def test_changed_settings_are_named_when_a_run_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, config=settings(epochs=1))
    run(tmp_path, config=settings(epochs=2))
    output = capsys.readouterr().out
    assert "Continuing from step 5" in output
    assert "train.epochs: 1 -> 2" in output
    assert changed_settings(CONFIG, CONFIG) == []


def test_shapes_that_a_run_has_shown_stay_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for epochs, ratios in ((1, (0.75,)), (2, (0.5, 1.0))):
        augment = dataclasses.replace(CONFIG.augment, shown_ratios=ratios)
        run(tmp_path, config=dataclasses.replace(settings(epochs=epochs), augment=augment))
    assert read_meta(find_checkpoint(tmp_path)).config.augment.shown_ratios == (0.5, 0.75, 1.0)
    assert "shown_ratios" not in capsys.readouterr().out  # No person changed it.


def test_a_new_run_begins_with_the_weights_of_another(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, StoppedAt(0, signal.SIGTERM), config=dataclasses.replace(CONFIG, init_from=str(whole_run)))
    assert f"Initial weights from {whole_run}/checkpoints/10" in capsys.readouterr().out


def test_the_checkpoints_of_the_workdir_take_precedence_over_init_from(
    whole_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, config=settings(epochs=1))
    run(tmp_path, config=dataclasses.replace(settings(epochs=2), init_from=str(whole_run)))
    assert "Initial weights" not in capsys.readouterr().out


def test_the_number_of_classes_is_taken_from_the_data_set() -> None:
    open_settings = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, num_classes=0))
    assert resolve_classes(open_settings, CATEGORIES).model.num_classes == 3


def test_too_few_class_outputs_are_refused() -> None:
    narrow = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, num_classes=2))
    with pytest.raises(UserError, match=r"model\.num_classes.*=2 is too small.* need 3"):
        resolve_classes(narrow, CATEGORIES)


def test_a_data_set_that_fills_no_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"do not fill one batch.*train\.batch_size=8"):
        run(tmp_path, NoiseData().with_epochs(Epochs(images=3, batch_size=8)))
