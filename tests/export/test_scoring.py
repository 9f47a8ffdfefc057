"""An exported detector is scored, and its numbers stand beside those of its checkpoint."""

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax import Detector, UserError
from anchordetr_jax.config import AugmentConfig, Config, DataConfig
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES
from anchordetr_jax.export.evaluating import Outputs, checkpoint_scores, evaluate_folder
from anchordetr_jax.export.folder import is_exported, read_exported
from anchordetr_jax.export.programs import export_detector
from anchordetr_jax.export.scoring import comparison_table, score_program, shrunk_sentence
from tests.data.coco_folder import open_coco
from tests.detector import save_detector

SIZES = ((40, 60), (30, 60), (60, 40))
CONFIG = Config(data=DataConfig(num_buckets=1), augment=AugmentConfig(eval_size=32, max_size=64))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a run, which says where its data are."""
    return save_detector(tmp_path_factory.mktemp("run") / "checkpoints" / "10")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> DetectionSource:
    """Three images and one that cannot be read; the objects are where the detector sees some."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    detector = Detector.from_pretrained(checkpoint)
    annotations: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for number, size in enumerate(SIZES, start=1):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]})
        for entry in detector.predict(root / f"{number}.png", threshold=0).to_coco(number)[::4]:
            if min(entry["bbox"][2:]) > 1:
                annotations.append({**entry, "id": len(annotations) + 1})
    (root / "4.png").write_bytes(b"no image")
    images.append({"id": 4, "file_name": "4.png", "height": 20, "width": 20})
    categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    (root / "a.json").write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return open_coco(root, root / "a.json")


@pytest.fixture(scope="module")
def detector(checkpoint: Path, dataset: DetectionSource) -> Detector:
    """Its checkpoint was evaluated on the data set."""
    scores = checkpoint_scores(checkpoint, dataset, CONFIG)
    (checkpoint / "evaluation.json").write_text(json.dumps({"step": 10, **scores.to_dict()}))
    detector = Detector.from_pretrained(checkpoint)
    detector.augment = dataclasses.replace(detector.augment, shown_ratios=(9.0,))
    return detector


@pytest.fixture(scope="module")
def exported(detector: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_detector(detector, folder, (64, 64))
    return folder


def outputs(folder: Path) -> Outputs:
    return Outputs(folder / "results.json", folder / "results.scores.json")


def test_the_program_scores_as_its_checkpoint_entry_by_entry(
    exported: Path, dataset: DetectionSource, tmp_path: Path
) -> None:
    lines = evaluate_folder(read_exported(exported), dataset, Config(), outputs(tmp_path))
    text = "\n".join(lines)
    assert "The numbers of the checkpoint were exported with it." in text
    scores = json.loads((tmp_path / "results.scores.json").read_text())
    assert 0.1 < scores["jax"]["AP"] < 1
    for name in METRIC_NAMES:
        assert scores["jax"][name] == pytest.approx(scores["checkpoint"][name], abs=1e-3)
        (row,) = [line.split() for line in text.splitlines() if line.startswith(f" {name} ")]
        shown = f"{scores['jax'][name]:.4f}" if scores["jax"][name] >= 0 else "-"
        assert row[2] == shown
    assert "4.png" in text
    assert any(line.startswith("4 of 4 images have shapes that the detector's training") for line in lines)
    assert lines[-1].startswith("AP=")
    assert len(json.loads((tmp_path / "results.jax.json").read_text())) == 3 * 24


def test_the_metadata_have_what_an_evaluation_needs(exported: Path, detector: Detector) -> None:
    assert is_exported(exported)
    read = read_exported(exported)
    assert read.classes == detector.categories
    assert read.config is not None
    assert read.config.augment.eval_size == 32
    metadata = json.loads((exported / "metadata.json").read_text())
    assert detector.thresholds is not None
    assert metadata["classes"]["0"]["threshold"] == detector.thresholds.of(3)


def test_scores_of_other_images_are_not_compared_with(exported: Path, dataset: DetectionSource, tmp_path: Path) -> None:
    metadata = json.loads((exported / "metadata.json").read_text())
    metadata["trained"]["scores"]["num_images"] += 1
    other = tmp_path / "exported"
    other.mkdir()
    for file in exported.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "metadata.json").write_text(json.dumps(metadata))
    lines = evaluate_folder(read_exported(other), dataset, Config(), outputs(tmp_path))
    assert any(line.startswith("The scores that were exported with the detector are of other images") for line in lines)
    assert "difference" not in "".join(lines)


