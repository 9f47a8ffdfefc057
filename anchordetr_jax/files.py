"""Paths here and in buckets, and writing files so that a reader, or a crash, never meets half of one."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

from anchordetr_jax.errors import UserError

BUCKET_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""What etils.epath reads buckets with, by the scheme of their URLs; TensorFlow can do it, too."""


def stored_path(path: str | os.PathLike[str]) -> epath.Path:
    """A path on this machine, or in a bucket (`gs://…`).

    Raises `UserError` for a URL of another kind, and for a bucket without the package that reads it.
    """
    text = os.fspath(path)
    scheme, separator, _ = text.partition("://")
    if separator and scheme not in BUCKET_PACKAGES:
        raise UserError(f"{text} is not on this machine: download it first, and give its path.")
    if separator and importlib.util.find_spec("tensorflow") is None:
        try:
            fsspec.get_filesystem_class(scheme)
        except ImportError:
            package = BUCKET_PACKAGES[scheme]
            raise UserError(f"{text} is in a bucket, which takes {package}: pip install {package}.") from None
    return epath.Path(text)


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file in one piece, making its folder if need be. Local paths and those that `etils.epath` knows
    (`gs://…`).

    Raises `UserError` when it cannot be written; what was there before is then still there.
    """
    text = os.fspath(path)
    try:
        if "://" in text:  # object stores show a file only once it is complete
            remote = stored_path(text)
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
