"""Ends a run of several processes, with a message, if one of them hangs or dies. Otherwise the others wait for ever.

Each process reports that it is alive, and its step, in the key-value store of JAX's coordination service, which process
0 hosts. Two threads work for it. One writes and reads the store; it blocks while process 0 is stopped. The other one
watches the clock and ends its process if necessary, even while the main thread waits in a collective.
"""

import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import jax
from absl import logging
from jax._src import distributed  # The only way to the key-value store; Orbax takes it too.

from anchordetr_jax.checkpoints.failures import UnfinishedSaveError
from anchordetr_jax.errors import UserError

_FOLDER = "anchordetr_jax/alive/"
_RUNNING, _DONE, _LEFT = "running", "done", "left"
_STUCK_FACTOR = 10
"""A process that answers but takes no step gets this many times `timeout_seconds`: it may be compiling."""
_PACKAGE = str(Path(__file__).parents[2]) + os.sep


@dataclasses.dataclass(frozen=True)
class Report:
    """The report of a process about itself."""

    beat: int = 0
    """Counts up as long as the process lives."""
    state: str = _RUNNING
    step: int = 0
    """The newest step that it has begun."""
    place: str = ""
    """During an evaluation: the line that its main thread executes."""
    mark: str = ""
    """Changes whenever that thread moves, also within the line."""
    reason: str = ""
    """Why it left."""


@dataclasses.dataclass
class Peer:
    """What is known about a process. Times are those of this process's clock."""

    report: Report | None = None
    heard_at: float = 0.0
    """When `report.beat` last changed."""
    moved_at: float = 0.0
    """When its step or place last changed."""

    def hear(self, report: Report, now: float) -> None:
        """Notes a report."""
        if self.report is None or report.beat != self.report.beat:
            self.heard_at = now
        if self.report is None or (report.step, report.mark) != (self.report.step, self.report.mark):
            self.moved_at = now
        self.report = report


def find_fault(peers: dict[int, Peer], me: int, now: float, timeout: float) -> str | None:
    """What is wrong with the other processes, as a sentence without its full stop; None if nothing is wrong."""
    running: dict[int, Report] = {}
    for index, peer in peers.items():
        if peer.report is None or (peer.report.state == _DONE and index != me):
            continue
        if peer.report.state == _LEFT and index != me:
            return f"Process {index} has stopped ({peer.report.reason or 'its own message says why'})"
        if now - peer.heard_at > timeout and index != me:
            return f"Process {index} has not answered for {now - peer.heard_at:.0f} s: it hangs or has died"
        running[index] = peer.report
    if missing := {index: now - peer.heard_at for index, peer in peers.items() if peer.report is None}:
        if max(missing.values()) > _STUCK_FACTOR * timeout:
            return f"{_processes(list(missing))} has not begun to train {max(missing.values()):.0f} s after this one"
        return None
    still = min(now - peers[index].moved_at for index in running)
    if still <= _STUCK_FACTOR * timeout:
        return None
    last = min(report.step for report in running.values())
    late = [index for index, report in running.items() if report.step == last]
    if len(late) < len(running):
        return f"{_processes(late)} answers but has been stuck before step {last + 1} for {still:.0f} s"
    places = sorted({(report.place, index) for index, report in running.items() if report.place})
    where = "; ".join(f"process {index} is at {place}" for place, index in places)
    return f"No process has gone on from step {last} for {still:.0f} s" + (f" ({where})" if where else "")