@pytest.mark.parametrize("name", ["weights.npz", "detector_batch_any.jax"])
def test_a_file_that_is_cut_off_is_named(name: str, exported: Path, dataset: DetectionSource, tmp_path: Path) -> None:
    cut = shutil.copytree(exported, tmp_path / "exported")
    (cut / name).write_bytes((cut / name).read_bytes()[:-1000])
    with pytest.raises(UserError, match=rf"{name}.* in {cut} cannot be loaded .*: export the detector again"):
        evaluate_folder(read_exported(cut), dataset, Config(), outputs(tmp_path))


def test_the_checkpoint_is_evaluated_if_it_is_named(
    exported: Path, checkpoint: Path, dataset: DetectionSource, tmp_path: Path
) -> None:
    lines = evaluate_folder(read_exported(exported), dataset, CONFIG, outputs(tmp_path), compare=checkpoint)
    assert any("evaluated now" in line for line in lines)
    (last,) = [line for line in lines if line.startswith("the program for JAX: no number differs")]
    assert float(last.split()[-1].removesuffix(".")) < 1e-3


def test_images_that_do_not_fit_the_shape_are_counted(
    detector: Detector, dataset: DetectionSource, exported: Path, tmp_path: Path
) -> None:
    assert shrunk_sentence(read_exported(exported), dataset) is None
    export_detector(detector, tmp_path, (32, 64))
    sentence = shrunk_sentence(read_exported(tmp_path), dataset)
    assert sentence is not None
    assert sentence.startswith("1 of 4 images do not fit the exported shape 32x64")


def test_other_classes_and_broken_folders_are_refused(exported: Path, dataset: DetectionSource, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not the folder of an exported detector"):
        read_exported(tmp_path)
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    metadata = json.loads((exported / "metadata.json").read_text())
    metadata["classes"]["1"]["name"] = "cow"
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    read = read_exported(tmp_path)
    with pytest.raises(UserError, match="'cow' in the checkpoint and 'dog' in"):
        score_program(read, read.programs()[0], dataset)
    (tmp_path / "weights.npz").unlink()
    with pytest.raises(UserError, match=r"weights\.npz is missing"):
        read_exported(tmp_path)


def test_numbers_that_nobody_can_measure_are_a_dash() -> None:
    numbers = dict.fromkeys(METRIC_NAMES, 0.5) | {"APs": -1.0}
    table = comparison_table(numbers, {"jax": numbers | {"AP": 0.25}}).splitlines()
    assert table[1].split() == ["AP", "0.5000", "0.2500", "-0.2500"]
    assert table[4].split() == ["APs", "-", "-", "-"]


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("onnx", "onnxruntime", "jax2onnx"))), reason="needs the packages of ONNX"
)
def test_onnx_models_in_both_precisions_score_as_their_checkpoint(
    detector: Detector, dataset: DetectionSource, tmp_path: Path
) -> None:
    remarks = export_detector(detector, tmp_path, (64, 64), onnx=True, float16=True)
    assert [remark.partition(":")[0] for remark in remarks[-2:]] == [
        "detector_batch_any.onnx",
        "detector_batch_any_float16.onnx",
    ]
    single, half = (tmp_path / remark.partition(":")[0] for remark in remarks[-2:])
    assert half.stat().st_size < 0.65 * single.stat().st_size
    evaluate_folder(read_exported(tmp_path), dataset, Config(), outputs(tmp_path))
    scores = json.loads((tmp_path / "results.scores.json").read_text())
    assert scores["onnx"]["AP"] == pytest.approx(scores["checkpoint"]["AP"], abs=1e-3)
    assert scores["onnx_float16"]["AP"] == pytest.approx(scores["checkpoint"]["AP"], abs=0.1)
