"""Runs the parts one after the other, each in a process of its own that is killed when its time is over."""

import contextlib
import datetime
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from anchordetr_jax.benchmark.gpu.parts import LETTERS, Part, chosen_parts, results_path
from anchordetr_jax.benchmark.gpu.report import write_report
from anchordetr_jax.benchmark.gpu.results import read_results
from anchordetr_jax.benchmark.gpu.settings import Settings
from anchordetr_jax.benchmark.machine import graphics_cards, processor, versions
from anchordetr_jax.devices import processors
from anchordetr_jax.errors import UserError

LOG = "log.txt"
LEAST_SECONDS = 5.0
"""With less time left, a part is not started."""
NO_KERNEL = "This project has no kernel for GPUs: XLA compiles the plain functions. So there is nothing to compare."


def run_all(settings: Settings, command_of: Callable[[Part, Path, float], Sequence[str]]) -> bool:
    """Measures everything that the settings ask for. Returns whether every part ran and every check passed.

    The report is written before the first part, whenever a part has found something, and after each part.

    Args:
        settings: what to measure.
        command_of: the command of a part's process, from the part, the folder for its results, and its seconds.

    Raises:
        UserError: `settings.only` names a part that does not exist.
    """
    unknown = [letter for letter in settings.only if letter not in LETTERS]
    if unknown:
        raise UserError(f"There is no part {unknown[0]!r}: --only takes one or more of {', '.join(LETTERS)}.")
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    parts = chosen_parts(settings)
    report: dict[str, Any] = {**_surroundings(settings), "parts": {}}
    for part in parts:
        report["parts"][part.name] = {"title": part.title, "state": "not begun"}
    if not settings.only or "d" in settings.only:
        report["parts"]["d"] = {"title": "Kernels on and off", "state": "done", "notes": [NO_KERNEL]}
    write_report(output, report)

    end = time.monotonic() + 60 * settings.minutes
    with contextlib.ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="measure-gpu-", ignore_cleanup_errors=True)))
        log = stack.enter_context(open(output / LOG, "a"))
        stack.enter_context(_ending_on_sigterm())
        for index, part in enumerate(parts):
            left = end - time.monotonic()
            seconds = left * part.share / sum(other.share for other in parts[index:])
            shown = report["parts"][part.name]
            if seconds < LEAST_SECONDS:
                shown["state"] = "not begun: no time was left"
                write_report(output, report)
                continue
            print(f"Part {part.name}: {part.title}, at most {seconds:.0f} s", flush=True)
            shown |= {"state": "running", "budget": seconds}
            write_report(output, report)

            def update(part: Part = part) -> None:
                report["parts"][part.name] |= read_results(results_path(work, part.name))
                write_report(output, report)

            started = time.monotonic()
            state = _run(part, command_of(part, work, seconds), log, results_path(work, part.name), seconds, update)
            shown |= {"state": state, "seconds": time.monotonic() - started}
            update()
            failed = f", failed: {', '.join(shown['failed'])}" if shown.get("failed") else ""
            print(f"Part {part.name}: {state} after {shown['seconds']:.0f} s{failed}", flush=True)
    print(f"The report is {output / 'report.md'}.")
    states = [part["state"] == "done" and not part.get("failed") for part in report["parts"].values()]
    return all(states)


def _surroundings(settings: Settings) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "devices": graphics_cards() or ["no NVIDIA GPU"],
        "host": processor(),
        "cores": processors(),
        "python": sys.version.split()[0],
        "versions": versions(),
        "command": shlex.join(["bash", "scripts/measure_gpu.sh", *sys.argv[1:]]),
        "rehearsal": settings.rehearse,
        "minutes": settings.minutes,
    }


def _run(
    part: Part, command: Sequence[str], log: Any, results: Path, seconds: float, update: Callable[[], None]
) -> str:
    """Runs a part to its end or to the end of its time. Returns how it ended."""
    log.write(f"\n===== Part {part.name}: {shlex.join(command)}\n")
    log.flush()
    process = subprocess.Popen(
        command, stdout=log, stderr=subprocess.STDOUT, env=_environment(part), start_new_session=True
    )
    end, seen = time.monotonic() + seconds, 0.0
    try:
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
            changed = results.stat().st_mtime if results.exists() else 0.0
            if changed > seen:
                seen = changed
                update()
        status = process.poll()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # Also the processes that it has started.
        process.wait()
    if status is None:
        return "stopped: its time was over"
    return "done" if status == 0 else f"failed: its process ended with status {status}; see {LOG}"


def _environment(part: Part) -> dict[str, str]:
    """The environment of a part's process: JAX takes memory as it needs it, because other processes need some too."""
    environment = {**os.environ, "TQDM_DISABLE": "1", "PYTHONUNBUFFERED": "1"}
    environment |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.95"}
    if part.official:
        environment["JAX_PLATFORMS"] = "cpu"  # The official code gets the whole GPU.
    return environment


@contextlib.contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends this process as Ctrl-C does, so that the running part is killed."""

    def end(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
