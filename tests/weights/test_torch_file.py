"""PyTorch's files, read and written without PyTorch."""

import argparse
import collections
import os
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import read_torch_file, write_torch_file
from tests.weights.torch_files import (
    FIXTURES,
    SETTINGS,
    WEIGHTS,
    array_of,
    assert_same,
    tensor_pickle,
    write_legacy,
    write_zip,
)

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
DTYPES += ["complex64", "complex128"]
NEWER_DTYPES = ["uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch_files")


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_training_checkpoint_of_pytorch_is_read(path: Path) -> None:
    content = read_torch_file(path)
    assert type(content["model"]) is collections.OrderedDict
    assert_same(dict(content["model"]), WEIGHTS)
    assert_same(content["args"], argparse.Namespace(**SETTINGS))
    assert content["epoch"] == 3
    np.testing.assert_array_equal(content["optimizer"]["state"][0]["exp_avg"], np.ones((2, 3), np.float32))


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_tensors_of_one_storage_stay_one(path: Path) -> None:
    model = read_torch_file(path)["model"]
    assert np.shares_memory(model["weight"], model["transposed"])


@pytest.mark.torch
@FORMATS
@pytest.mark.parametrize("name", [*DTYPES, *NEWER_DTYPES])
def test_every_dtype_of_pytorch_is_read(torch: Any, name: str, zipped: bool, tmp_path: Path) -> None:
    tensor = torch.tensor([[0, 1, 2], [3, 5, 100]]).to(getattr(torch, name))
    torch.save(tensor, tmp_path / "f.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_torch_file(tmp_path / "f.pth"), array_of(tensor))


@pytest.mark.torch
@FORMATS
def test_tensors_of_every_layout_are_read(torch: Any, zipped: bool, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    tensors = {
        "transposed": base.T,
        "stepped": base[1::2, ::3],
        "row": base[2],
        "expanded": torch.ones(1).expand(3, 2),
        "channels last": base.reshape(1, 2, 3, 4).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(3.0),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base[:2]),
        "buffer": torch.nn.Buffer(torch.ones(2)),
    }
    tensors["with attributes"] = torch.nn.Parameter(torch.ones(2))
    tensors["with attributes"].note = "kept nowhere"
    torch.save(tensors, tmp_path / "f.pth", _use_new_zipfile_serialization=zipped)
    result = read_torch_file(tmp_path / "f.pth")
    assert_same(result, {name: array_of(tensor) for name, tensor in tensors.items()})
    assert np.shares_memory(result["transposed"], result["parameter"])


@pytest.mark.torch
@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_training_scripts_save_beside_weights_is_read(
    torch: Any, zipped: bool, protocol: int, tmp_path: Path
) -> None:
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [40])
    saved = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
        "args": argparse.Namespace(path=Path("/data"), device=torch.device("cuda:1"), size=torch.Size([2, 3])),
        "dtype": torch.float32,
        "best": np.float64(44.5),
        "history": np.arange(3.0),
        "seen": {1, 2},
    }
    torch.save(saved, tmp_path / "f.pth", _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
    result = read_torch_file(tmp_path / "f.pth")
    assert_same(dict(result["model"]), {name: array_of(tensor) for name, tensor in model.state_dict().items()})
    for number, state in optimizer.state_dict()["state"].items():
        assert_same(result["optimizer"]["state"][number], {name: array_of(tensor) for name, tensor in state.items()})
    assert result["optimizer"]["param_groups"] == optimizer.state_dict()["param_groups"]
    assert result["lr_scheduler"] == saved["lr_scheduler"]
    assert_same(result["rng"], array_of(saved["rng"]))
    assert result["args"] == argparse.Namespace(path="/data", device="cuda:1", size=(2, 3))
    assert result["dtype"] == "torch.float32"
    assert result["best"] == 44.5
    assert_same(result["history"], saved["history"])
    assert result["seen"] == {1, 2}


def test_big_endian_files_are_read(tmp_path: Path) -> None:
    values = np.arange(6, dtype=">f4")
    path = write_zip(tmp_path / "f.pth", tensor_pickle(), values.tobytes(), byteorder=b"big")
    assert_same(read_torch_file(path), np.arange(6, dtype=np.float32).reshape(2, 3))


def test_views_of_storages_in_the_older_format_are_read(tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32)
    content = tensor_pickle(count=10, view=(("1", 3, 6),))
    path = write_legacy(tmp_path / "f.pth", content, {"0": values.tobytes()})
    assert_same(read_torch_file(path), values[3:9].reshape(2, 3))


@pytest.mark.torch
def test_pytorch_reads_the_older_format_as_these_tests_write_it(torch: Any, tmp_path: Path) -> None:
    values = np.arange(10, dtype=np.float32)
    content = tensor_pickle(count=10, view=(("1", 3, 6),))
    path = write_legacy(tmp_path / "f.pth", content, {"0": values.tobytes()})
    assert_same(read_torch_file(path), array_of(torch.load(path, weights_only=False)))


def test_reading_takes_the_memory_of_the_file_once(tmp_path: Path) -> None:
    path = tmp_path / "f.pth"
    write_torch_file(path, {str(number): np.ones(1 << 20, np.float32) for number in range(4)})
    tracemalloc.start()
    content = read_torch_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) == 4
    assert peak < 1.3 * path.stat().st_size


