"""What went wrong with a checkpoint, in one sentence."""

import os
import re
import textwrap

from etils import epath

from anchordetr_jax.errors import UserError


class DamagedCheckpointError(UserError):
    """A checkpoint cannot be read although its files look sound."""


class UnfinishedSaveError(UserError):
    """A checkpoint was not saved, and the system gives no reason: perhaps another process has ended."""


def not_written(path: epath.Path, error: Exception) -> UserError:
    """The error for a checkpoint that could not be saved."""
    kind = UserError if _system_reason(_root(error)) else UnfinishedSaveError
    return kind(
        f"Checkpoint {path} could not be written ({brief(error)}); earlier checkpoints are unharmed: make room or "
        "repair the folder, then give the same command again."
    )


def brief(error: BaseException) -> str:
    """What the system says went wrong, or the first line of an error's message.

    Orbax wraps errors, so this looks at the first error of the chain.
    """
    root = _root(error)
    lines = str(root).strip().splitlines()
    first = textwrap.shorten(lines[0], 200, placeholder=" …") if lines else type(root).__name__
    return _system_reason(root) or first


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _system_reason(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        return error.strerror
    code = re.search(r"\[os_error_code='(\d+)'", str(error))  # tensorstore's, behind a long path
    return os.strerror(int(code[1])) if code else None
