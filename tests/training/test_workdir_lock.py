"""One run per workdir: the second is refused, and what a killed run leaves behind does not count."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from etils import epath

from anchordetr_jax.errors import UserError
from anchordetr_jax.training import workdir_lock
from anchordetr_jax.training.workdir_lock import LOCK_FILE, Holder, WorkdirLock
from tests.training.bucket import Bucket, pretended_bucket


def quick(workdir: epath.PathLike) -> WorkdirLock:
    return WorkdirLock(workdir, beat_seconds=0.1, stale_seconds=1.0)


def holder(workdir: epath.PathLike) -> Holder:
    return Holder(**json.loads((epath.Path(workdir) / LOCK_FILE).read_text()))


def write(workdir: epath.PathLike, **changes: object) -> None:
    """The lock file of another process: by default one of another host that is gone."""
    values = {
        "run": "other",
        "host": "node7",
        "machine": "node7 boot pid",
        "pid": 17,
        "started": "5",
        "beat": 3,
        "time": time.time() - 2,
    }
    (epath.Path(workdir) / LOCK_FILE).write_text(json.dumps(values | changes))


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def of(process: subprocess.Popen[bytes]) -> dict[str, object]:
    started = workdir_lock._started(process.pid)
    return {"host": "here", "machine": workdir_lock._machine(), "pid": process.pid, "started": started}


def test_a_workdir_is_free_again_when_its_run_ends(tmp_path: Path) -> None:
    for _ in range(2):
        with quick(tmp_path):
            assert holder(tmp_path).pid == os.getpid()
        assert list(tmp_path.iterdir()) == []


def test_the_sign_of_life_is_renewed(tmp_path: Path) -> None:
    with quick(tmp_path):
        first = holder(tmp_path)
        deadline = time.monotonic() + 30
        while holder(tmp_path).beat < first.beat + 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_second_run_on_the_same_host_is_refused_at_once(
    tmp_path: Path, other_process: subprocess.Popen[bytes]
) -> None:
    write(tmp_path, **of(other_process))
    sentence = (
        rf"process {other_process.pid} on here, last sign of life [2-9] s ago\. End it, or give another --workdir"
    )
    with pytest.raises(UserError, match=sentence), quick(tmp_path):
        pass
    assert holder(tmp_path).run == "other"


def test_a_killed_process_of_the_same_host_frees_the_workdir_at_once(
    tmp_path: Path, other_process: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, **of(other_process))
    other_process.kill()
    os.waitid(os.P_PID, other_process.pid, os.WEXITED | os.WNOWAIT)  # Its parent has not noticed yet.
    with quick(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
    assert capsys.readouterr().out == ""


def test_a_process_that_got_the_number_of_a_killed_one_does_not_count(
    tmp_path: Path, other_process: subprocess.Popen[bytes]
) -> None:
    write(tmp_path, **{**of(other_process), "started": "5"})
    with quick(tmp_path):
        assert holder(tmp_path).pid == os.getpid()


def test_a_run_on_another_host_that_gives_no_sign_of_life_frees_the_workdir(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its clock says: that may be wrong."""
    write(tmp_path, time=time.time() + 10**6)
    with quick(tmp_path):
        assert holder(tmp_path).pid == os.getpid()
    assert "process 17 on node7 trains here: waiting up to 1 s for a sign of life" in capsys.readouterr().out


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    with pretended_bucket(monkeypatch) as made:
        yield made


def test_a_run_on_another_host_that_lives_is_refused_in_a_bucket_too(
    bucket: type[Bucket], monkeypatch: pytest.MonkeyPatch
) -> None:
    with quick("gs://runs/mine") as first:
        renamed = dataclasses.replace(holder("gs://runs/mine"), machine="node7 boot pid", pid=17, host="node7")
        monkeypatch.setattr(first, "_me", renamed)
        time.sleep(0.3)
        with pytest.raises(UserError, match="process 17 on node7, last sign of life 0 s ago"), quick("gs://runs/mine"):
            pass
    assert not (epath.Path("gs://runs/mine") / LOCK_FILE).exists()


def test_a_file_that_is_cut_off_does_not_keep_anybody_out(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).write_text('{"run": "oth')
    with quick(tmp_path):
        assert holder(tmp_path).pid == os.getpid()


def test_a_failing_sign_of_life_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full_disk(path: object, data: bytes) -> None:
        raise UserError("No space left on device")

    with WorkdirLock(tmp_path, beat_seconds=0.05, stale_seconds=0.1) as lock:
        monkeypatch.setattr(workdir_lock, "write_atomically", full_disk)
        deadline = time.monotonic() + 30
        while "its lock cannot be renewed (No space left on device)" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert lock._thread.is_alive()


def test_a_workdir_that_cannot_be_written_is_not_locked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "run").write_text("a file")
    with quick(tmp_path / "run"):
        assert "Nothing keeps other runs out of this workdir" in caplog.text


def test_a_run_that_takes_the_workdir_all_the_same_is_not_disturbed(tmp_path: Path) -> None:
    with quick(tmp_path):
        write(tmp_path)
        time.sleep(0.4)
        assert holder(tmp_path).run == "other"
    assert holder(tmp_path).run == "other"