# State dicts


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_the_state_dict_of_a_checkpoint_comes_with_its_settings(path: Path) -> None:
    weights, args, _ = read_state_dict(path)
    assert_same(weights, WEIGHTS)
    assert args == SETTINGS


@pytest.mark.parametrize("wrapped", [lambda weights: weights, lambda weights: {"state_dict": weights, "epoch": 1}])
def test_plain_and_wrapped_state_dicts_are_found(wrapped: Any, tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", wrapped(WEIGHTS))
    weights, args, _ = read_state_dict(tmp_path / "f.pth")
    assert_same(weights, {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in WEIGHTS.items()})
    assert args is None


def test_the_prefix_of_distributed_training_is_taken_off(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", {"model": {f"module.{name}": value for name, value in WEIGHTS.items()}})
    assert list(read_state_dict(tmp_path / "f.pth")[0]) == list(WEIGHTS)


def test_a_module_named_module_keeps_its_name(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", {"module.weight": np.ones(1), "bias": np.ones(1)})
    assert list(read_state_dict(tmp_path / "f.pth")[0]) == ["module.weight", "bias"]


def test_safetensors_are_known_by_their_content(tmp_path: Path) -> None:
    weights = {name: np.ascontiguousarray(value).reshape(value.shape) for name, value in WEIGHTS.items()}
    safetensors.numpy.save_file(weights, tmp_path / "f.pth")
    result, args, _ = read_state_dict(tmp_path / "f.pth")
    assert args is None
    assert_same({name: result[name] for name in sorted(result)}, {name: weights[name] for name in sorted(weights)})


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([np.ones(1)], "it is of type list"),
        ({}, "it is an empty dict"),
        ({"model": {}}, "it is an empty dict"),
        ({"epoch": 3, "w": np.ones(1)}, "'epoch' is of type int"),
        ({"model": {"w": np.ones(1), "config": {"a": 1}}}, "'config' is of type dict"),
        ({1: np.ones(1)}, "a key of type int is of type ndarray"),
        ({str(number): number for number in range(9)}, "and 4 more are not tensors"),
    ],
)
def test_what_is_no_state_dict_is_described(content: Any, found: str, tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", content)
    with pytest.raises(UserError, match=found) as error:
        read_state_dict(tmp_path / "f.pth")
    assert str(tmp_path / "f.pth") in str(error.value)


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
TENSORS = st.sampled_from(["float32", "float64", "float16", "int64", "uint8", "bool", "complex64"]).flatmap(
    lambda name: arrays.arrays(name, arrays.array_shapes(min_dims=0, min_side=0, max_side=3))
)
SAVED = st.recursive(
    NUMBERS | TENSORS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        | st.dictionaries(st.text(), inner, max_size=3).map(collections.OrderedDict)
    ),
    max_leaves=8,
)


@given(SAVED)
def test_what_is_written_is_read_back_to_the_bit(folder: Path, value: Any) -> None:
    write_torch_file(folder / "written.pth", value)
    assert_same(read_torch_file(folder / "written.pth"), value)


@pytest.mark.torch
@given(value=SAVED)
def test_pytorch_reads_what_is_written_to_the_bit(folder: Path, value: Any) -> None:
    torch = pytest.importorskip("torch")

    def to_arrays(value: Any) -> Any:
        match value:
            case torch.Tensor():
                return array_of(value)
            case dict():
                return type(value)((key, to_arrays(item)) for key, item in value.items())
            case list() | tuple():
                return type(value)(map(to_arrays, value))
        return value

    write_torch_file(folder / "written.pth", value)
    assert_same(to_arrays(torch.load(folder / "written.pth", weights_only=True)), value)
    assert_same(to_arrays(torch.load(folder / "written.pth", weights_only=True, mmap=True)), value)


@pytest.mark.torch
@pytest.mark.parametrize("name", DTYPES)
def test_pytorch_reads_every_dtype_that_is_written(torch: Any, name: str, tmp_path: Path) -> None:
    array = np.array([[0, 1, 2], [3, 5, 100]]).astype(getattr(ml_dtypes, name, name))
    write_torch_file(tmp_path / "f.pth", {"w": array, "transposed": array.T})
    result = torch.load(tmp_path / "f.pth")
    assert result["w"].dtype == getattr(torch, name)
    assert_same(array_of(result["w"]), array)
    assert_same(array_of(result["transposed"]), array.T)


@pytest.mark.torch
def test_pytorch_reads_the_settings_that_are_written(torch: Any, tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", {"args": argparse.Namespace(**SETTINGS), "model": {"w": np.ones(2)}})
    assert torch.load(tmp_path / "f.pth", weights_only=False)["args"] == argparse.Namespace(**SETTINGS)
    with torch.serialization.safe_globals([argparse.Namespace]):
        assert torch.load(tmp_path / "f.pth")["args"] == argparse.Namespace(**SETTINGS)


def test_settings_that_are_written_are_read_back(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", {"args": argparse.Namespace(**SETTINGS), "model": {"w": np.ones(2)}})
    assert read_state_dict(tmp_path / "f.pth")[1] == SETTINGS


def test_an_array_that_occurs_twice_is_stored_once(tmp_path: Path) -> None:
    shared = np.arange(3.0)
    write_torch_file(tmp_path / "f.pth", {"a": shared, "b": shared, "c": shared.copy()})
    result = read_torch_file(tmp_path / "f.pth")
    assert np.shares_memory(result["a"], result["b"])
    assert not np.shares_memory(result["a"], result["c"])


def test_big_endian_arrays_are_written_with_their_values(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", np.arange(3, dtype=">i4"))
    assert_same(read_torch_file(tmp_path / "f.pth"), np.arange(3, dtype=np.int32))


def test_records_start_at_multiples_of_64_bytes(tmp_path: Path) -> None:
    write_torch_file(tmp_path / "f.pth", [np.ones(size, np.uint8) for size in (1, 70, 3)])
    with (tmp_path / "f.pth").open("rb") as file, zipfile.ZipFile(file) as archive:
        for record in archive.infolist():
            file.seek(record.header_offset + 26)
            name_length, extra_length = struct.unpack("<2H", file.read(4))
            assert (record.header_offset + 30 + name_length + extra_length) % 64 == 0


def test_equal_values_give_equal_files(tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth"):
        write_torch_file(tmp_path / name, {"model": dict(WEIGHTS)})
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_torch_file(tmp_path / "f.pth", {"a": np.ones(3)})
    before = (tmp_path / "f.pth").read_bytes()

    def no_space(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "open", no_space)
    with pytest.raises(UserError, match=r"f\.pth could not be written: No space left on device"):
        write_torch_file(tmp_path / "f.pth", {"a": np.zeros(3)})
    assert os.listdir(tmp_path) == ["f.pth"]
    assert (tmp_path / "f.pth").read_bytes() == before


def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="absent"):
        write_torch_file(tmp_path / "absent" / "f.pth", {})


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["text"]), np.ones(2, np.uint32), lambda: None])
def test_values_that_pytorch_files_do_not_hold_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_torch_file(tmp_path / "f.pth", {"a": value})
    assert os.listdir(tmp_path) == []
