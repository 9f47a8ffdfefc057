"""What is compared when the official command and this project evaluate the same weights. Neither network runs here."""

import dataclasses
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import pytest
from flax import nnx
from PIL import Image

from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.config import Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES
from anchordetr_jax.verification import official_evaluation
from anchordetr_jax.verification.comparison import Table
from anchordetr_jax.verification.official_evaluation import compare_results, published_remark, verify_evaluation
from anchordetr_jax.weights.convert import export_weights
from anchordetr_jax.weights.state_dict_file import read_state_dict
from tests.weights.conftest import SMALL, random_variables

METRICS = {name: (25 + i) / 100 for i, name in enumerate(METRIC_NAMES)}
FOUND = [
    {"image_id": 3, "category_id": 7, "score": 0.9, "bbox": [1.0, 2.0, 30.0, 10.0]},
    {"image_id": 3, "category_id": 5, "score": 0.4, "bbox": [4.0, 2.0, 20.0, 10.0]},
    {"image_id": 8, "category_id": 7, "score": 0.3, "bbox": [1.0, 2.0, 30.0, 10.0]},
]
OF_NO_CATEGORY = [{"image_id": i, "category_id": 90, "score": 0.1, "bbox": [1.0, 2.0, 3.0, 4.0]} for i in (3, 8)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    images = [{"id": i, "file_name": f"{i}.jpg", "height": 40, "width": 60} for i in (9, 8, 3)]
    for image in images:
        Image.new("RGB", (60, 40)).save(root / "val2017" / str(image["file_name"]))
    annotations = [
        {"id": i, "image_id": image, "category_id": 5, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
        for i, image in enumerate((3, 9))
    ]
    categories = [{"id": 5, "name": "cell"}, {"id": 7, "name": "platelet"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    return root


@pytest.fixture
def checkpoint(tmp_path: Path, small_resnet: None) -> Path:
    model = dataclasses.replace(SMALL, num_classes=2)
    categories = Categories(ids=(5, 7), names=("cell", "platelet"), scheme="contiguous")
    save_variables(tmp_path / "run", random_variables(model), categories, Config(model=model))
    return tmp_path / "run"


def test_both_evaluate_the_same_weights_and_images(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, data: Path
) -> None:
    class Official:
        def __init__(self, repo: str) -> None:
            assert repo == "checkout"

        def evaluate(self, config: Config, weights: Path, folder: Path, output: Path) -> Any:
            assert read_state_dict(weights)[0]["transformer.class_embed.0.bias"].shape == (91,)
            for split in ("train", "val"):
                content = json.loads((folder / f"annotations/instances_{split}2017.json").read_text())
                assert [image["id"] for image in content["images"]] == [3, 8]
                assert [annotation["image_id"] for annotation in content["annotations"]] == [3]
                assert (folder / f"{split}2017").is_dir()
            if weights != data.parent / "official.pth":
                shutil.copy(weights, data.parent / "official.pth")
            return [*METRICS.values()], FOUND

    class OurEvaluator:
        def __init__(self, dataset: Any, config: Config) -> None:
            assert list(dataset.image_ids) == [3, 8]
            assert (config.augment.eval_size, config.augment.max_size) == (800, 1333)

        def run(self, model: Any, **options: Any) -> Any:
            assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(nnx.state(model)))
            return SimpleNamespace(metrics={**METRICS, "AP75": METRICS["AP75"] + 6e-4}, results=FOUND)

    monkeypatch.setattr(official_evaluation, "OfficialCode", Official)
    monkeypatch.setattr(official_evaluation, "Evaluator", OurEvaluator)
    for weights in (checkpoint, data.parent / "official.pth"):
        table = verify_evaluation("checkout", weights, data, count=2)
        assert [row.stage for row in table.failed] == ["AP75"]  # which differs in the third decimal
        assert "official 0.2700, here 0.2706" in str(table)
    with pytest.raises(UserError, match="instances_val2017"):
        verify_evaluation("checkout", checkpoint, data.parent)


def test_the_distance_from_the_published_ap_is_said() -> None:
    assert published_remark(44.3, 0.4416, 5000) == "The published AP is 44.3; here it is 44.2 (-0.1)."
    assert published_remark(42.1, 0.5, 20).endswith("val2017's 5000 images, and these are 20.")


@pytest.mark.parametrize("file", ["converted_anchor_detr_r50_50ep.pth", "mine.pth"])
def test_a_published_model_is_compared_with_its_published_ap(
    monkeypatch: pytest.MonkeyPatch, checkpoint: Path, data: Path, file: str
) -> None:
    monkeypatch.setattr(official_evaluation, "OfficialCode", lambda repo: SimpleNamespace(evaluate=evaluate))
    monkeypatch.setattr(official_evaluation, "Evaluator", lambda dataset, config: SimpleNamespace(run=run))

    def evaluate(*args: Any) -> Any:
        return [*METRICS.values()], FOUND

    def run(model: Any, **options: Any) -> Any:
        return SimpleNamespace(metrics=METRICS, results=FOUND)

    export_weights(checkpoint, data.parent / file)
    table = verify_evaluation("checkout", data.parent / file, data, dilation=True if file == "mine.pth" else None)
    assert ("The published AP is 42.1; here it is 25.0 (-17.1)." in str(table)) == (file != "mine.pth")


def compared(official: list[dict[str, Any]]) -> list[str]:
    table = Table("title")
    compare_results(table, FOUND, official, {3: (40, 60), 8: (40, 60)}, categories=(5, 7))
    assert len(table.rows) == 2
    return [row.stage for row in table.failed]


def test_detections_of_outputs_that_are_no_category_do_not_count() -> None:
    assert compared([*FOUND, *OF_NO_CATEGORY]) == []


@pytest.mark.parametrize(
    ("changed", "stage"),
    [
        ({"score": 0.2}, "detections/labels"),
        ({"category_id": 5}, "detections/labels"),
        ({"bbox": [1.0, 2.0, 30.1, 10.0]}, "detections/boxes"),
    ],
)
def test_another_detection_is_found(changed: dict[str, Any], stage: str) -> None:
    assert compared([{**FOUND[0], **changed}, *FOUND[1:], *OF_NO_CATEGORY]) == [stage]
