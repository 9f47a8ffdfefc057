"""Files for the tests of PyTorch's formats: two that PyTorch wrote, and hand-made ones with any numbers in them.

`checkpoint_zip.pth` and `checkpoint_legacy.pth` were written by PyTorch 2.13:
`PYTHONPATH=. python tests/weights/torch_files.py`.
"""

import argparse
import collections
import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

HERE = Path(__file__).parent
FIXTURES = [HERE / "checkpoint_zip.pth", HERE / "checkpoint_legacy.pth"]

WEIGHTS = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 4,
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T / 4,
    "half": np.arange(3).astype(ml_dtypes.bfloat16),
    "count": np.array(7),
}
SETTINGS = {"dilation": True, "backbone": "resnet50", "lr": 1e-4, "masks": None, "frozen": ["a", "b"]}


def assert_same(result: Any, expected: Any) -> None:
    """Arrays equal to the bit, of one dtype and shape; the rest equal and of one type."""
    assert type(result) is type(expected)
    match expected:
        case np.ndarray():
            assert result.dtype == expected.dtype
            assert result.shape == expected.shape
            assert result.tobytes() == expected.tobytes()
        case dict():
            assert list(result) == list(expected)
            for key in expected:
                assert_same(result[key], expected[key])
        case list() | tuple():
            assert len(result) == len(expected)
            for one, other in zip(result, expected, strict=True):
                assert_same(one, other)
        case argparse.Namespace():
            assert_same(vars(result), vars(expected))
        case _:
            assert result == expected


def array_of(tensor: Any) -> np.ndarray:
    """A PyTorch tensor's values as numpy has them, also where `Tensor.numpy` knows no such dtype."""
    import torch

    name = str(tensor.dtype).removeprefix("torch.")
    dtype = np.dtype(getattr(ml_dtypes, name, name))
    raw = bytes(tensor.detach().clone(memory_format=torch.contiguous_format).untyped_storage())
    return np.frombuffer(raw, dtype).reshape(tuple(tensor.shape))


def part(value: Any) -> bytes:
    """The instructions that put a plain value onto the unpickler's stack."""
    return pickle.dumps(value, 2)[2:-1]


def named(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def tensor_pickle(
    storage: str = "FloatStorage",
    key: Any = "0",
    count: Any = 6,
    offset: Any = 0,
    size: Any = (2, 3),
    stride: Any = (3, 1),
    view: tuple[Any, ...] = (),
) -> bytes:
    """A pickle of one tensor, with whatever numbers are asked for.

    `view`: nothing, or the sixth part that the older format's references have.
    """
    reference = part("storage") + named("torch", storage) + part(key) + part("cpu") + part(count)
    reference = pickle.MARK + reference + b"".join(map(part, view)) + pickle.TUPLE + pickle.BINPERSID
    call = reference + b"".join(map(part, (offset, size, stride, False))) + part(collections.OrderedDict())
    return (
        b"\x80\x02"
        + named("torch._utils", "_rebuild_tensor_v2")
        + pickle.MARK
        + call
        + pickle.TUPLE
        + pickle.REDUCE
        + b"."
    )


def write_zip(path: Path, content: bytes, storage: bytes = bytes(24), **records: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, record in {"data.pkl": content, "data/0": storage, "version": b"3\n", **records}.items():
            archive.writestr(f"name/{name}", record)
    return path


def write_legacy(path: Path, content: bytes, storages: dict[str, bytes], item_size: int = 4) -> Path:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    start = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, system)]
    blocks = [struct.pack("<q", len(block) // item_size) + block for block in storages.values()]
    path.write_bytes(b"".join([*start, content, pickle.dumps(list(storages), 2), *blocks]))
    return path


def _write_fixtures() -> None:
    import torch

    weight = torch.arange(6.0).reshape(2, 3) / 4
    model = collections.OrderedDict(
        weight=weight, transposed=weight.T, half=torch.arange(3).to(torch.bfloat16), count=torch.tensor(7)
    )
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.ones(2, 3), "exp_avg_sq": torch.ones(2, 3)}
    checkpoint = {
        "model": model,
        "optimizer": {"state": {0: moments}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "epoch": 3,
        "args": argparse.Namespace(**SETTINGS),
    }
    for path, zipped in zip(FIXTURES, (True, False), strict=True):
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer, _use_new_zipfile_serialization=zipped)
        path.write_bytes(buffer.getvalue())


if __name__ == "__main__":
    _write_fixtures()
