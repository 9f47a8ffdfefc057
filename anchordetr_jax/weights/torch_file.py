"""PyTorch's checkpoint files, read and written without PyTorch.

Three kinds are read: `torch.save`'s zip archive, its older format (before PyTorch 1.6), and safetensors. Reading a file
never runs anything in it (see `unpickle`), and every file that cannot be read is answered by one sentence.
"""

import argparse
import contextlib
import io
import os
import struct
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401  (safetensors needs it for bfloat16)
import numpy as np
import safetensors
import safetensors.numpy

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.pickle_objects import MalformedPickleError, RefusedNameError
from anchordetr_jax.weights.torch_pickle import TORCH_NAMES, Storage, StorageType, pickle_for_torch
from anchordetr_jax.weights.unpickle import unpickle

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_ZIP_SIGNATURE = b"PK\x03\x04"
_ZIP_HEADER = 30
_ALIGNMENT = 64
_CHUNK = 1 << 20
_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict")
_OTHER_FILES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<": "a web page, not a checkpoint; download the file itself",
    b"\x89HDF": "an HDF5 file, not PyTorch's; convert it with the framework that wrote it",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
}


def read_torch_file(path: str | os.PathLike[str]) -> Any:
    """Reads what `torch.save` wrote, in either of PyTorch's formats.

    Returns:
        The saved object. Tensors and parameters are numpy arrays of their dtype, shape and values (bfloat16 and float8
        by `ml_dtypes`); tensors that shared memory still do. Containers, numbers, strings and `argparse.Namespace` are
        themselves; sizes are tuples; dtypes, devices and paths are strings. Memory taken: the size of the file.

    Raises:
        UserError: the file is missing, damaged, not PyTorch's, or asks for anything but such data.
    """
    path = Path(path)
    with _one_sentence(path), path.open("rb") as file:
        start = file.read(len(_ZIP_SIGNATURE))
        file.seek(0)
        size = os.fstat(file.fileno()).st_size
        return _read_zip(file, size) if start == _ZIP_SIGNATURE else _read_legacy(file, size)


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a safetensors file: name to array, bfloat16 by `ml_dtypes`.

    Raises:
        UserError: the file is missing or damaged.
    """
    path = Path(path)
    with _one_sentence(path):
        path.open("rb").close()  # for Python's own words on a file that cannot be opened
        try:
            # Not mapped into memory: that would hold the file's pages and the arrays at once.
            return safetensors.numpy.load_file(path, backend="pread")
        except safetensors.SafetensorError as error:
            raise _DamagedError(str(error)) from None


def read_state_dict(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
    """Reads the weights in a `.pth` or `.safetensors` file, whichever its content says it is.

    The state dict is the file's whole content, or stands in it under "model", "state_dict" or "model_state_dict". The
    prefix "module." that `DistributedDataParallel` puts before every name is taken off.

    Returns:
        The state dict, and the settings saved beside it as `args` (None where there are none).

    Raises:
        UserError: the file cannot be read, or holds no state dict.
    """
    path = Path(path)
    if _is_safetensors(path):
        return _without_prefix(read_safetensors(path)), None
    content = read_torch_file(path)
    weights, args = content, None
    if isinstance(content, Mapping):
        weights = next((content[key] for key in _STATE_DICT_KEYS if isinstance(content.get(key), dict)), content)
        args = content.get("args")
    problem = _why_no_state_dict(weights)
    if problem:
        raise UserError(
            f"{path} holds no state dict (names with tensors): {problem}; save model.state_dict() with PyTorch."
        )
    settings = vars(args) if isinstance(args, argparse.Namespace) else args
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        settings = None
    return _without_prefix(weights), settings


def write_torch_file(path: str | os.PathLike[str], value: Any) -> None:
    """Writes a file that `torch.load` reads, numpy arrays as tensors.

    With `weights_only=True` (PyTorch's default) it reads everything but `argparse.Namespace`, which must be allowed
    there by `torch.serialization.add_safe_globals`. The file appears under its name only when it is complete. Equal
    values give equal bytes.

    Args:
        path: the file; one that exists is replaced.
        value: dicts, lists, tuples, `argparse.Namespace`, strings, bytes, numbers and numpy arrays, nested. An array
            object that occurs several times is stored once.

    Raises:
        TypeError: `value` holds anything else.
        UserError: the file cannot be written.
    """
    path = Path(path)
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
    # PyTorch maps records into memory: their content starts at multiples of 64 bytes, by the filler field it uses too.
    start = file.tell() + _ZIP_HEADER + len(record.filename) + 4
    filler = -start % _ALIGNMENT
    record.extra = struct.pack("<2sH", b"FB", filler) + b"Z" * filler
    record.file_size = len(content)
    with archive.open(record, "w") as target:
        target.write(content)


class _DamagedError(Exception):
    """The bytes are not what the format says; `args[0]` says where."""


class _OtherFormatError(Exception):
    """The file is of another kind; `args[0]` says which, and what to do."""


@contextlib.contextmanager
def _one_sentence(path: Path) -> Iterator[None]:
    """Turns whatever reading `path` runs into into a `UserError` that names it."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; give the path of a .pth or .safetensors file.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; give the path of a .pth or .safetensors file.") from None
    except RefusedNameError as error:
        raise UserError(
            f"{path} asks for {error.args[0][:80]!r}, which weights have no use for, so it was refused and nothing was "
            "run; take the file from a source you trust, or save model.state_dict() alone with PyTorch."
        ) from None
    except _OtherFormatError as error:
        raise UserError(f"{path} is {error.args[0]}.") from None
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"{path} could not be read ({what}); check its permissions, or copy it again.") from error
    except _DAMAGE as error:
        detail = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path} is damaged or no checkpoint ({detail}); download or copy it again.") from error


