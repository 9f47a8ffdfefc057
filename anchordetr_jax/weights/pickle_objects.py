"""The objects that a pickle may contain: plain Python and numpy, made by our own constructors.

These tables do not contain the classes and functions that a file names, so a file cannot abuse them. Each entry checks
its arguments and returns data.
"""

import argparse
import collections
import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


class RefusedNameError(Exception):
    """The pickle asks for a name that is not in the table of harmless names; `args[0]` says it."""


class MalformedPickleError(Exception):
    """The bytes are not a pickle of plain data."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Constructor:
    """Our function in place of a class or function that a pickle names. It makes harmless data.

    A file can pass it around and call it, but it cannot look into it or change it.
    """

    name: str
    construct: Callable[..., Any]


def checked(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise MalformedPickleError(f"{type(value).__name__} where {kind.__name__} is needed")
    return value


def dict_key(value: Any) -> Any:
    # Only flat keys: the author of the file could make the hash of nested tuples take very long or overflow the stack.
    plain = str | bytes | int | float | complex | None
    if isinstance(value, plain) or (type(value) is tuple and all(isinstance(item, plain) for item in value)):
        return value
    raise MalformedPickleError(f"{type(value).__name__} as the key of a dict or member of a set")


def set_state(target: Any, state: Any) -> None:
    match target, state:
        case argparse.Namespace(), dict():
            vars(target).update((checked(str, name), value) for name, value in state.items())
        case collections.OrderedDict(), dict():
            pass  # `_metadata` of a state dict: the versions of its modules.
        case np.dtype(), (_, "<" | ">" | "=" | "|" as order, None, None, None, *_):
            target.__setstate__((3, order, None, None, None, -1, -1, 0))  # type: ignore[attr-defined]
        case np.ndarray(), (_, shape, np.dtype() as dtype, int(fortran), raw) if _is_unfilled(target):
            raw = raw.encode("latin1") if isinstance(raw, str) else bytes(checked(bytes, raw))
            if math.prod(_shape(shape)) * dtype.itemsize != len(raw):
                raise MalformedPickleError("an array whose shape does not fit its bytes")
            state = (1, shape, dtype, bool(fortran), raw)
            target.__setstate__(state)
        case _:
            raise MalformedPickleError(f"attributes for {type(target).__name__}")


def _shape(shape: Any) -> tuple[int, ...]:
    if len(checked(tuple, shape)) > 32 or not all(type(size) is int and size >= 0 for size in shape):
        raise MalformedPickleError("an array of impossible shape")
    return shape


def _unfilled_array(*_: Any) -> np.ndarray:
    return np.empty(0, np.int8)


def _is_unfilled(array: np.ndarray) -> bool:
    return array.shape == (0,) and array.dtype == np.int8 and array.base is None


def _numpy_dtype(code: str, align: bool = False, copy: bool = True) -> np.dtype:
    # Numbers only: with dtype 'O' the array's bytes would be used as addresses of objects.
    if not re.fullmatch(r"[biufc](1|2|4|8|16)", checked(str, code)):
        raise RefusedNameError(f"numpy.dtype({code[:40]!r})")
    return np.dtype(code, copy=True)  # A copy, because its byte order is set afterwards.


def _numpy_scalar(dtype: np.dtype, raw: bytes | str) -> np.generic:
    raw = raw.encode("latin1") if isinstance(raw, str) else raw
    if len(raw) != checked(np.dtype, dtype).itemsize:
        raise MalformedPickleError("a number whose type does not fit its bytes")
    return np.frombuffer(raw, dtype)[0]


def _numpy_from_buffer(raw: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(raw, checked(np.dtype, dtype)).reshape(_shape(shape), order="F" if order == "F" else "C")


def _encode(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise MalformedPickleError("text in an unusual encoding")
    return checked(str, text).encode("latin1")


def _bytearray(content: bytes | str = b"", encoding: str = "latin1") -> bytearray:
    return bytearray(_encode(content, encoding) if isinstance(content, str) else checked(bytes, content))


def _ordered_dict(items: list[Any] | tuple[()] = ()) -> collections.OrderedDict[Any, Any]:
    return collections.OrderedDict((dict_key(key), value) for key, value in items)


def _counter(counts: dict[Any, Any] | None = None) -> collections.Counter[Any]:
    counter: collections.Counter[Any] = collections.Counter()
    dict.update(counter, {} if counts is None else checked(dict, counts))
    return counter


def _path(*parts: str) -> str:
    return str(pathlib.PurePosixPath(*(checked(str, part) for part in parts)))


def _windows_path(*parts: str) -> str:
    return str(pathlib.PureWindowsPath(*(checked(str, part) for part in parts)))


def _range(*bounds: int) -> range:
    return range(*(checked(int, bound) for bound in bounds))


def _complex(real: float, imaginary: float) -> complex:
    return complex(checked(float, real), checked(float, imaginary))


def _inert(*_: Any) -> Any:
    raise MalformedPickleError("a type used as a function")


def _reconstruct_object(cls: Constructor, *_: Any) -> Any:
    if checked(Constructor, cls).name != "argparse.Namespace":
        raise RefusedNameError(cls.name)
    return argparse.Namespace()


def constructors(table: Mapping[str, Callable[..., Any]]) -> dict[str, Constructor]:
    """Makes the entries of a table of names from functions."""
    return {name: Constructor(name, construct) for name, construct in table.items()}


PLAIN_NAMES: Mapping[str, Constructor] = constructors(
    {
        "argparse.Namespace": lambda: argparse.Namespace(),
        "builtins.bytearray": _bytearray,
        "builtins.bytes": lambda: b"",
        "builtins.complex": _complex,
        "builtins.frozenset": lambda items=(): frozenset(map(dict_key, items)),
        "builtins.range": _range,
        "builtins.set": lambda items=(): set(map(dict_key, items)),
        "builtins.xrange": _range,
        "_codecs.encode": _encode,
        "collections.Counter": _counter,
        "collections.OrderedDict": _ordered_dict,
        "collections.defaultdict": lambda factory=None: {},
        "copyreg._reconstructor": _reconstruct_object,
        "numpy._core.multiarray._reconstruct": _unfilled_array,
        "numpy._core.multiarray.scalar": _numpy_scalar,
        "numpy._core.numeric._frombuffer": _numpy_from_buffer,
        "numpy.dtype": _numpy_dtype,
        "numpy.ndarray": _inert,
        **{f"pathlib.{name}": _path for name in ("Path", "PosixPath", "PurePath", "PurePosixPath")},
        **{f"pathlib.{name}": _windows_path for name in ("WindowsPath", "PureWindowsPath")},
        **{f"builtins.{name}": _inert for name in ("dict", "float", "int", "list", "object", "str")},
    }
)
"""Harmless types of Python and numpy that occur in checkpoints, with our constructors. Paths become strings. Default
dicts become plain dicts."""
