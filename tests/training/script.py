"""scripts/train.py as a process on a small drawn data set, for tests that stop it."""

import contextlib
import dataclasses
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from anchordetr_jax.checkpoints.checkpoint import CHECKPOINTS_FOLDER, saved_steps
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from tests.processes import Process, free_port, start

REPOSITORY = Path(__file__).parents[2]
STEPS = 16
"""Of a whole run: eight images, eight epochs."""


@dataclasses.dataclass
class TrainScript:
    """The command, given again and again for one data set."""

    data: Path
    environment: Mapping[str, str]
    config: str = "script_config"
    """Which of the settings files beside this one."""
    flags: tuple[str, ...] = ()
    """That come before those of a run."""

    def start(self, workdir: Path, *flags: str, **variables: str) -> Process:
        """Begins a run, or goes on with it. `variables`: of the environment, besides."""
        command = ["scripts/train.py", "--config", f"tests/training/{self.config}.py"]
        return start(
            [*command, f"--config.data.root={self.data}", "--workdir", str(workdir), *self.flags, *flags],
            REPOSITORY,
            {**self.environment, "PYTHONPATH": str(REPOSITORY), **variables},
        )

    def run(self, workdir: Path, *flags: str, **variables: str) -> "Ended":
        """Waits for the end of it."""
        return ended(self.start(workdir, *flags, **variables))


def two(script: TrainScript, workdir: Path, *flags: str, flags_of_second: tuple[str, ...] = ()) -> list[Process]:
    """The command of docs/several_hosts.md, on one host."""
    together = (*flags, f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2")
    return [
        script.start(workdir, *together, f"--process_id={index}", *(flags_of_second if index == 1 else ()))
        for index in range(2)
    ]


@dataclasses.dataclass(frozen=True)
class Ended:
    """What is left of a process."""

    status: int
    output: str
    errors: tuple[str, ...]
    """Lines of stderr, without those of the progress bar and the notes about the data set."""


def ended(process: Process, *, within: float = 240) -> Ended:
    """Waits for the end of a process. If it takes more than `within` seconds, it is killed, and the test fails."""
    try:
        output, errors = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        process.kill()
        pytest.fail(f"The process still runs after {within} s. It said: {process.communicate()}")
    lines = tuple(line for line in errors.splitlines() if line.strip() and not line.startswith(("train", "Note: ")))
    return Ended(process.wait(), output, lines)


def wait_until(condition: Callable[[], bool], process: Process, *, seconds: float = 240) -> None:
    """Waits for something that a process does. Fails if the process ends first, or does it not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"It never came to that. The process said: {process.communicate()}")
        time.sleep(0.005)


def steps_told(workdir: Path) -> list[int]:
    """Steps of the whole lines of metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def checkpoint(workdir: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return workdir / CHECKPOINTS_FOLDER / str(step)


def checkpoints(workdir: Path) -> list[int]:
    """Steps of the complete checkpoints."""
    return saved_steps(workdir / CHECKPOINTS_FOLDER)


def half_written(workdir: Path, folder: str = CHECKPOINTS_FOLDER) -> list[Path]:
    """Checkpoints that are being written, or were when their process was killed."""
    return list((workdir / folder).glob("*.orbax-checkpoint-tmp"))


def stopped_in_a_save(process: Process, workdir: Path, folder: str = CHECKPOINTS_FOLDER) -> bool:
    """Stops the process if it has a checkpoint and writes another. Lets it go on if it ended that meanwhile."""
    if not (saved_steps(workdir / folder) and half_written(workdir, folder)):
        return False
    process.send_signal(signal.SIGSTOP)
    while not is_stopped(process.pid):
        time.sleep(0.001)
    if half_written(workdir, folder):
        return True
    process.send_signal(signal.SIGCONT)
    return False


def is_stopped(pid: int) -> bool:
    """Whether every thread of a process is stopped, on Linux; also if the process has ended."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        states = [path.read_text().rpartition(")")[2].split()[0] for path in Path(f"/proc/{pid}/task").glob("*/stat")]
        return set(states) <= {"T", "Z", "X"}
    return True


def bytes_on_disk(path: Path) -> int:
    """What a folder takes, in whole blocks."""
    return sum(inner.stat().st_blocks * 512 for inner in path.rglob("*"))


@contextlib.contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A disk of its own with room for that number of bytes. Skips the test where one cannot be made."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("Only root may make a small disk.")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)  # A test that fails may leave a process on it.


def resize(disk: Path, size: int) -> None:
    """Gives a small disk room for another number of bytes."""
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set, for all tests of a file."""
    made = tmp_path_factory.mktemp("runs")
    write_shapes_dataset(
        made / "data", train_images=8, val_images=1, config=ShapesConfig(short_side=(32, 40), max_side=48)
    )
    return made


@pytest.fixture
def script(folder: Path, script_environment: dict[str, str]) -> TrainScript:
    """The command on that data set."""
    return TrainScript(folder / "data", script_environment)


@pytest.fixture
def whole_run(folder: Path, script: TrainScript) -> Path:
    """Workdir of a run that nothing disturbed."""
    return made_once(folder / "whole", script)


def made_once(workdir: Path, script: TrainScript) -> Path:
    """The workdir of a whole run; the first test that asks for it makes it."""
    if not workdir.exists():
        assert script.run(workdir).status == 0
    return workdir
