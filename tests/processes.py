"""Processes of this project's commands that start in a moment: forks of one that has imported everything.

The imports take two seconds of every process. So Python's own fork server does them once (`tests/imported.py`), and
each process is a fork of it. It has its own process id, output, environment and signals, and it starts JAX's devices
itself. Tests of what happens at a start, such as those in test_wheel.py and test_errors.py, begin with `python`.
"""

import atexit
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

_SERVER = multiprocessing.get_context("forkserver") if sys.platform == "linux" else None
if _SERVER is not None:
    _SERVER.set_forkserver_preload(["tests.imported"])


class ForkedProcess:
    """Has of `subprocess.Popen[str]` what tests use. Its stdout and stderr are files."""

    def __init__(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]):
        assert _SERVER is not None
        written = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, written, ignore_errors=True)
        self._output, self._errors = Path(written, "output"), Path(written, "errors")
        for path in (self._output, self._errors):
            path.touch()
        streams = (str(self._output), str(self._errors))
        self._process = _SERVER.Process(target=_run, args=(list(arguments), str(folder), dict(environment), *streams))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit status, or minus the number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def wait(self) -> int:
        """Its exit status, when it has ended."""
        self._process.join()
        status = self.poll()
        assert status is not None
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; gives what is in stdout and stderr. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self.poll() is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0)
        return self._output.read_text(), self._errors.read_text()

    def send_signal(self, number: signal.Signals) -> None:
        """If it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[str] | ForkedProcess


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def start(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Process:
    """Starts `python ARGUMENTS`: `-c CODE …`, `-m MODULE …` or `SCRIPT …`.

    JAX reads its own variables (`JAX_…`) when it is imported. If they are not those of this process, and on systems
    other than Linux, the process begins with `python`.
    """
    if _SERVER is not None and _variables_of_jax(environment) == _variables_of_jax(os.environ):
        return ForkedProcess(arguments, folder, environment)
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _variables_of_jax(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith("JAX_")}


def _run(arguments: Sequence[str], folder: str, environment: Mapping[str, str], output: str, errors: str) -> None:
    """In the fork: does what `python ARGUMENTS` does, from the first line of the program to the last function."""
    for path, descriptor in ((output, 1), (errors, 2)):
        opened = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (both stay open until the process ends)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    try:
        _run_as_main(arguments)
    finally:
        # As at the end of `python`; multiprocessing leaves the second out.
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()


def _run_as_main(arguments: Sequence[str]) -> None:
    kind, *others = arguments
    if kind == "-c":
        sys.argv = ["-c", *others[1:]]
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(others[0], "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.argv = ["-m", *others[1:]]
        runpy.run_module(others[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")
