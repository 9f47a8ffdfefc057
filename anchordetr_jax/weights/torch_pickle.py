"""The objects in PyTorch's files: how its pickles describe tensors. They are read and written without PyTorch.

For each tensor, a pickle contains a call of a rebuilding function. Its arguments are a storage (a persistent id that
names a block of bytes elsewhere in the file), and an offset, a size and strides, counted in elements.
"""

import argparse
import collections
import dataclasses
import math
import pickle
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from anchordetr_jax.weights.pickle_objects import Constructor, MalformedPickleError, RefusedNameError, constructors

_STORAGE_DTYPES: Mapping[str, np.dtype] = {
    "DoubleStorage": np.dtype(np.float64),
    "FloatStorage": np.dtype(np.float32),
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
    "ComplexFloatStorage": np.dtype(np.complex64),
    "ComplexDoubleStorage": np.dtype(np.complex128),
}
# Dtypes without their own storage class: such tensors use untyped storages and name their dtype.
_NEWER_DTYPES = ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")

# A tensor with strides of 0 can be far larger than its storage. More elements than this are refused as an attack.
_MAX_EXPANDED = 1 << 28


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class StorageType:
    """One of PyTorch's storage classes, with the dtype of its elements. `UntypedStorage` counts bytes."""

    dtype: np.dtype


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A block of bytes (uint8 [n]) and its dtype. Tensors are views of its buffer."""

    buffer: np.ndarray
    dtype: np.dtype


def _rebuild_tensor(
    storage: Storage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *_: Any,
    dtype: np.dtype | None = None,
) -> np.ndarray:
    if not isinstance(storage, Storage):
        raise MalformedPickleError("a tensor without a storage")
    dtype = storage.dtype if dtype is None else dtype
    fitting = len(size) == len(stride) <= 32
    if not fitting or not all(type(number) is int and number >= 0 for number in (offset, *size, *stride)):
        raise MalformedPickleError("a tensor of impossible shape")
    count, available = math.prod(size), len(storage.buffer) // dtype.itemsize
    if count == 0:
        return np.empty(size, dtype)
    if offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) >= available:
        raise MalformedPickleError("a tensor that reaches beyond its storage")
    if count > max(available, _MAX_EXPANDED):
        raise MalformedPickleError("a tensor that unfolds to far more than the file holds")
    strides = tuple(step * dtype.itemsize for step in stride)
    return np.ndarray(size, dtype, buffer=storage.buffer, offset=offset * dtype.itemsize, strides=strides)


def _rebuild_tensor_v2(
    storage: Storage, offset: int, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> np.ndarray:
    if metadata:
        raise RefusedNameError("a lazily conjugated or negated tensor")
    return _rebuild_tensor(storage, offset, size, stride)


def _rebuild_tensor_v3(
    storage: Storage,
    offset: int,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: str,
    metadata: Any = None,
) -> np.ndarray:
    if metadata or not isinstance(dtype, str) or dtype not in _NUMPY_DTYPES:
        raise RefusedNameError(f"a tensor of {dtype}" if isinstance(dtype, str) else "a tensor without a dtype")
    return _rebuild_tensor(storage, offset, size, stride, dtype=_NUMPY_DTYPES[dtype])


def _parameter(data: np.ndarray, *_: Any) -> np.ndarray:
    if not isinstance(data, np.ndarray):
        raise MalformedPickleError("a parameter without a tensor")
    return data


def _rebuild_with_attributes(
    rebuild: Constructor, cls: Constructor, arguments: tuple[Any, ...], state: Any
) -> np.ndarray:
    if not (isinstance(rebuild, Constructor) and rebuild.name.startswith("torch._utils._rebuild_")):
        raise MalformedPickleError("a tensor made in an unknown way")
    return rebuild.construct(*arguments)


def _device(kind: str, index: int | None = None) -> str:
    if not isinstance(kind, str) or not isinstance(index, int | None):
        raise MalformedPickleError("a device that is none")
    return kind if index is None else f"{kind}:{index}"


def _size(sizes: Any = ()) -> tuple[int, ...]:
    return tuple(sizes)


def _no_constructor(*_: Any) -> Any:
    raise MalformedPickleError("a type used as a function")


_NUMPY_DTYPES = {f"torch.{dtype.name}": dtype for dtype in _STORAGE_DTYPES.values()} | {
    f"torch.{name}": np.dtype(getattr(ml_dtypes, name, name)) for name in _NEWER_DTYPES
}

TORCH_NAMES: Mapping[str, Any] = {
    **{f"torch.{name}": StorageType(dtype) for name, dtype in _STORAGE_DTYPES.items()},
    "torch.storage.UntypedStorage": StorageType(np.dtype(np.uint8)),
    **{name: name for name in _NUMPY_DTYPES},
    **constructors(
        {
            "torch.device": _device,
            "torch.Size": _size,
            "torch.Tensor": _no_constructor,
            "torch.nn.parameter.Parameter": _parameter,
            "torch.nn.parameter.Buffer": _parameter,
            "torch._utils._rebuild_parameter": _parameter,
            "torch._utils._rebuild_parameter_with_state": _parameter,
            "torch._utils._rebuild_tensor": _rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": _rebuild_tensor_v2,
            "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
            "torch._tensor._rebuild_from_type_v2": _rebuild_with_attributes,
        }
    ),
}
"""The meaning of PyTorch's names in a pickle. Tensors and parameters become numpy arrays, sizes become tuples, dtypes
and devices become strings."""


def pickle_for_torch(value: Any) -> tuple[bytes, list[np.ndarray]]:
    """Pickles plain data and numpy arrays. PyTorch reads the arrays as tensors.

    Args:
        value: dicts, ordered dicts, lists, tuples, `argparse.Namespace`, strings, bytes, numbers, booleans, None and
            numpy arrays of PyTorch's dtypes, nested without cycles.

    Returns:
        The pickle, and the arrays (C-contiguous, little-endian) whose bytes are the storages "0", "1", … . If an array
        object occurs several times, it has one storage.

    Raises:
        TypeError: `value` contains something else.
    """
    writer = _Writer()
    return pickle.PROTO + b"\x02" + writer.pickled(value) + pickle.STOP, writer.storages


class _Writer:
    def __init__(self) -> None:
        self.storages: list[np.ndarray] = []
        self.keys: dict[int, int] = {}

    def pickled(self, value: Any) -> bytes:
        kind = type(value)
        if isinstance(value, np.ndarray):
            return self.tensor(value)
        if isinstance(value, np.generic):
            return self.pickled(value.item())
        if kind is dict:
            return pickle.EMPTY_DICT + self.items(value)
        if kind is collections.OrderedDict:
            return _EMPTY_ORDERED_DICT + self.items(value)
        if kind is list:
            return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(self.pickled, value)) + pickle.APPENDS
        if kind is tuple:
            return pickle.MARK + b"".join(map(self.pickled, value)) + pickle.TUPLE
        if kind is argparse.Namespace:
            made = _named("argparse.Namespace") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
            return made + self.pickled(vars(value)) + pickle.BUILD
        if value == b"" and kind is bytes:
            return _EMPTY_BYTES
        if value is None or kind in (bool, int, float, complex, str, bytes):
            # A pickle of protocol 2 without its first two bytes and its last byte is an instruction in another pickle.
            return pickle.dumps(value, protocol=2)[2:-1]
        raise TypeError(f"{kind.__name__} is not written to PyTorch files")

    def items(self, value: dict[Any, Any]) -> bytes:
        return pickle.MARK + b"".join(self.pickled(part) for item in value.items() for part in item) + pickle.SETITEMS

    def tensor(self, array: np.ndarray) -> bytes:
        storage_type = _STORAGE_NAMES.get(array.dtype.newbyteorder("="))
        if storage_type is None:
            raise TypeError(f"PyTorch has no tensors of {array.dtype}")
        if id(array) not in self.keys:
            self.keys[id(array)] = len(self.storages)
            self.storages.append(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(array.shape))
        key = str(self.keys[id(array)])
        strides = tuple(math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim))
        storage = self.pickled("storage") + _named(f"torch.{storage_type}") + self.pickled(key) + self.pickled("cpu")
        storage = pickle.MARK + storage + self.pickled(array.size) + pickle.TUPLE + pickle.BINPERSID
        view = b"".join(map(self.pickled, (0, array.shape, strides, False))) + _EMPTY_ORDERED_DICT
        rebuild = _named("torch._utils._rebuild_tensor_v2")
        return rebuild + pickle.MARK + storage + view + pickle.TUPLE + pickle.REDUCE


def _named(full: str) -> bytes:
    module, _, name = full.rpartition(".")
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


_STORAGE_NAMES = {dtype: name for name, dtype in _STORAGE_DTYPES.items()}
_EMPTY_ORDERED_DICT = _named("collections.OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
# Like bytes with content. In protocol 2, empty bytes would name a type that PyTorch refuses by default.
_EMPTY_BYTES = b"c_codecs\nencode\n" + b"".join(pickle.dumps(text, 2)[2:-1] for text in ("", "latin1")) + b"\x86R"