# What the standard library and numpy raise on bytes that make no sense; none of it is a fault of the program.
_DAMAGE = (
    _DamagedError,
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


class _Storages:
    """Makes the storages that a pickle refers to, and refuses to make more bytes of them than the file has."""

    def __init__(self, file_size: int) -> None:
        self.left = file_size
        self.buffers: dict[str, np.ndarray] = {}

    def typed(self, reference: Any) -> tuple[StorageType, str, int, Any]:
        """The parts of a persistent id: type, key, number of elements, and in the older format a view or None."""
        match reference:
            case ("storage", StorageType() as kind, str(key), _, int(count), *view) if count >= 0 and len(view) <= 1:
                return kind, key, count, view[0] if view else None
        raise MalformedPickleError("a reference to something that is no storage")

    def buffer(self, key: str, size: int) -> np.ndarray:
        if key not in self.buffers:
            self.left -= size
            if self.left < 0:
                raise _DamagedError("its tensors would take more bytes than it has")
            self.buffers[key] = np.empty(size, np.uint8)
        if len(self.buffers[key]) != size:
            raise _DamagedError("two tensors disagree about their common storage")
        return self.buffers[key]


def _read_zip(file: BinaryIO, file_size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise _OtherFormatError(
                "a zip archive, but not one that torch.save wrote; if a checkpoint is packed in it, unpack it first"
            )
        root = pickles[0].removesuffix("data.pkl")
        if root + "constants.pkl" in records:
            raise _OtherFormatError("a TorchScript program; save model.state_dict() with PyTorch instead")

        def find(name: str) -> zipfile.ZipInfo:
            if root + name not in records:
                raise _DamagedError(f"there is no record {name[:40]}")
            return records[root + name]

        def fill(name: str, target: np.ndarray) -> None:
            record = find(name)
            if record.compress_type != zipfile.ZIP_STORED:
                raise _DamagedError("compressed records, which PyTorch does not write")
            if record.file_size != len(target):
                raise _DamagedError(f"{record.file_size} bytes in {name} instead of {len(target)}")
            with archive.open(record) as source:
                _fill(source, target)
                source.read(1)  # at the end the checksum is compared

        def read(name: str) -> bytes:
            content = storages.buffer("/" + name, find(name).file_size)
            fill(name, content)
            return content.tobytes()

        def load(reference: Any) -> Storage:
            kind, key, count, _ = storages.typed(reference)
            known = key in storages.buffers
            buffer = storages.buffer(key, count * kind.dtype.itemsize)
            if not known:
                fill(f"data/{key}", buffer)
                if swapped:
                    _swap_bytes(buffer, kind.dtype)
            return Storage(buffer, kind.dtype)

        storages = _Storages(file_size)
        order = read("byteorder") if root + "byteorder" in records else b"little"
        if order not in (b"little", b"big"):
            raise _DamagedError("an unknown byte order")
        swapped = order.decode() != sys.byteorder
        return unpickle(io.BytesIO(read("data.pkl")), TORCH_NAMES, load, budget=file_size + _CHUNK)


def _read_legacy(file: BinaryIO, file_size: int) -> Any:
    start = file.read(512)
    file.seek(0)
    for signature, what in _OTHER_FILES.items():
        if start.startswith(signature):
            raise _OtherFormatError(what)
    if start[257:262] == b"ustar":
        raise _OtherFormatError("a tar archive (PyTorch wrote such before 0.1.10); load and save it anew with PyTorch")
    if not start.startswith(b"\x80") or unpickle(file, {}) != _LEGACY_MAGIC:
        raise _OtherFormatError("not a file of PyTorch's; give what torch.save wrote, or a .safetensors file")
    if unpickle(file, {}) != _LEGACY_PROTOCOL:
        raise _DamagedError("an unknown version of the format")
    unpickle(file, {})  # sizes of C types on the machine that wrote it; storages are little-endian whatever it says

    storages = _Storages(file_size)
    item_sizes: dict[str, int] = {}

    def load(reference: Any) -> Storage:
        # The bytes come after the pickle: tensors are laid over memory that is filled below.
        kind, key, count, view = storages.typed(reference)
        size = kind.dtype.itemsize
        buffer = storages.buffer(key, count * size)
        item_sizes.setdefault(key, size)
        if view is not None:
            _, offset, length = view
            if not (type(offset) is type(length) is int and 0 <= offset <= offset + length <= count):
                raise _DamagedError("a view that reaches beyond its storage")
            buffer = buffer[offset * size : (offset + length) * size]
        return Storage(buffer, kind.dtype)

    content = unpickle(file, TORCH_NAMES, load, budget=file_size + _CHUNK)
    keys = unpickle(file, {}, budget=file_size + _CHUNK)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise _DamagedError("its list of storages is none")
    if sorted(keys) != sorted(storages.buffers):
        raise _DamagedError("its list of storages does not fit its tensors")
    for key in keys:
        buffer, header = storages.buffers[key], np.empty(8, np.uint8)
        _fill(file, header)
        if int.from_bytes(header.tobytes(), "little") * item_sizes[key] != len(buffer):
            raise _DamagedError("a storage of another length than its tensors say")
        _fill(file, buffer)
    return content


def _fill(source: Any, target: np.ndarray) -> None:
    done = 0
    while done < len(target):
        piece = source.read(min(_CHUNK, len(target) - done))
        if not piece:
            raise _DamagedError("it ends too early")
        target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)


def _swap_bytes(buffer: np.ndarray, dtype: np.dtype) -> None:
    item = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    buffer.view(f"u{item}").byteswap(inplace=True)


def _is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors do: the length of a JSON header, then that header."""
    with _one_sentence(path), path.open("rb") as file:
        start = file.read(9)
        length = int.from_bytes(start[:8], "little")
        return start[8:] == b"{" and length <= os.fstat(file.fileno()).st_size


def _why_no_state_dict(weights: Any) -> str:
    """What was found in the state dict's place; empty if it is one."""
    if not isinstance(weights, dict):
        return f"it is of type {type(weights).__name__}"
    if not weights:
        return "it is an empty dict"
    others = [name for name, value in weights.items() if not (isinstance(name, str) and isinstance(value, np.ndarray))]
    if not others:
        return ""
    shown = ", ".join(f"{_short(name)} is of type {type(weights[name]).__name__}" for name in others[:5])
    return shown + (f", and {len(others) - 5} more are no tensors" if len(others) > 5 else "")


def _short(name: Any) -> str:
    return repr(name[:60]) if isinstance(name, str) else f"a key of type {type(name).__name__}"


def _without_prefix(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if weights and all(name.startswith("module.") for name in weights):
        return {name.removeprefix("module."): value for name, value in weights.items()}
    return dict(weights)
