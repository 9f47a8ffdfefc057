"""Pickles of plain data are read; everything else is refused and never run."""

import argparse
import collections
import functools
import io
import operator
import os
import pathlib
import pickle
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.weights.pickle_objects import MalformedPickleError, RefusedNameError
from anchordetr_jax.weights.unpickle import unpickle

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(SCALARS, inner)
        | st.dictionaries(st.text(), inner).map(collections.OrderedDict)
        | st.dictionaries(st.text(), inner).map(lambda settings: argparse.Namespace(**settings))
        | st.sets(SCALARS)
        | st.frozensets(SCALARS)
    ),
    max_leaves=12,
)


def read(content: bytes) -> Any:
    return unpickle(io.BytesIO(content), {})


class Calls:
    """Pickles as the call of a function, as an attacker's object does."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back_equal_from_every_protocol(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "array",
    [np.arange(6.0).reshape(2, 3).T, np.arange(3, dtype=">i2"), np.array(True), np.zeros((0, 2), np.complex64)],
    ids=["transposed", "big-endian", "scalar", "empty"],
)
def test_numpy_arrays_come_back_equal(array: np.ndarray, protocol: int) -> None:
    result = read(pickle.dumps(array, protocol))
    assert result.shape == array.shape
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("number", [np.float32(1.5), np.int64(-3), np.bool_(True)])
def test_numpy_numbers_come_back_equal(number: np.generic) -> None:
    result = read(pickle.dumps(number))
    assert result == number
    assert result.dtype == number.dtype


def test_names_of_older_numpy_are_known() -> None:
    content = pickle.dumps(np.float64(2.5), 2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert read(content) == 2.5


def test_python_2_dicts_and_strings_are_known() -> None:
    assert read(b"\x80\x02ccollections\nOrderedDict\n](](U\x01aK\x01ee\x85R.") == collections.OrderedDict(a=1)


def test_paths_become_strings_and_default_dicts_plain_ones() -> None:
    assert read(pickle.dumps(pathlib.PurePosixPath("/data/coco"))) == "/data/coco"
    result = read(pickle.dumps(collections.defaultdict(list, {1: [2]})))
    assert type(result) is dict
    assert result == {1: [2]}


def test_reading_stops_behind_the_pickle() -> None:
    file = io.BytesIO(pickle.dumps([1], 2) + b"rest")
    unpickle(file, {})
    assert file.read() == b"rest"


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("nest", [lambda value: value, lambda value: {"model": {"w": [value]}}], ids=["bare", "nested"])
def test_a_command_in_a_pickle_is_refused_and_not_run(nest: Any, protocol: int, tmp_path: pathlib.Path) -> None:
    made = tmp_path / "made"
    content = pickle.dumps(nest(Calls(os.mkdir, str(made))), protocol)
    with pytest.raises(RefusedNameError, match=r"^posix\.mkdir$"):
        read(content)
    assert not made.exists()
    pickle.loads(content)
    assert made.exists()  # so the pickle was a working attack


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [
        (os.system, "posix.system"),
        (subprocess.Popen, "subprocess.Popen"),
        (eval, "builtins.eval"),
        (exec, "builtins.exec"),
        (getattr, "builtins.getattr"),
        (__import__, "builtins.__import__"),
        (open, "_?io.open"),
        (functools.partial, "functools.partial"),
        (operator.attrgetter, "operator.attrgetter"),
        (pickle.loads, "_pickle.loads"),
        (np.load, "numpy.load"),
        (io.BytesIO, "_io.BytesIO"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_functions_are_refused_by_name(function: Callable[..., Any], name: str, protocol: int) -> None:
    content = pickle.dumps(Calls(function, "x"), protocol, fix_imports=False)
    with pytest.raises(RefusedNameError, match=f"^{name}$"):
        read(content)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("torch.hub", "load"),
        ("torch", "load"),
        ("builtins", "str.__class__"),
        ("collections", "OrderedDict.__init__"),
        ("argparse", "Namespace.__dict__"),
        ("argparse", "_sys.modules"),
        ("", ""),
    ],
)
def test_dotted_and_absent_names_are_refused(module: str, name: str) -> None:
    content = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)) + b"\x93."
    with pytest.raises(RefusedNameError) as error:
        read(content)
    assert error.value.args[0] == f"{module}.{name}"


def test_instances_of_old_style_classes_are_refused_by_name() -> None:
    with pytest.raises(RefusedNameError, match=r"^os\.system$"):
        read(b"(S'touch x'\nios\nsystem\n.")


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(RefusedNameError, match=r"numpy\.dtype"):
        read(pickle.dumps(np.array([None, "text"], dtype=object), 2))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x02]q\x00",
        b"K\x01K\x02R.",
        b"cargparse\nNamespace\n}(X\x08\x00\x00\x00__call__K\x01ub.",  # attributes of a constructor
        b"cargparse\nNamespace\n)\x81}(K\x01K\x02ub.",  # an attribute that has no name
        b"cbuiltins\nobject\n)R.",
        b"cbuiltins\nbytearray\nM\xff\xff\x85R.",  # a size in place of bytes
        b"ccopyreg\n_reconstructor\n(cbuiltins\nlist\ncbuiltins\nobject\nNtR.",
        b"\x82\x01.",  # a registered extension
        b"X\x01\x00\x00\x000Q.",  # a persistent id where there are no storages
        b"P0\n.",
        b"}]K\x01s.",  # a list as a key
        b"(K\x01K\x02K\x03d.",  # a key without a value
        b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7fx.",  # bytes of a length that nothing has
        b"h\x05.",
        b"t.",
    ],
)
def test_nonsense_is_told_by_an_exception(content: bytes) -> None:
    with pytest.raises((MalformedPickleError, RefusedNameError, ValueError, LookupError, MemoryError)):
        read(content)


def test_a_list_that_contains_itself_is_read() -> None:
    result = read(b"]q\x00h\x00a.")
    assert result[0] is result


def test_the_attributes_of_one_settings_object_do_not_reach_another() -> None:
    content = b"(cargparse\nNamespace\n)\x81}X\x01\x00\x00\x00aK\x01sbcargparse\nNamespace\n)\x81t."
    first, second = read(content)
    assert vars(first) == {"a": 1}
    assert vars(second) == {}


def peak_memory(content: bytes) -> int:
    """Bytes that reading `content` takes at most, whether it ends in a value or in an error."""
    tracemalloc.start()
    try:
        read(content)
    except MalformedPickleError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize(
    "content",
    [
        b"]r\xff\xff\xff\xff.",  # a memo of four thousand million places
        b"c_codecs\nencode\nq\x00X\x00\x00\x01\x00" + b"a" * 65536 + b"X\x06\x00\x00\x00latin1\x86q\x01"
        + b"h\x00h\x01R" * 5000 + b".",  # the same 64 KiB encoded again and again
        b"(K\x01" + b"2" * 30 + b"l" + b"".join(b"2\x86" for _ in range(60)) + b".",  # 2**60 by sharing
    ],
    ids=["memo", "copies", "sharing"],
)  # fmt: skip
def test_small_pickles_stay_small(content: bytes) -> None:
    assert peak_memory(content) < 20 << 20


def test_pickles_of_endless_instructions_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anchordetr_jax.weights.unpickle._MAX_OPCODES", 1000)
    with pytest.raises(MalformedPickleError, match="instructions"):
        read(b"]" * 2000 + b".")


def test_keys_that_take_forever_to_hash_are_refused() -> None:
    nested_pairs = b"K\x01" + b"2\x86" * 64  # (x, x) sixty-four times over: hashing it visits 2**64 numbers
    with pytest.raises(MalformedPickleError, match="key"):
        read(b"}" + nested_pairs + b"Ns.")


@given(st.binary(max_size=64))
def test_random_bytes_raise_nothing_unforeseen(content: bytes) -> None:
    modules = set(sys.modules)
    try:
        read(content)
    except (
        MalformedPickleError,
        RefusedNameError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
    ):
        pass
    except MemoryError:
        pass
    assert set(sys.modules) == modules
