"""scripts/train.py stopped by whatever may stop it: killed, asked, out of disk, its checkpoints damaged.

Runs that are killed or asked to stop train the network. What a disk or a damaged file does to a run is the same for
every network, so there it is the stand-in, which is traced and loaded in a third of the time.
"""

import dataclasses
import json
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anchordetr_jax.checkpoints.checkpoint import read_meta
from tests.training.saved_arrays import saved_arrays
from tests.training.script import (
    STEPS,
    Ended,
    TrainScript,
    bytes_on_disk,
    checkpoint,
    checkpoints,
    ended,
    folder,
    half_written,
    made_once,
    resize,
    script,
    small_disk,
    steps_told,
    stopped_in_a_save,
    wait_until,
    whole_run,
)
from tests.training.script_config import CHECKPOINT_EVERY
from tests.training.tiny import equal

__all__ = ["folder", "script", "whole_run"]  # fixtures

pytestmark = pytest.mark.processes

ONE_SAVE = "--config.train.checkpoint_every=1000"
"""For runs of which only the last checkpoint is looked at: a save takes as long as four steps."""


@pytest.fixture
def stand_in(script: TrainScript) -> TrainScript:
    """The command with the stand-in for the network. It saves as often."""
    return dataclasses.replace(
        script, config="stand_in_config", flags=(f"--config.train.checkpoint_every={CHECKPOINT_EVERY}",)
    )


@pytest.fixture
def whole_stand_in(folder: Path, stand_in: TrainScript) -> Path:
    """As `whole_run`."""
    return made_once(folder / "whole_stand_in", stand_in)


def assert_ended_like(workdir: Path, whole_run: Path, end: Ended) -> None:
    """Every weight and moment to the last bit, and one line for each step."""
    assert end.status == 0, end.errors
    assert equal(saved_arrays(checkpoint(workdir, STEPS)), saved_arrays(checkpoint(whole_run, STEPS)))
    assert steps_told(workdir) == list(range(1, STEPS + 1))


