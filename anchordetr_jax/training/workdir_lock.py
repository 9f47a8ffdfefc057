"""One run per workdir: a file that says which process trains there, and that it is alive.

The file works on shared disks and in buckets, which have no locks of their own. It names the host and the process, and
holds a random token that the process renews every few seconds. On the same host a process that is gone is known at
once. From another host a process counts as gone if its token does not change for `STALE_SECONDS`; clocks of different
hosts are not compared.
"""

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from absl import logging
from etils import epath

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path, write_atomically

LOCK_FILE = "running.json"
BEAT_SECONDS = 10.0
"""How often the file is renewed."""
STALE_SECONDS = 60.0
"""If the file is not renewed for this time, a process of another host counts as gone."""


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that trains in a workdir, as its lock file names it."""

    run: str
    """Random; another one for each run."""
    host: str
    machine: str
    """Process ids with the same value can be compared: host, start of the system and PID namespace."""
    pid: int
    started: str
    """When the process started, in the system's units: another process may have got its id since."""
    beat: int
    """Counts up as long as the process lives."""
    time: float
    """Of the last beat, in seconds since 1970 by the clock of the host."""

    def is_gone(self) -> bool | None:
        """Whether the process has ended. None if that cannot be known from here."""
        if self.machine != _machine():
            return None
        return self.pid == os.getpid() or _started(self.pid) != self.started


class WorkdirLock:
    """Keeps other runs out of a workdir while it is entered. Use it on process 0 of a run only."""

    def __init__(
        self, workdir: epath.PathLike, *, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS
    ):
        self._path = stored_path(workdir) / LOCK_FILE
        self._beat_seconds, self._stale_seconds = beat_seconds, stale_seconds
        self._me = Holder(
            secrets.token_hex(8), socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), 0, 0
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="workdir lock", daemon=True)

    def __enter__(self) -> Self:
        """Takes the workdir.

        Raises:
            UserError: another run is alive there.
        """
        self._wait_until_free()
        begin = time.monotonic()
        try:
            self._beat()
        except UserError as error:
            # The disk is full, for example. The run will say what else it cannot write.
            logging.warning("%s Nothing keeps other runs out of this workdir.", error)
            return self
        # Two runs may start at the same moment. After this wait both see the file of the later one.
        time.sleep(1.0 if "://" in os.fspath(self._path) else max(0.1, 3 * (time.monotonic() - begin)))
        holder = _read(self._path)
        if holder is not None and holder.run != self._me.run:
            raise _refusal(self._path, holder)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(self._beat_seconds)
        with contextlib.suppress(Exception):
            holder = _read(self._path)
            if holder is not None and holder.run == self._me.run:
                self._path.unlink()

    def _wait_until_free(self) -> None:
        """Returns when no other run holds the workdir. Raises `UserError` if one is alive."""
        first = _read(self._path)
        if first is None or first.is_gone():
            return
        if first.is_gone() is False:
            raise _refusal(self._path, first)
        # On another host. Only a change of the file shows that it is alive.
        print(
            f"{self._path} says that process {first.pid} on {first.host} trains here: waiting up to "
            f"{self._stale_seconds:.0f} s for a sign of life.",
            flush=True,
        )
        deadline = time.monotonic() + self._stale_seconds
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._beat_seconds / 2))
            now = _read(self._path)
            if now is None:
                return
            if (now.run, now.beat) != (first.run, first.beat):
                raise _refusal(self._path, now)

    def _keep_beating(self) -> None:
        renewed = time.monotonic()
        while not self._ended.wait(self._beat_seconds):
            try:
                holder = _read(self._path)
                if holder is not None and holder.run != self._me.run:
                    logging.warning("Another run (process %d on %s) has taken this workdir.", holder.pid, holder.host)
                    return
                self._beat()
                renewed = time.monotonic()
            except Exception as error:  # A sign of life that fails must not end a run.
                if time.monotonic() - renewed > self._stale_seconds:
                    logging.warning("Other runs may take this workdir: its lock cannot be renewed (%s).", error)
                    renewed = time.monotonic()

    def _beat(self) -> None:
        self._me = dataclasses.replace(self._me, beat=self._me.beat + 1, time=time.time())
        write_atomically(self._path, (json.dumps(dataclasses.asdict(self._me)) + "\n").encode())


def _refusal(path: epath.Path, holder: Holder) -> UserError:
    age = max(0.0, time.time() - holder.time)
    return UserError(
        f"Another run trains in {path.parent}: process {holder.pid} on {holder.host}, last sign of life {age:.0f} s "
        "ago. End it, or give another --workdir."
    )


def _read(path: epath.Path) -> Holder | None:
    """The holder of a workdir; None if there is none, or if its file is cut off."""
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        return Holder(**values)
    except (OSError, ValueError, TypeError):
        return None


@functools.cache
def _machine() -> str:
    """See `Holder.machine`."""
    boot, namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [boot.read_text().strip(), os.readlink(namespace)]
    return " ".join(parts)


def _started(pid: int) -> str:
    """When a process started, by the system's clock; empty if there is no such process."""
    try:
        # The name of the program, in parentheses, may have spaces. State and start are the 3rd and the 22nd field.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]  # Z: it has ended, and its parent has not noticed yet.
    except OSError:
        pass
    if os.path.isdir("/proc/self"):
        return ""
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "running"
