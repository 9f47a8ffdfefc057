"""Paths on this machine and in buckets, and files that are written as a whole or not at all."""

import fnmatch
import glob
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from etils import epath

from anchordetr_jax.errors import UserError

BUCKET_PACKAGES = {"gs": "gcsfs", "s3": "s3fs", "az": "adlfs"}
"""The packages with which etils.epath reads buckets, by the scheme of their URLs. TensorFlow can do it instead."""


class LiteralPath(type(epath.Path(os.sep))):  # type: ignore[misc]
    """A path of etils.epath whose own characters are never a pattern.

    `epath.Path("runs/exp[1]").glob("*")` looks for the folder `runs/exp1`. Orbax finds the parts of a checkpoint by
    such a glob, so in a folder with `[`, `*` or `?` in its name it would never finish a checkpoint.
    """

    def glob(self, pattern: str) -> Iterator["LiteralPath"]:
        """Paths below this one that match the pattern, whatever characters this path has itself."""
        found = [self]
        for part in pattern.split("/"):
            folders = [path for path in found if path.is_dir()]
            inside = [path for folder in folders for path in folder.iterdir()]
            # As in a shell, "*" does not match a name that begins with a dot.
            visible = [path for path in inside if path.name[0] != "." or part[0] == "."]
            found = [path for path in visible if fnmatch.fnmatchcase(path.name, part)]
        yield from sorted(found)

    def rmtree(self, missing_ok: bool = False) -> None:
        """Removes this folder and all that is in it."""
        if "://" in os.fspath(self) and glob.has_magic(os.fspath(self)):  # fsspec takes it for a pattern here as well.
            for path in self.iterdir() if self.is_dir() else ():
                path.rmtree() if path.is_dir() else path.unlink()
            if self.is_dir():
                self.rmdir()
        else:
            super().rmtree(missing_ok=missing_ok)


def stored_path(path: str | os.PathLike[str]) -> epath.Path:
    """A path on this machine, or in a bucket (`gs://…`). It is safe for Orbax, whatever characters it has.

    Raises `UserError` for a URL of another kind, and for a bucket if the package that reads it is missing.
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
            raise UserError(f"{text} is in a bucket. Reading it needs {package}: pip install {package}.") from None
    return LiteralPath(text)


def path_here(path: str | os.PathLike[str]) -> Path:
    """A path on this machine, where "~" is the home folder.

    Raises `UserError` for an address (`gs://…`), which `Path` takes for a folder of this machine.
    """
    text = os.fspath(path)
    if re.match(r"[a-z][a-z0-9]+:/", text):  # `Path("gs://bucket")` has one slash.
        raise UserError(f"{text} is an address: give a plain path on this machine, and copy what is written there.")
    return Path(text).expanduser()


def user_cache() -> Path:
    """This project's folder among the user's caches: `$XDG_CACHE_HOME/anchordetr_jax` or `~/.cache/anchordetr_jax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "anchordetr_jax"


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file as a whole or not at all, on this machine or in a bucket (`gs://…`). Makes its folder if necessary.

    Raises `UserError` if it cannot be written; an earlier file of this name is then still there.
    """
    text = os.fspath(path)
    try:
        if "://" in text:  # Buckets show a file only when it is complete.
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
    """Writes `contents` as a JSON file. Raises as `write_atomically` does."""
    write_atomically(path, (json.dumps(contents, indent=indent) + "\n").encode())
