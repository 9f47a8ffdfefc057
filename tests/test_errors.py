"""A command answers a mistake with one sentence, and its output may be closed."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from anchordetr_jax import errors as module
from anchordetr_jax.errors import UserError, exit_status, result_or_error

ROOT = str(Path(module.__file__).parents[1])
START = "import sys\nfrom anchordetr_jax.errors import UserError, exit_status\n"


def _raise(error: BaseException) -> None:
    raise error


def test_a_mistake_is_printed_alone_and_gives_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: _raise(UserError("No such folder."))) == 1
    assert capsys.readouterr().err == "Error: No such folder.\n"


def test_a_mistake_inside_another_exception_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    wrapped = RuntimeError("a worker failed")
    wrapped.__cause__ = UserError("No such folder.")
    assert exit_status(lambda: _raise(wrapped)) == 1
    assert capsys.readouterr().err == "Error: No such folder.\n"


@pytest.mark.parametrize("bug", [RuntimeError("x"), AssertionError()])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    with pytest.raises(type(bug)):
        exit_status(lambda: _raise(bug))


def test_ctrl_c_gives_a_sentence_and_status_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status(lambda: _raise(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "Stopped by Ctrl-C.\n"


def test_success_gives_status_0_and_leaves_the_streams_alone() -> None:
    before = sys.stdout, sys.stderr
    assert exit_status(lambda: None) == 0
    assert (sys.stdout, sys.stderr) == before


def test_a_mistake_becomes_a_result_and_a_bug_does_not() -> None:
    error = UserError("No such image.")
    assert result_or_error(lambda: _raise(error)) is error
    assert result_or_error(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        result_or_error(lambda: 1 // 0)


def run(tmp_path: Path, action: str, redirection: str, environment: dict[str, str]) -> tuple[int, str]:
    """Exit status, and what the shell printed, of a command that does `action`."""
    script = tmp_path / "script.py"
    script.write_text(f"{START}def action():\n    {action}\nsys.exit(exit_status(action))\n")
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} {script} {redirection}"],
        env={**environment, "PYTHONPATH": ROOT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout


@pytest.mark.processes
def test_a_command_ends_its_work_without_a_reader(tmp_path: Path, script_environment: dict[str, str]) -> None:
    lines = f"[print(line, flush=True) for line in range(9999)]; open({str(tmp_path / 'done')!r}, 'w').close()"
    assert run(tmp_path, lines, "| head -n 1", script_environment) == (0, "0\n")
    assert (tmp_path / "done").exists()


def test_characters_that_a_terminal_does_not_have_are_written_as_codes() -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        assert exit_status(lambda: print("größe", "\ud83d")) == 0
    assert terminal.buffer.getvalue() == b"gr\\xf6\\xdfe \\ud83d\n"  # type: ignore[attr-defined]


@pytest.mark.processes
def test_a_mistake_is_told_on_stdout_when_stderr_is_closed(tmp_path: Path, script_environment: dict[str, str]) -> None:
    result = run(tmp_path, "raise UserError('No such folder.')", "2>&-", script_environment)
    assert result == (1, "Error: No such folder.\n")


@pytest.mark.processes
def test_all_streams_may_be_closed(tmp_path: Path, script_environment: dict[str, str]) -> None:
    assert run(tmp_path, "print('seen by nobody')", "0<&- >&- 2>&-", script_environment) == (0, "")


@pytest.mark.processes
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
def test_output_that_a_full_disk_refuses_is_a_mistake(tmp_path: Path, script_environment: dict[str, str]) -> None:
    result = run(tmp_path, "print('lost')", ">/dev/full", script_environment)
    assert result == (1, "Error: The output cannot be written: No space left on device.\n")


@pytest.mark.processes
@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
@pytest.mark.parametrize("action", ["jax.devices()", "jax.jit(abs)(1)"])
def test_a_platform_that_is_not_there_costs_one_sentence(
    tmp_path: Path, script_environment: dict[str, str], platform: str, action: str
) -> None:
    environment = {**script_environment, "JAX_PLATFORMS": platform}
    status, out = run(tmp_path, f"import jax; {action}", "2>&1 >/dev/null | tail -n 1", environment)
    assert status == 1
    assert out.startswith(f"Error: JAX cannot use what JAX_PLATFORMS={platform} asks for: ")
