"""Files that are damaged, malicious or no checkpoints: one sentence names them, and nothing in them runs."""

import contextlib
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import read_safetensors, read_torch_file
from tests.weights.torch_files import FIXTURES, HERE, named, part, tensor_pickle, write_legacy, write_zip

FORMATS = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("torch_files")


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def assert_refused(path: Path, reason: str) -> None:
    """One sentence that names the file and says why."""
    with pytest.raises(UserError, match=reason) as error:
        read_state_dict(path)
    message = str(error.value)
    assert str(path) in message
    assert message.endswith(".")
    assert "\n" not in message


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert_refused(tmp_path / "absent.pth", "There is no file")
    assert_refused(tmp_path, "is a folder")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a file of PyTorch's"),
        (b"\x80", "damaged"),
        (b"plain text", "not a file of PyTorch's"),
        (pickle.dumps({"a": 1}), "not a file of PyTorch's"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"PK\x03\x04" + bytes(60), "damaged"),
        (bytes(8) + b"{", "damaged"),
        (b"\x40" + bytes(7) + b"{" + b" " * 63, "damaged"),
        (b"storages".ljust(257, b"\0") + b"ustar".ljust(255, b"\0"), "tar archive"),
    ],
)
def test_other_files_are_recognised(content: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / "f.pth").write_bytes(content)
    assert_refused(tmp_path / "f.pth", reason)