def test_a_run_that_is_killed_and_resumed_ends_like_a_whole_run(
    script: TrainScript, whole_run: Path, tmp_path: Path
) -> None:
    choose = random.Random(0)
    for first in (1, STEPS // 2):
        process, step = script.start(tmp_path), choose.randrange(first, first + STEPS // 3)
        wait_until(lambda step=step: step in steps_told(tmp_path), process)  # type: ignore[misc]
        time.sleep(choose.uniform(0, 0.1))
        process.kill()
        assert ended(process).status == -signal.SIGKILL
    assert_ended_like(tmp_path, whole_run, script.run(tmp_path))


def test_a_run_keeps_which_shapes_of_images_it_has_shown(whole_run: Path) -> None:
    ratios = read_meta(checkpoint(whole_run, STEPS)).config.augment.shown_ratios
    assert list(ratios) == sorted(ratios)
    assert len(ratios) > 1
    assert json.loads((whole_run / "config.json").read_text())["config"]["augment"]["shown_ratios"] == list(ratios)


def test_a_run_that_is_killed_in_a_save_names_the_half_written_checkpoint_and_ends_like_a_whole_run(
    stand_in: TrainScript, whole_stand_in: Path, tmp_path: Path
) -> None:
    process = stand_in.start(tmp_path)
    wait_until(lambda: stopped_in_a_save(process, tmp_path), process)
    process.kill()
    assert ended(process).status == -signal.SIGKILL
    (left,) = half_written(tmp_path)
    end = stand_in.run(tmp_path, ONE_SAVE)
    assert f"Checkpoint {left} was only half written and is ignored." in "".join(end.errors)
    assert not left.exists()
    assert_ended_like(tmp_path, whole_stand_in, end)


def test_a_run_that_is_asked_to_stop_saves_and_ends_like_a_whole_run(
    script: TrainScript, whole_run: Path, tmp_path: Path
) -> None:
    for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        before = len(steps_told(tmp_path))
        process = script.start(tmp_path, ONE_SAVE)
        wait_until(lambda before=before: len(steps_told(tmp_path)) > before, process)  # type: ignore[misc]
        process.send_signal(number)
        end = ended(process)
        (*_, last) = checkpoints(tmp_path)
        assert end.status == status
        assert f"Stopped by {number.name} after step {last}, which is saved" in end.output
        assert end.errors == ()
        assert before < last < STEPS
    assert_ended_like(tmp_path, whole_run, script.run(tmp_path, ONE_SAVE))


def test_damaged_checkpoints_are_named_and_renamed_and_the_last_sound_one_is_used(
    stand_in: TrainScript, whole_stand_in: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole_stand_in, tmp_path, dirs_exist_ok=True)
    sound, cut, altered, lost = checkpoints(tmp_path)
    damaged = {step: largest_file(checkpoint(tmp_path, step)) for step in (cut, altered, lost)}
    contents = {step: path.read_bytes() for step, path in damaged.items()}
    damaged[cut].write_bytes(contents[cut][:-1])
    middle = len(contents[altered]) // 2
    changed = bytes([contents[altered][middle] ^ 1])
    damaged[altered].write_bytes(contents[altered][:middle] + changed + contents[altered][middle + 1 :])
    damaged[lost].unlink()

    end = stand_in.run(tmp_path, ONE_SAVE)
    for step, problem in ((lost, "missing"), (altered, "altered"), (cut, "altered")):
        name = damaged[step].relative_to(checkpoint(tmp_path, step))
        how = f"is damaged ({name} {'is' if step == lost else 'was'} {problem}): the one before it is used."
        warning = f"Checkpoint {checkpoint(tmp_path, step)} {how}"
        assert [warning in line for line in end.errors].count(True) == 1, end.errors
        assert (tmp_path / f"checkpoints/damaged-{step}").is_dir()
    assert f"Continuing from step {sound} " in end.output
    assert_ended_like(tmp_path, whole_stand_in, end)


def largest_file(folder: Path) -> Path:
    """The file with most of the arrays in it."""
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_a_second_run_in_the_same_workdir_is_refused_and_the_first_one_ends_well(
    stand_in: TrainScript, whole_stand_in: Path, tmp_path: Path
) -> None:
    """In a folder whose name looks like a pattern: checkpoints are complete there too."""
    workdir = tmp_path / "exp[1]*?"
    first = stand_in.start(workdir, ONE_SAVE)
    wait_until(lambda: (workdir / "running.json").exists(), first)
    second = stand_in.run(workdir)
    assert second.status == 1
    (sentence,) = second.errors
    assert f"Error: Another run trains in {workdir}: process {first.pid} on " in sentence
    assert "last sign of life" in sentence
    assert_ended_like(workdir, whole_stand_in, ended(first))
    assert not (workdir / "running.json").exists()
    assert "This run is finished" in stand_in.run(workdir).output


@pytest.fixture
def disk(tmp_path: Path, whole_stand_in: Path) -> Iterator[Path]:
    """With room for two checkpoints and a half."""
    with small_disk(tmp_path / "disk", bytes_on_disk(checkpoint(whole_stand_in, STEPS)) * 5 // 2) as made:
        yield made


def test_a_full_disk_gives_one_sentence_and_the_run_continues_when_there_is_room(
    stand_in: TrainScript, whole_stand_in: Path, disk: Path
) -> None:
    end = stand_in.run(disk)
    last = checkpoints(disk)[-1]
    assert end.errors == (
        f"Error: Checkpoint {checkpoint(disk, last + CHECKPOINT_EVERY)} could not be written (No space left on "
        "device); earlier checkpoints are unharmed: make room or repair the folder, then give the same command again.",
    )
    assert end.status == 1
    resize(disk, 10**8)
    end = stand_in.run(disk, ONE_SAVE)
    assert f"Continuing from step {last} " in end.output
    assert_ended_like(disk, whole_stand_in, end)


def test_a_quota_on_file_size_gives_one_sentence(stand_in: TrainScript, whole_stand_in: Path, tmp_path: Path) -> None:
    """As with a quota; no root is needed to try it."""
    keep_one_checkpoint(whole_stand_in, tmp_path)
    (good,) = checkpoints(tmp_path)
    limit = largest_file(checkpoint(tmp_path, good)).stat().st_size - 1000
    process = stand_in.start(tmp_path)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    end = ended(process)
    assert end.status == 1
    (sentence,) = end.errors
    unwritten = checkpoint(tmp_path, good + CHECKPOINT_EVERY)
    assert f"Checkpoint {unwritten} could not be written (File too large); earlier" in sentence
    assert checkpoints(tmp_path) == [good]


def test_steps_without_a_finite_loss_end_the_run_and_the_good_checkpoint_is_kept(
    stand_in: TrainScript, whole_stand_in: Path, tmp_path: Path
) -> None:
    keep_one_checkpoint(whole_stand_in, tmp_path)
    (good,) = checkpoints(tmp_path)
    # The decay makes all kernels infinite. With finite ones near the limit, the order in which a processor adds would
    # decide whether a sum becomes NaN or an infinity, whose gradient is 0.
    ruinous = ("learning_rate=1e38", "weight_decay=1e6", "clip_norm=0")
    end = stand_in.run(
        tmp_path, *(f"--config.optimizer.{setting}" for setting in ruinous), "--config.train.keep_checkpoints=1"
    )
    for step in (good + 2, good + 3, good + 4):
        assert (
            f"Step {step}: loss nan, gradient norm nan; the step is refused. Its images: {stand_in.data}" in end.output
        )
    assert end.errors == (
        f"Error: Loss or gradient was not finite in 3 steps in a row, up to step {good + 4}: lower "
        "optimizer.learning_rate, or look at the images of these steps (named above); the last checkpoint is kept.",
    )
    assert end.status == 1
    assert checkpoints(tmp_path) == [good]
    assert_ended_like(tmp_path, whole_stand_in, stand_in.run(tmp_path, ONE_SAVE))


def keep_one_checkpoint(whole_run: Path, workdir: Path) -> None:
    """Makes a workdir in which a run has got as far as the oldest checkpoint of a whole run."""
    shutil.copytree(whole_run, workdir, dirs_exist_ok=True)
    for step in checkpoints(workdir)[1:]:
        shutil.rmtree(checkpoint(workdir, step))
