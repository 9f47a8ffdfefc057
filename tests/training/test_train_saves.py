"""scripts/train.py as it saves the best checkpoint, and what it starts from, on a disk that is full or when killed."""

import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from etils import epath

from anchordetr_jax.checkpoints.checkpoint import BEST_FOLDER, CHECKPOINTS_FOLDER, find_checkpoint, find_problem
from anchordetr_jax.config import Config, ModelConfig
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.initial_checkpoint import INITIAL_WEIGHTS_FOLDER, prepare_initial_weights
from anchordetr_jax.weights.state_dict import state_dict_from_variables
from anchordetr_jax.weights.torch_file import write_torch_file
from tests.processes import Process
from tests.training import script_config
from tests.training.script import (
    Ended,
    TrainScript,
    bytes_on_disk,
    checkpoint,
    checkpoints,
    ended,
    folder,
    half_written,
    resize,
    small_disk,
    steps_told,
    stopped_in_a_save,
    two,
    wait_until,
)

__all__ = ["folder"]  # fixture

pytestmark = pytest.mark.processes


@pytest.fixture
def script(folder: Path, script_environment: dict[str, str]) -> TrainScript:
    """With evaluations that ask for a new best checkpoint each, after steps 2, 4, …"""
    return TrainScript(folder / "data", script_environment, config="rising_config")


@pytest.fixture
def begun(folder: Path, script: TrainScript) -> Path:
    """Workdir of a run of two steps, after which both are saved; the first test that asks for it makes it."""
    workdir = folder / "begun"
    if not workdir.exists():
        assert script.run(workdir, "--config.train.epochs=1").status == 0
    return workdir


def started(processes: int, script: TrainScript, workdir: Path, *flags: str) -> list[Process]:
    return two(script, workdir, *flags) if processes == 2 else [script.start(workdir, *flags)]


def best(workdir: Path, step: int) -> Path:
    return workdir / BEST_FOLDER / str(step)


def assert_sound(*paths: Path) -> None:
    assert [find_problem(epath.Path(path)) for path in paths] == [None] * len(paths)


def assert_told_of(path: Path, ends: list[Ended]) -> None:
    """Every process ends with a sentence that says which checkpoint could not be written, why, and what to do."""
    for end in ends:
        (sentence,) = (line for line in end.errors if line.startswith("Error: "))
        assert f"Checkpoint {path} could not be written (No space left on device)" in sentence
        assert "make room or repair the folder, then give the same command again" in sentence
        assert not any("Traceback" in line for line in end.errors), ends
    assert [end.status for end in ends] == [1] * len(ends)


def ended_soon(processes: list[Process]) -> list[Ended]:
    try:
        return [ended(process, within=2 * script_config.TIMEOUT_SECONDS + 20) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_too_full_for_a_new_best_is_reported_by_each_process_and_the_old_best_is_kept(
    processes: int, script: TrainScript, begun: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / BEST_FOLDER, 10**7) as disk:
        shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
        resize(disk, bytes_on_disk(disk) * 3 // 2)
        running = started(processes, script, tmp_path, "--config.train.epochs=2")
        wait_until(lambda: bool(half_written(tmp_path, BEST_FOLDER)), running[0])
        assert_told_of(best(tmp_path, 4), ended_soon(running))
        assert Path(find_checkpoint(disk)) == best(tmp_path, 2)
        assert_sound(best(tmp_path, 2), checkpoint(tmp_path, 2), checkpoint(tmp_path, 4))

        resize(disk, 10**7)
        end = script.run(tmp_path, "--config.train.epochs=2")
        assert f"Continuing from step 4 ({checkpoint(tmp_path, 4)})." in end.output
        assert end.status == 0, end.errors
        assert list(disk.iterdir()) == [best(tmp_path, 4)]


def test_the_best_checkpoint_is_kept_if_the_step_of_a_better_one_cannot_be_saved(
    script: TrainScript, begun: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / CHECKPOINTS_FOLDER, 10**7) as disk:
        shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
        resize(disk, bytes_on_disk(disk) * 3 // 2)
        assert_told_of(checkpoint(tmp_path, 4), [script.run(tmp_path, "--config.train.epochs=2")])
        assert checkpoints(tmp_path) == [2]
        assert_sound(best(tmp_path, 2))


def test_a_run_that_is_killed_while_it_saves_a_new_best_keeps_the_old_one(script: TrainScript, tmp_path: Path) -> None:
    process = script.start(tmp_path)
    wait_until(lambda: stopped_in_a_save(process, tmp_path, BEST_FOLDER), process)
    process.kill()
    assert ended(process).status == -signal.SIGKILL
    (left,) = half_written(tmp_path, BEST_FOLDER)
    step = int(left.name.partition(".")[0])
    assert Path(find_checkpoint(tmp_path / BEST_FOLDER)) == best(tmp_path, step - 2)

    end = script.run(tmp_path, f"--config.train.epochs={step // 2}")
    assert f"Continuing from step {step} ({checkpoint(tmp_path, step)})." in end.output
    assert end.status == 0, end.errors
    assert list((tmp_path / BEST_FOLDER).iterdir()) == [best(tmp_path, step)]
    assert_sound(best(tmp_path, step))
    assert steps_told(tmp_path)[-1] == step


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    """A file of the official code's, of a small detector: a hundred megabytes, and most of them the backbone's."""
    network = ModelConfig(num_anchors=4, num_classes=2, encoder_layers=1, decoder_layers=1, dilation=False, ffn_dim=32)
    shapes = definition_of(network).shapes
    ones = {name: np.ones(shape.shape, np.float32) for name, shape in shapes.items()}
    path = folder / "weights.pth"
    write_torch_file(path, {"model": state_dict_from_variables(ones, network)})
    return path


@pytest.mark.parametrize("processes", [1, 2])
def test_a_disk_too_full_for_converted_initial_weights_is_reported_by_each_process(
    processes: int, script: TrainScript, weights: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 10**7) as disk:
        flags = (f"--config.init_from={weights}", "--config.model.dilation=False")
        running = started(processes, script, disk, *flags)
        wait_until(lambda: bool(half_written(disk, "")), running[0])
        assert_told_of(disk / INITIAL_WEIGHTS_FOLDER, ended_soon(running))

        resize(disk, 2 * weights.stat().st_size)
        given = Config(init_from=str(weights), model=ModelConfig(dilation=False))
        config, _ = prepare_initial_weights(given, {"model.dilation"}, epath.Path(disk))
        assert Path(find_checkpoint(config.init_from)) == disk / INITIAL_WEIGHTS_FOLDER
