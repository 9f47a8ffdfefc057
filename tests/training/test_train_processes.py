"""Training in two processes: one that dies, hangs or cannot save is named by the other; and their number may change."""

import contextlib
import dataclasses
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.processes import Process, free_port, start
from tests.tolerances import STEPS64_RELATIVE
from tests.training import script_config
from tests.training.noise_run import TIMEOUT_SECONDS
from tests.training.saved_arrays import saved_arrays
from tests.training.script import (
    REPOSITORY,
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
    two,
    wait_until,
)

__all__ = ["folder"]  # fixture

pytestmark = pytest.mark.processes

END = "end all processes, then give the same command again, which continues from the newest checkpoint."


@dataclasses.dataclass
class NoiseRun:
    """Two processes that train on noise without end."""

    workdir: Path
    environment: dict[str, str]

    @contextlib.contextmanager
    def started(self, *flags: str, flags_of_second: tuple[str, ...] = ()) -> Iterator[list[Process]]:
        """Both, once they take steps."""
        port = str(free_port())
        command = ["-m", "tests.training.noise_run", str(self.workdir), *flags, "--port", port, "--process"]
        processes = [
            start([*command, str(index), *(flags_of_second if index == 1 else ())], REPOSITORY, self.environment)
            for index in range(2)
        ]
        try:
            wait_until(lambda: len(steps_told(self.workdir)) > 1, processes[0])
            yield processes
        finally:
            for process in processes:
                process.kill()  # Also one that is stopped.
                process.communicate()


@pytest.fixture
def noise_run(tmp_path: Path, script_environment: dict[str, str]) -> NoiseRun:
    return NoiseRun(tmp_path, script_environment)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_or_hangs_in_a_step_is_named_by_the_other_which_stops(
    victim: int, number: signal.Signals, noise_run: NoiseRun
) -> None:
    with noise_run.started() as processes:
        processes[victim].send_signal(number)
        end = ended(processes[1 - victim], within=2 * TIMEOUT_SECONDS + 20)
    assert end.status == 1
    (sentence,) = (line for line in end.errors if line.startswith("Error: "))
    assert sentence.startswith(f"Error: Process {victim} has ")
    assert f"So process {1 - victim} of 2 stops too, in step " in sentence
    assert sentence.endswith(END)


def test_a_process_that_answers_but_begins_no_step_is_named_by_the_other(noise_run: NoiseRun) -> None:
    # Half the usual time, which is long enough to compile in: this test waits for the end of it.
    with noise_run.started("--stuck_factor", "5", flags_of_second=("--hangs_before", "9")) as processes:
        ends = [ended(process) for process in processes]
    # Who finds it first says it, and the other says that.
    stuck = "Process 1 answers but has been stuck before step 9 for "
    assert all(stuck in end.errors[-1] for end in ends), [end.errors for end in ends]
    assert [end.status for end in ends] == [1, 1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_process_stops_both_after_the_same_step_with_a_checkpoint(
    number: signal.Signals, noise_run: NoiseRun
) -> None:
    with noise_run.started() as processes:
        processes[1].send_signal(number)
        ends = [ended(process) for process in processes]
    (step,) = checkpoints(noise_run.workdir)
    for end in ends:
        assert end.output.splitlines()[-1] == f"ended: Outcome(step={step}, stopped_by=<Signals.SIGTERM: 15>)"


@pytest.fixture
def script(folder: Path, script_environment: dict[str, str]) -> TrainScript:
    """With the stand-in: test_exactness.py has the network itself in two processes."""
    return TrainScript(folder / "data", script_environment, config="stand_in_config")


def test_the_command_in_two_processes_names_the_one_that_is_killed_in_a_save(
    script: TrainScript, tmp_path: Path
) -> None:
    processes = two(script, tmp_path, "--config.train.epochs=10000")
    wait_until(lambda: bool(half_written(tmp_path)), processes[0])
    processes[1].kill()
    end = ended(processes[0])
    ended(processes[1])
    (sentence,) = (line for line in end.errors if line.startswith("Error: "))
    assert sentence.startswith("Error: Process 1 has "), end
    assert sentence.endswith(END)
    assert end.status == 1


def test_a_process_that_cannot_begin_is_named_by_the_other(script: TrainScript, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    processes = two(script, tmp_path, flags_of_second=(f"--config.data.root={nowhere}",))
    ends = [ended(process, within=2 * script_config.TIMEOUT_SECONDS + 60) for process in processes]
    for end in ends:
        (sentence,) = (line for line in end.errors if line.startswith("Error: "))
        assert str(nowhere) in sentence, ends
    assert "Error: Process 1 has stopped (" in "".join(ends[0].errors)
    assert [end.status for end in ends] == [1, 1]


def test_a_full_disk_is_reported_by_both_processes_and_the_run_continues_when_there_is_room(
    script: TrainScript, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 10**8) as disk:
        assert script.run(disk, "--config.train.epochs=1").status == 0
        assert checkpoints(disk) == [2]
        resize(disk, bytes_on_disk(disk) + bytes_on_disk(checkpoint(disk, 2)) // 2)

        processes = two(script, disk)
        wait_until(lambda: bool(half_written(disk)), processes[0])
        ends = [ended(process, within=2 * script_config.TIMEOUT_SECONDS + 20) for process in processes]
        for end in ends:
            (sentence,) = (line for line in end.errors if line.startswith("Error: "))
            assert f"Checkpoint {checkpoint(disk, 4)} could not be written (No space left on device)" in sentence, ends
            assert "make room or repair the folder, then give the same command again" in sentence
        assert [end.status for end in ends] == [1, 1]

        resize(disk, 10**8)
        end = script.run(disk, "--config.train.epochs=2")
        assert f"Continuing from step 2 ({checkpoint(disk, 2)})." in end.output
        assert end.status == 0, end.errors
        assert checkpoints(disk) == [2, 4]


def test_a_run_continues_with_another_number_of_processes_and_devices(script: TrainScript, tmp_path: Path) -> None:
    float64 = "--config.model.dtype=float64"
    whole, changing = tmp_path / "whole", tmp_path / "changing"
    assert script.run(whole, float64, "--config.train.epochs=3").status == 0

    assert script.run(changing, float64, "--config.train.epochs=1").status == 0
    ends = [ended(process) for process in two(script, changing, float64, "--config.train.epochs=2")]
    assert [end.status for end in ends] == [0, 0], ends
    assert f"Continuing from step 2 ({checkpoint(changing, 2)})." in ends[0].output
    flags = f"{script.environment['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    end = script.run(changing, float64, "--config.train.epochs=3", XLA_FLAGS=flags, NPROC="8")
    assert end.status == 0, end.errors
    assert "2 device(s), 1 process(es)" in end.output

    assert steps_told(changing) == steps_told(whole) == list(range(1, 7))
    found, expected = saved_arrays(checkpoint(changing, 6)), saved_arrays(checkpoint(whole, 6))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=STEPS64_RELATIVE, err_msg=name)
