import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anchordetr_jax import Detector, UserError
from anchordetr_jax.commands import main
from anchordetr_jax.data.images import read_image
from anchordetr_jax.data.transforms import resized_sizes
from anchordetr_jax.export import onnx as export_onnx
from anchordetr_jax.export import programs
from anchordetr_jax.export import sample as export_sample
from anchordetr_jax.export.programs import export_detector, parse_batches
from tests.data.pictures import every_kind
from tests.detector import save_detector
from tests.tolerances import SCORE32

SIZES = ((40, 60), (30, 30), (36, 60))
SHAPE = "48x80"
"""Another one than `Detector` pads to: the detections must not depend on it."""
BOX32 = 1e-3
"""Pixels, in images of up to 60: relative boxes agree to CLOSE32."""
ONNX_PACKAGES = ("onnx", "onnxruntime", "jax2onnx")

RUN = """
import sys
for name in ("anchordetr_jax", "flax", "orbax", "absl"):
    sys.modules[name] = None  # importing them fails
sys.path.insert(0, sys.argv[1])
import numpy as np, sample
from PIL import Image
metadata = sample.read_metadata()
pictures = [sample.upright_rgb(Image.open(path)) for path in sys.argv[3:]]
found = {}
for batch, file in metadata["jax"].items():
    run = sample.load_jax(file, metadata["weights"])
    found["jax", batch] = list(sample.detect(pictures, metadata, run, 3 if batch == "any" else int(batch)))
for batch, file in metadata["onnx"].items():
    rows = 3 if batch == "any" else int(batch)
    found["onnx", batch] = list(sample.detect(pictures, metadata, sample.load_onnx(file), rows))
arrays = {}
for (kind, batch), results in found.items():
    for place, result in enumerate(results):
        arrays.update({f"{kind} {batch} {place} {i}": array for i, array in enumerate(result)})
np.savez(sys.argv[2], **arrays)
"""
SEE_PIXELS = """
import sys
sys.modules["anchordetr_jax"] = None  # importing it fails
sys.path.insert(0, sys.argv[1])
import numpy as np, sample
from PIL import Image
np.savez("pixels.npz", **{name: sample.upright_rgb(Image.open(name)) for name in sys.argv[2:]})
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / "checkpoint")


def _detections_of_an_export_are_the_detectors(
    checkpoint: Path, folder: Path, environment: dict[str, str], export: Callable[[list[str]], int], *options: str
) -> dict[str, Any]:
    """Exports by the command, runs what came of it in a process without the package, and compares."""
    rng = np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(len(SIZES))]
    for path, size in zip(paths, SIZES, strict=True):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    output = folder / "exported"
    arguments = ["--checkpoint", str(checkpoint), "--shape", SHAPE, *options, "--batch", "2,any"]
    assert export([*arguments, "--output", str(output)]) == 0
    command = [sys.executable, "-c", RUN, *map(str, [output, folder / "found.npz", *paths])]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metadata = json.loads((output / "metadata.json").read_text())
    expected = Detector.from_pretrained(checkpoint).predict(paths, threshold=0)
    with np.load(folder / "found.npz") as found:
        for kind in ("jax", "onnx"):
            for batch in metadata[kind]:
                for place, wanted in enumerate(expected):
                    scores, labels, boxes = (found[f"{kind} {batch} {place} {i}"] for i in range(3))
                    height, width = SIZES[place]
                    np.testing.assert_allclose(scores, wanted.scores, atol=SCORE32)
                    np.testing.assert_array_equal(labels, wanted.labels)
                    np.testing.assert_allclose(boxes.clip(0, [width, height, width, height]), wanted.boxes, atol=BOX32)
    return metadata


@pytest.mark.processes
def test_a_program_detects_what_the_detector_does_without_the_package(
    checkpoint: Path, tmp_path: Path, script_environment: dict[str, str]
) -> None:
    def export(arguments: list[str]) -> int:
        return main(["export", *arguments])

    metadata = _detections_of_an_export_are_the_detectors(checkpoint, tmp_path, script_environment, export)
    assert set(metadata["jax"]) == {"2", "any"}
    assert metadata["onnx"] == {}
    assert metadata["classes"] == {"0": {"name": "cat", "category_id": 3}, "1": {"name": "dog", "category_id": 7}}


@pytest.mark.processes
@pytest.mark.skipif(not all(map(importlib.util.find_spec, ONNX_PACKAGES)), reason=f"needs {', '.join(ONNX_PACKAGES)}")
def test_an_onnx_model_detects_what_the_detector_does(
    checkpoint: Path, tmp_path: Path, script_environment: dict[str, str]
) -> None:
    def by_script(arguments: list[str]) -> int:
        command = [sys.executable, "scripts/export.py", *arguments]
        return subprocess.run(command, env=script_environment, check=False).returncode

    metadata = _detections_of_an_export_are_the_detectors(checkpoint, tmp_path, script_environment, by_script, "--onnx")
    assert set(metadata["onnx"]) == {"2", "any"}


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1000), st.integers(0, 800))
def test_the_sample_resizes_as_evaluation_does(height: int, width: int, eval_size: int, more: int) -> None:
    expected = resized_sizes(np.array([[height, width]]), eval_size, eval_size + more)[0]
    enough = (10**7, 10**7)
    assert export_sample.resized_size((height, width), eval_size, eval_size + more, enough) == tuple(expected)


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_sample_shrinks_what_is_larger_than_the_program_takes(height: int, width: int) -> None:
    shape = (320, 480)
    small = export_sample.resized_size((height, width), 800, 1333, shape)
    assert all(1 <= side <= most for side, most in zip(small, shape, strict=True))
    assert any(side >= most - 1 for side, most in zip(small, shape, strict=True))


def test_the_sample_refuses_a_threshold_that_is_no_score(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["sample.py", "a.png", "--threshold", "50"])
    with pytest.raises(SystemExit):
        export_sample.main()
    assert "--threshold must be a score between 0 and 1, not 50" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["0", "-1", "many", ""])
def test_other_batch_sizes_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="whole number"):
        parse_batches(["1", text])


@pytest.mark.processes
def test_the_sample_sees_the_pixels_that_predict_sees_in_pictures_of_every_kind(
    checkpoint: Path, tmp_path: Path, script_environment: dict[str, str]
) -> None:
    export_detector(Detector.from_pretrained(checkpoint), tmp_path / "exported", (48, 64))
    names, code = [], SEE_PIXELS
    for name, content in every_kind().items():
        (tmp_path / name).write_bytes(content)
        names.append(name)
    done = subprocess.run(
        [sys.executable, "-c", code, "exported", *names],
        env=script_environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "pixels.npz") as seen:
        for name in names:
            np.testing.assert_array_equal(seen[name], read_image(tmp_path / name), err_msg=name)


@pytest.mark.parametrize(
    ("shape", "remark"),
    [((64, 64), None), ((320, 320), r"50\.0 times the pixels of 32x64"), ((16, 24), r"19% of the pixels of 32x64")],
)
def test_a_shape_far_from_the_detectors_own_sizes_is_remarked_on(
    checkpoint: Path, tmp_path: Path, shape: tuple[int, int], remark: str | None
) -> None:
    remarks = export_detector(Detector.from_pretrained(checkpoint), tmp_path, shape, [])
    assert len(remarks) == (remark is not None)
    assert remark is None or re.search(remark, remarks[0])


def test_an_export_that_ends_half_way_leaves_no_metadata_of_an_earlier_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector.from_pretrained(checkpoint)
    export_detector(detector, tmp_path, (48, 64), [])
    assert (tmp_path / "metadata.json").exists()

    def stopped(*_: object) -> bytes:
        raise KeyboardInterrupt

    monkeypatch.setattr(programs, "serialized", stopped)
    with pytest.raises(KeyboardInterrupt):
        export_detector(detector, tmp_path, (48, 64), [1])
    assert not (tmp_path / "metadata.json").exists()


def test_mistakes_are_named_before_anything_is_computed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = Detector.from_pretrained(checkpoint)
    with pytest.raises(UserError, match=r"50x80 is no multiple of the network's stride, 8 pixels: take 56x80"):
        export_detector(detector, tmp_path, (50, 80))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        export_detector(detector, tmp_path / "file", (48, 80))
    monkeypatch.setattr(export_onnx, "PACKAGES", ("numpy", "onnx_of_nobody"))
    with pytest.raises(UserError, match=r"needs onnx_of_nobody: pip install .*jax2onnx"):
        export_detector(detector, tmp_path / "new", (48, 80), onnx=True)
    assert not (tmp_path / "new").exists()
