"""Reads and writes PyTorch's checkpoint files without PyTorch.

It reads three kinds: the zip archive of `torch.save`, its older format (before PyTorch 1.6), and safetensors. Reading
never runs code in a file (see `unpickle`). If a file cannot be read, the error is one sentence.
"""

import contextlib
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401  (safetensors needs it for bfloat16)
import numpy as np
import safetensors
import safetensors.numpy

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import path_here
from anchordetr_jax.weights.pickle_objects import MalformedPickleError, RefusedNameError
from anchordetr_jax.weights.torch_formats import (
    ZIP_SIGNATURE,
    DamagedError,
    OtherFormatError,
    read_legacy,
    read_zip,
)
from anchordetr_jax.weights.torch_pickle import pickle_for_torch

_ZIP_HEADER = 30
_ALIGNMENT = 64
_MAX_HEADER = 100_000_000  # That of the safetensors library.


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Reads a file that `torch.save` wrote, in either of PyTorch's formats.

    Returns:
        The saved object. Tensors and parameters become numpy arrays of the same dtype, shape and values (bfloat16 and
        float8 with `ml_dtypes`). Tensors that share memory still share it. Containers, numbers, strings and
        `argparse.Namespace` stay what they are. Sizes become tuples; dtypes, devices and paths become strings. The
        memory needed is the size of the file.

    Raises:
        UserError: the file is missing, damaged or not a file of PyTorch, or it asks for something else than such data.
    """
    path = Path(path)
    with one_sentence(path), path.open("rb") as file:
        start = file.read(len(ZIP_SIGNATURE))
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        return read_zip(file, size) if start == ZIP_SIGNATURE else read_legacy(file, size)


def read_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads a safetensors file.

    Returns:
        Arrays by name (bfloat16 with `ml_dtypes`), and the file's metadata. `safetensors.torch.save_model` writes there
        which names it left out, because their tensor has another name, too.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(path)
    with one_sentence(path):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            try:
                header = json.loads(file.read(min(length, _MAX_HEADER)))
                metadata = {str(name): str(value) for name, value in header.get("__metadata__", {}).items()}
            except (ValueError, AttributeError, RecursionError):
                metadata = {}  # The safetensors library says below what is wrong.
        try:
            # Not mapped into memory: that would need memory for the file's pages and for the arrays at once.
            return safetensors.numpy.load_file(path, backend="pread"), metadata
        except safetensors.SafetensorError as error:
            raise DamagedError(str(error)) from None


def is_safetensors(path: Path) -> bool:
    """True if the file starts like a safetensors file: the length of a JSON header, then the header."""
    with one_sentence(path), path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        return start[8:] == b"{" and length <= os.fstat(file.fileno()).st_size


def write_torch_file(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a file that `torch.load` reads, with numpy arrays as tensors.

    With `weights_only=True` (PyTorch's default), `torch.load` refuses `argparse.Namespace` unless it is allowed by
    `torch.serialization.add_safe_globals`; it reads everything else. The file gets its name only when it is complete.
    Equal values give equal bytes.

    Args:
        path: the file. An existing file is replaced.
        value: dicts, lists, tuples, `argparse.Namespace`, strings, bytes, numbers and numpy arrays, nested. An array
            object that occurs several times is stored once.

    Raises:
        TypeError: `value` contains something else.
        UserError: the file cannot be written.
    """
    path = path_here(path)
    content, storages = pickle_for_torch(value)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
            _write_record(archive, file, "data.pkl", content)
            _write_record(archive, file, "byteorder", b"little")
            for key, storage in enumerate(storages):
                _write_record(archive, file, f"data/{key}", storage.reshape(-1).view(np.uint8).data)
            _write_record(archive, file, "version", b"3\n")
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _write_record(archive: zipfile.ZipFile, file: BinaryIO, name: str, content: bytes | memoryview) -> None:
    record = zipfile.ZipInfo(f"archive/{name}")
    # PyTorch maps records into memory, so their content must start at multiples of 64 bytes. PyTorch uses this filler.
    start = file.tell() + _ZIP_HEADER + len(record.filename) + 4
    filler = -start % _ALIGNMENT
    record.extra = struct.pack("<2sH", b"FB", filler) + b"Z" * filler
    record.file_size = len(content)
    with archive.open(record, "w") as target:
        target.write(content)


@contextlib.contextmanager
def one_sentence(path: Path) -> Iterator[None]:
    """Turns every error that reading `path` can cause into a `UserError` that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; give the path of a .pth or .safetensors file.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the path of a .pth or .safetensors file.") from None
    except RefusedNameError as error:
        raise UserError(
            f"{path} asks for {error.args[0][:80]!r}, which weights do not need, so it was refused and no code was "
            "run; take the file from a source you trust, or save model.state_dict() alone with PyTorch."
        ) from None
    except OtherFormatError as error:
        raise UserError(f"{path} is {error.args[0]}.") from None
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"{path} could not be read ({what}); check its permissions, or copy it again.") from error
    except _DAMAGE as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is damaged or not a checkpoint ({detail}); download or copy it again.") from error


# The standard library and numpy raise these for damaged bytes. They are not faults of this program.
_DAMAGE = (
    DamagedError,
    MalformedPickleError,
    zipfile.BadZipFile,
    struct.error,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    RuntimeError,
    MemoryError,
)