def test_other_zip_archives_are_recognised(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("images/1.jpg", b"")
    assert_refused(tmp_path / "images.zip", "not one that torch.save wrote")
    assert_refused(write_zip(tmp_path / "f.pth", tensor_pickle(), **{"constants.pkl": b""}), "TorchScript")


ATTACK = named("posix", "system") + part("touch made") + pickle.TUPLE1 + pickle.REDUCE


@FORMATS
@pytest.mark.parametrize("place", ["model", "args"])
def test_a_command_in_a_file_is_refused_by_name_and_not_run(
    zipped: bool, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = b"\x80\x02}" + part(place) + ATTACK + b"s."
    path = tmp_path / "f.pth"
    _ = write_zip(path, content) if zipped else write_legacy(path, content, {})
    assert_refused(path, r"asks for 'posix\.system', which weights do not need")
    assert not Path("made").exists()
    pickle.loads(content)
    assert Path("made").exists()  # so the pickle was a working attack


@pytest.mark.torch
@FORMATS
def test_whole_modules_are_refused_by_the_name_of_their_class(torch: Any, zipped: bool, tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "f.pth", _use_new_zipfile_serialization=zipped)
    assert_refused(tmp_path / "f.pth", r"'torch\.nn\.modules\.linear\.Linear'")


def test_values_that_take_forever_to_hash_are_refused(tmp_path: Path) -> None:
    pairs = b"K\x01" + b"2\x86" * 64  # (x, x) sixty-four times over: hashing it visits 2**64 numbers
    path = write_legacy(tmp_path / "keys.pth", tensor_pickle(view=(None,)), {"0": bytes(24)})
    path.write_bytes(path.read_bytes().replace(pickle.dumps(["0"], 2), b"\x80\x02]" + pairs + b"a."))
    assert_refused(path, "damaged")
    call = tensor_pickle().replace(b"_v2", b"_v3").replace(b"tR.", pairs + b"tR.")
    assert_refused(write_zip(tmp_path / "dtype.pth", call), "a tensor without a dtype")


@pytest.mark.torch
def test_lazily_conjugated_tensors_are_refused(torch: Any, tmp_path: Path) -> None:
    torch.save(torch.tensor([1 + 2j]).conj(), tmp_path / "f.pth")
    assert_refused(tmp_path / "f.pth", "lazily conjugated")


@pytest.mark.parametrize(
    "numbers",
    [
        {"offset": 1},
        {"offset": -1},
        {"offset": 1 << 70},
        {"size": (2, 4)},
        {"size": (-2, -3)},
        {"size": (2, 3, 1)},
        {"size": (1 << 62, 1 << 62)},
        {"size": (2.0, 3)},
        {"size": (1,) * 65, "stride": (1,) * 65},
        {"size": None},
        {"stride": (3, 2)},
        {"stride": (3, -1)},
        {"stride": (1 << 62, 1)},
        {"stride": (0, 0), "size": (1 << 20, 1 << 20)},
        {"count": 5},
        {"count": 7},
        {"count": -6},
        {"count": 1 << 60},
        {"count": "6"},
        {"key": "1"},
        {"key": "../0"},
        {"key": 0},
        {"storage": "DoubleStorage"},
        {"storage": "device"},
        {"storage": "QInt8Storage"},
    ],
    ids=str,
)
@FORMATS
def test_tensors_that_do_not_fit_their_storage_are_refused(
    numbers: dict[str, Any], zipped: bool, tmp_path: Path
) -> None:
    view = () if zipped else (None,)
    path = tmp_path / "f.pth"

    def write(content: bytes) -> Path:
        return write_zip(path, content) if zipped else write_legacy(path, content, {"0": bytes(24)})

    assert read_torch_file(write(tensor_pickle(view=view))).shape == (2, 3)
    assert_refused(write(tensor_pickle(view=view, **numbers)), "damaged|asks for")


@pytest.mark.parametrize("view", [("1", 5, 6), ("1", -1, 6), ("1", 0, 1 << 70), ("1", 0.0, 6), ("1", 0), 0])
def test_views_beyond_their_storage_are_refused(view: Any, tmp_path: Path) -> None:
    assert_refused(write_legacy(tmp_path / "f.pth", tensor_pickle(count=10, view=(view,)), {"0": bytes(40)}), "damaged")


@pytest.mark.parametrize("storages", [{}, {"1": bytes(24)}, {"0": bytes(20)}, {"0": bytes(24), "1": bytes(4)}])
def test_storages_that_do_not_fit_the_tensors_are_refused(storages: dict[str, bytes], tmp_path: Path) -> None:
    assert_refused(write_legacy(tmp_path / "f.pth", tensor_pickle(view=(None,)), storages), "damaged")


def test_compressed_records_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "f.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("name/data.pkl", tensor_pickle(count=1 << 20, size=(1 << 20,), stride=(1,)))
        archive.writestr("name/data/0", bytes(1 << 22))
    assert_refused(tmp_path / "f.pth", "compressed")


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    size = 1 << 16
    one = tensor_pickle(count=size // 4)[2:-1]
    tensors = b"".join(one.replace(part("0"), part(str(number))) for number in range(10))
    path = write_zip(tmp_path / "f.pth", b"\x80\x02(" + tensors + b"t.", bytes(size))
    content = path.read_bytes()
    end = content.rindex(b"PK\x05\x06")
    first = content.rindex(b"PK\x01\x02", 0, content.rindex(b"name/data/0"))
    entry = content[first : content.index(b"PK", first + 4)]
    more = b"".join(entry.replace(b"data/0", b"data/%d" % number) for number in range(1, 10))
    directory = struct.unpack("<4s4H2LH", content[end:])
    counts = (directory[3] + 9, directory[4] + 9, directory[5] + len(more))
    path.write_bytes(content[:end] + more + struct.pack("<4s4H2LH", *directory[:3], *counts, *directory[6:]))
    assert len(zipfile.ZipFile(path).namelist()) == 12
    assert_refused(path, "damaged")


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_a_file_cut_short_anywhere_is_refused(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    cut = tmp_path / "cut.pth"
    for length in range(0, len(content), 7):
        cut.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            read_torch_file(cut)


@given(where=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), min_size=1, max_size=4))
@settings(max_examples=150)
@pytest.mark.parametrize("name", ["checkpoint_zip.pth", "checkpoint_legacy.pth", "safetensors"])
def test_damaged_files_are_read_or_refused(name: str, folder: Path, where: list[tuple[int, int]]) -> None:
    if name == "safetensors":
        content = bytearray(safetensors.numpy.save({"a": np.ones((2, 2)), "b": np.ones(3, np.int32)}))
    else:
        content = bytearray((HERE / name).read_bytes())
    for position, change in where:
        content[position % len(content)] ^= change
    (folder / "f.pth").write_bytes(content)
    with contextlib.suppress(UserError):
        read_state_dict(folder / "f.pth")


@pytest.mark.parametrize("length", [0, 4, 8, 9, 40, -1])
def test_safetensors_cut_short_are_refused(length: int, tmp_path: Path) -> None:
    content = safetensors.numpy.save({"a": np.ones((2, 2))})
    (tmp_path / "f.safetensors").write_bytes(content[:length])
    with pytest.raises(UserError, match=r"f\.safetensors is damaged"):
        read_safetensors(tmp_path / "f.safetensors")
