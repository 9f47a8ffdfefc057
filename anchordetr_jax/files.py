"""Writing files so that a reader, or a crash, never meets half of one."""

import json
import os
from pathlib import Path
from typing import Any

from etils import epath

from anchordetr_jax.errors import UserError


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file in one piece, making its folder if need be. Local paths and those that `etils.epath` knows
    (`gs://…`).

    Raises `UserError` when it cannot be written; what was there before is then still there.
    """
    text = os.fspath(path)
    try:
        if "://" in text:  # object stores show a file only once it is complete
            remote = epath.Path(text)
            remote.parent.mkdir(parents=True, exist_ok=True)
            remote.write_bytes(data)
            return
        target = Path(text)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"Cannot write {text} ({error.strerror or error}); check the folder and the space on its disk."
        ) from error


def write_json(path: str | os.PathLike[str], contents: Any, *, indent: int | None = None) -> None:
    """Writes `contents` as a JSON file in one piece. Raises as `write_atomically` does."""
    write_atomically(path, (json.dumps(contents, indent=indent) + "\n").encode())
