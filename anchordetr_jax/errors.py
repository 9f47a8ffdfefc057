"""The exception for mistakes of the user, and how a command ends: in one sentence and an exit status."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, TextIO, TypeVar, cast

Result = TypeVar("Result")


class UserError(Exception):
    """A mistake that the user can correct: a file, a folder or a setting.

    The message is one sentence that names the file or setting and says what to do. Commands print it without a
    traceback and exit with status 1.
    """


def result_or_error(function: Callable[[], Result]) -> "Result | UserError":
    """What `function` returns, or the `UserError` that it raises: one image of many must not end the others."""
    try:
        return function()
    except UserError as error:
        return error


def exit_status(action: Callable[[], Any]) -> int:
    """Runs `action`. A `UserError`, also one that caused another exception, is printed as one sentence.

    The command goes on to its end when the program that reads its output ends first (`… | head`): no work is lost.
    When stderr is closed (`2>&-`), sentences go to stdout.

    Returns:
        0; or 1 after a `UserError`, or when JAX cannot start its platform; or 130 after Ctrl-C.

    Raises:
        Any other exception: it is a bug, and needs its traceback.
    """
    with _lasting_output():
        try:
            try:
                action()
            finally:
                sys.stdout.flush()  # A full disk is a `UserError` here, and would be a traceback later.
        except KeyboardInterrupt:
            print("Stopped by Ctrl-C.", file=sys.stderr)
            return 130
        except Exception as exception:
            sentence = _sentence(exception)
            if sentence is None:
                raise
            print(f"Error: {sentence}", file=sys.stderr)
            return 1
    return 0


def _sentence(exception: Exception) -> str | None:
    """What to tell the person at the keyboard; None for a bug."""
    cause: BaseException | None = exception
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__
    return str(cause) if cause is not None else _platform_sentence(exception)


def _platform_sentence(exception: Exception) -> str | None:
    """What to tell when JAX cannot start a platform, say one that `JAX_PLATFORMS` names; None for another exception."""
    reason = " ".join(str(exception).partition(" (set JAX_PLATFORMS=")[0].split()).rstrip(".")
    asked_for = os.environ.get("JAX_PLATFORMS", "")
    if not reason.startswith("Unable to initialize backend"):
        # JAX answers "cuda" without NVIDIA's plugin by an assertion without text. Ask again to be sure.
        if not (isinstance(exception, AssertionError) and not reason and asked_for) or _jax_starts():
            return None
        reason = "JAX has no such platform here"
    if not asked_for:
        return f"JAX cannot start its devices: {reason}."
    return (
        f"JAX cannot use what JAX_PLATFORMS={asked_for} asks for: {reason}. Unset JAX_PLATFORMS, and JAX takes the "
        "devices that it finds. NVIDIA GPUs need pip install 'jax[cuda12]', TPUs pip install 'jax[tpu]'."
    )


def _jax_starts() -> bool:
    try:
        sys.modules["jax"].devices()
    except (KeyError, AssertionError, RuntimeError):
        return False
    return True


@contextlib.contextmanager
def _lasting_output() -> Iterator[None]:
    """Makes stdout and stderr such that writing to them does not end the command."""
    for descriptor in range(3):  # Else the next file that is opened takes the place of a closed stream, and its text.
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # Takes the lowest free descriptor, which is this one.
    nothing: list[TextIO] = []
    if sys.stdout is None and sys.stderr is None:
        nothing.append(open(os.devnull, "w"))  # noqa: SIM115 (it stays open until the process ends)
    # A stream that was closed before the start (`2>&-`) is None; the other one takes what is meant for it.
    out = sys.stdout or sys.stderr or nothing[0]
    err = sys.stderr or out
    lasting = _LastingStream(out, matters=True), _LastingStream(err, matters=False)
    sys.stdout, sys.stderr = cast(tuple[TextIO, TextIO], lasting)
    try:
        yield
    finally:
        with contextlib.suppress(UserError):
            lasting[0].flush()
        lasting[1].flush()
        sys.stdout, sys.stderr = out, err


class _LastingStream:
    """A text stream that goes on without a reader. A full disk is a `UserError` if what is written `matters`."""

    def __init__(self, stream: TextIO, *, matters: bool) -> None:
        self._stream, self._matters = stream, matters

    def write(self, text: str) -> int:
        with self._lasting():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:  # The terminal's encoding lacks a character, or there is half of one.
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._lasting():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _lasting(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._discard()
            if self._matters and not isinstance(error, BrokenPipeError):
                raise UserError(f"The output cannot be written: {error.strerror or error}.") from error

    def _discard(self) -> None:
        """From now on what is written goes nowhere; so does what waits in the buffer."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)
