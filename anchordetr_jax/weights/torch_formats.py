"""The two formats of PyTorch's checkpoint files: today's zip archive, and the older one (before PyTorch 1.6).

Reading never runs code in a file (see `unpickle`) and needs no more memory than the size of the file.
"""

import io
import sys
import zipfile
from typing import Any, BinaryIO

import numpy as np

from anchordetr_jax.weights.pickle_objects import MalformedPickleError
from anchordetr_jax.weights.torch_pickle import TORCH_NAMES, Storage, StorageType
from anchordetr_jax.weights.unpickle import unpickle

ZIP_SIGNATURE = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_CHUNK = 1 << 20
_OTHER_FILES = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<": "a web page, not a checkpoint; download the file itself",
    b"\x89HDF": "an HDF5 file, not PyTorch's; convert it with the framework that wrote it",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
}


class DamagedError(Exception):
    """The bytes do not follow the format; `args[0]` says where."""


class OtherFormatError(Exception):
    """The file has another format; `args[0]` says which one, and what to do."""


class _Storages:
    """Makes the storages that a pickle refers to. Together they may not have more bytes than the file."""

    def __init__(self, file_size: int) -> None:
        self.left = file_size
        self.buffers: dict[str, np.ndarray] = {}

    def typed(self, reference: Any) -> tuple[StorageType, str, int, Any]:
        """The parts of a persistent id: type, key, number of elements, and in the older format a view or None."""
        match reference:
            case ("storage", StorageType() as kind, str(key), _, int(count), *view) if count >= 0 and len(view) <= 1:
                return kind, key, count, view[0] if view else None
        raise MalformedPickleError("a reference to something that is not a storage")

    def buffer(self, key: str, size: int) -> np.ndarray:
        if key not in self.buffers:
            self.left -= size
            if self.left < 0:
                raise DamagedError("its tensors would take more bytes than it has")
            self.buffers[key] = np.empty(size, np.uint8)
        if len(self.buffers[key]) != size:
            raise DamagedError("two tensors disagree about their common storage")
        return self.buffers[key]


def read_zip(file: BinaryIO, file_size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        records = {record.filename: record for record in archive.infolist()}
        pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise OtherFormatError(
                "a zip archive, but not one that torch.save wrote; if a checkpoint is packed in it, unpack it first"
            )
        root = pickles[0].removesuffix("data.pkl")
        if root + "constants.pkl" in records:
            raise OtherFormatError("a TorchScript program; save model.state_dict() with PyTorch instead")

        def find(name: str) -> zipfile.ZipInfo:
            if root + name not in records:
                raise DamagedError(f"there is no record {name[:40]}")
            return records[root + name]

        def fill(name: str, target: np.ndarray) -> None:
            record = find(name)
            if record.compress_type != zipfile.ZIP_STORED:
                raise DamagedError("compressed records, which PyTorch does not write")
            if record.file_size != len(target):
                raise DamagedError(f"{record.file_size} bytes in {name} instead of {len(target)}")
            with archive.open(record) as source:
                _fill(source, target)
                source.read(1)  # At the end the checksum is compared.

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
            raise DamagedError("an unknown byte order")
        swapped = order.decode() != sys.byteorder
        return unpickle(io.BytesIO(read("data.pkl")), TORCH_NAMES, load, budget=file_size + _CHUNK)


def read_legacy(file: BinaryIO, file_size: int) -> Any:
    start = file.read(512)
    file.seek(0)
    for signature, what in _OTHER_FILES.items():
        if start.startswith(signature):
            raise OtherFormatError(what)
    if start[257:262] == b"ustar":
        raise OtherFormatError("a tar archive (PyTorch wrote such before 0.1.10); load and save it again with PyTorch")
    if not start.startswith(b"\x80") or unpickle(file, {}) != _LEGACY_MAGIC:
        raise OtherFormatError("not a file of PyTorch's; give what torch.save wrote, or a .safetensors file")
    if unpickle(file, {}) != _LEGACY_PROTOCOL:
        raise DamagedError("an unknown version of the format")
    unpickle(file, {})  # Sizes of C types on the machine that wrote it. Storages are always little-endian.

    storages = _Storages(file_size)
    item_sizes: dict[str, int] = {}

    def load(reference: Any) -> Storage:
        # The bytes come after the pickle: tensors use memory that is filled below.
        kind, key, count, view = storages.typed(reference)
        size = kind.dtype.itemsize
        buffer = storages.buffer(key, count * size)
        item_sizes.setdefault(key, size)
        if view is not None:
            _, offset, length = view
            if not (type(offset) is type(length) is int and 0 <= offset <= offset + length <= count):
                raise DamagedError("a view that reaches beyond its storage")
            buffer = buffer[offset * size : (offset + length) * size]
        return Storage(buffer, kind.dtype)

    content = unpickle(file, TORCH_NAMES, load, budget=file_size + _CHUNK)
    keys = unpickle(file, {}, budget=file_size + _CHUNK)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise DamagedError("its list of storages is not a list")
    if sorted(keys) != sorted(storages.buffers):
        raise DamagedError("its list of storages does not fit its tensors")
    for key in keys:
        buffer, header = storages.buffers[key], np.empty(8, np.uint8)
        _fill(file, header)
        if int.from_bytes(header.tobytes(), "little") * item_sizes[key] != len(buffer):
            raise DamagedError("a storage of another length than its tensors say")
        _fill(file, buffer)
    return content


def _fill(source: Any, target: np.ndarray) -> None:
    done = 0
    while done < len(target):
        piece = source.read(min(_CHUNK, len(target) - done))
        if not piece:
            raise DamagedError("it ends too early")
        target[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)


def _swap_bytes(buffer: np.ndarray, dtype: np.dtype) -> None:
    item = dtype.itemsize // 2 if dtype.kind == "c" else dtype.itemsize
    buffer.view(f"u{item}").byteswap(inplace=True)