class Watchdog:
    """Watches the other processes while it is entered. Does nothing in a run of one process.

    If one hangs or dies, this process prints a message that names it, and exits with 1, whatever its main thread does.
    Nothing is saved then, because a save needs all processes.
    """

    def __init__(self, timeout_seconds: float):
        """`timeout_seconds`: how long a process may be silent. 0: nothing is watched."""
        self._timeout = timeout_seconds
        self._client: Any = distributed.global_state.client
        self._on = timeout_seconds > 0 and jax.process_count() > 1 and self._client is not None
        self._me = jax.process_index()
        # Less often if there are many processes, as each reads the reports of all. Fast enough for `_delay_aborts`.
        self._interval = max(min(max(timeout_seconds / 20, 0.2), 1.5), jax.process_count() / 100)
        self._peers: dict[int, Peer] = {}
        self._report = Report()
        self._evaluating = False
        self._leaving = False
        self._store_asked_at = 0.0
        self._store_answered_at = 0.0
        self._store_failed = False
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._main = threading.main_thread().ident

    def begin_step(self, step: int) -> None:
        """The main thread begins a step."""
        self._report = dataclasses.replace(self._report, step=step)

    def evaluating(self, now: bool) -> None:
        """An evaluation begins or ends. During it the main thread takes no steps, but it must move."""
        self._evaluating = now

    def __enter__(self) -> Self:
        if not self._on:
            return self
        _delay_aborts()
        now = time.monotonic()
        self._peers = {index: Peer(heard_at=now, moved_at=now) for index in range(jax.process_count())}
        self._store_asked_at = self._store_answered_at = now
        for work in (self._tell_and_hear, self._watch):
            self._threads.append(threading.Thread(target=work, name=f"watchdog {work.__name__}", daemon=True))
            self._threads[-1].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._on:
            return
        if error is not None:
            self._fail(error)
        self._report = dataclasses.replace(self._report, state=_DONE if error is None else _LEFT)
        self._ended.set()
        for thread in self._threads:
            thread.join(2 * self._interval)
        if error is None:
            self._tell()

    def _fail(self, error: BaseException) -> None:
        """Leaves the run after an error in this process, or after a collective failed because another process ended."""
        if not isinstance(error, UserError | KeyboardInterrupt) or isinstance(error, UnfinishedSaveError):
            # If another process died, the watching thread finds out now, reports that and ends this process.
            time.sleep(self._timeout + 2 * self._interval)
        self._leaving = True
        reason = str(error) if isinstance(error, UserError) else type(error).__name__
        self._report = dataclasses.replace(self._report, state=_LEFT, reason=reason.splitlines()[0][:300])
        self._part()
        # At exit JAX would wait minutes for the other processes, and Python for threads that wait for them (in a save).
        # This is called before both. `atexit` would call it after the threads.
        register: Any = threading._register_atexit  # type: ignore[attr-defined]
        register(_exit_now, 130 if isinstance(error, KeyboardInterrupt) else 1)

    def _tell_and_hear(self) -> None:
        while not self._ended.is_set():
            self._tell()
            self._ended.wait(self._interval)

    def _tell(self) -> None:
        if not self._lock.acquire(timeout=2 * self._interval):  # The other thread waits for process 0.
            return
        try:
            place, mark = _place(self._main) if self._evaluating else ("", "")
            self._report = dataclasses.replace(self._report, beat=self._report.beat + 1, place=place, mark=mark)
            value = json.dumps(dataclasses.asdict(self._report))
            self._store_asked_at = time.monotonic()
            self._client.key_value_set(f"{_FOLDER}{self._me}", value, allow_overwrite=True)
            entries = self._client.key_value_dir_get(_FOLDER)
            now = time.monotonic()
            self._store_answered_at = now
            for key, value in entries:
                self._peers[int(key.rpartition("/")[2])].hear(Report(**json.loads(value)), now)
        except Exception:  # jaxlib's own, of no common type
            self._store_failed = True
        finally:
            self._lock.release()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._ended.wait(min(self._interval, 0.5)):
            now = time.monotonic()
            if now - before > self._timeout / 2 + self._interval:  # This process itself was stopped.
                self._store_answered_at = now
                for peer in self._peers.values():
                    peer.heard_at = peer.moved_at = now
            before = now
            if not self._leaving and (fault := self._fault(now)):
                self._end(fault)

    def _fault(self, now: float) -> str | None:
        if fault := find_fault(self._peers, self._me, now, self._timeout):
            return fault
        zero = self._peers[0].report
        if self._me == 0 or (zero is not None and zero.state == _DONE):
            return None
        unanswered = self._store_asked_at > self._store_answered_at and now - self._store_asked_at > 1
        if unanswered and _refuses(distributed.global_state.coordinator_address):
            self._store_failed = True
        if self._store_failed:
            return "Process 0 has died: nothing answers at its address"
        if (silent := now - self._store_answered_at) > self._timeout:
            return f"Process 0 has not answered for {silent:.0f} s: it hangs or has died"
        return None

    def _end(self, fault: str) -> None:
        begun = self._report.step
        print(
            f"\nError: {fault}. So process {self._me} of {jax.process_count()} stops too, in step {begun}: end all "
            "processes, then give the same command again, which continues from the newest checkpoint.",
            file=sys.stderr,
            flush=True,
        )
        self._leaving = True
        self._report = dataclasses.replace(self._report, state=_LEFT, reason=fault)
        parting = threading.Thread(target=self._part, daemon=True)  # It blocks if process 0 is stopped.
        parting.start()
        parting.join(self._timeout if self._me == 0 else 2 * self._interval)
        _exit_now(1)  # At once, before JAX prints its own messages about the end of the others.

    def _part(self) -> None:
        """Reports that this process leaves. Process 0 waits until the others know it: the store ends with it."""
        self._tell()
        deadline = time.monotonic() + self._timeout
        while self._me == 0 and time.monotonic() < deadline and not self._parted():
            time.sleep(self._interval)
            self._tell()

    def _parted(self) -> bool:
        now = time.monotonic()
        return self._me == 0 and all(
            peer.report is not None and (peer.report.state != _RUNNING or now - peer.heard_at > self._timeout)
            for index, peer in self._peers.items()
            if index != self._me
        )


def _processes(indices: list[int]) -> str:
    return ("Process " if len(indices) == 1 else "Each of the processes ") + ", ".join(map(str, indices))


def _place(thread: int | None) -> tuple[str, str]:
    """The innermost line of this package that a thread executes, and a mark of its place in that line."""
    frame = sys._current_frames().get(thread or 0)
    if frame is None:
        return "", ""
    mark = f"{id(frame.f_code):x}.{frame.f_lasti}"
    for summary in reversed(traceback.extract_stack(frame)):
        if summary.filename.startswith(_PACKAGE):
            return f"{os.path.relpath(summary.filename, _PACKAGE)}:{summary.lineno}", mark
    return "", mark


def _refuses(address: str | None) -> bool:
    """Whether the host of HOST:PORT answers that no process listens. (A stopped process still listens.)"""
    host, _, port = (address or "").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1).close()
    except ConnectionRefusedError:
        return True
    except (OSError, ValueError):
        pass
    return False


def _delay_aborts() -> None:
    """Makes this process sleep before an abort, so that the watching thread can report the reason.

    If process 0 dies, JAX's client aborts the other processes within milliseconds. Its message names no process, and
    it has no option to change that. The client then answers no calls, so the watching thread must find the reason
    within these six seconds. The signal's handler is sleep() of libc, whose argument is the signal's number: Python
    code cannot run there.
    """
    try:
        libc = ctypes.CDLL(None)
        libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
        libc.signal.restype = ctypes.c_void_p
        libc.signal(int(signal.SIGABRT), ctypes.cast(libc.sleep, ctypes.c_void_p))
    except (OSError, AttributeError):
        logging.warning("A process that is aborted on this system cannot say which other process was the cause.")


def _exit_now(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
