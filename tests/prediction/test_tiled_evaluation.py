"""An evaluation in tiles scores what prediction in tiles finds."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax import Detector, UserError, cli
from anchordetr_jax.commands.evaluate import run
from anchordetr_jax.prediction.tiled_evaluation import evaluate_in_tiles
from tests.data.coco_folder import open_coco
from tests.detector import save_detector


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / "checkpoint")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, the second one first in the file, and one that cannot be read."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (root / "val2017").mkdir()
    for number, size in ((2, (60, 90)), (1, (40, 30))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / "val2017" / f"{number}.png")
    (root / "val2017" / "3.png").write_bytes(b"no image")
    sizes = {2: (60, 90), 1: (40, 30), 3: (10, 10)}
    contents = {
        "images": [{"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in sizes.items()],
        "annotations": [{"id": i, "image_id": i, "category_id": 3, "bbox": [2, 2, 20, 20]} for i in (1, 2)],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(contents))
    return root


def test_the_results_are_the_best_detections_of_prediction_in_tiles(checkpoint: Path, root: Path) -> None:
    detector = Detector.from_pretrained(checkpoint, max_detections=15)
    dataset = open_coco(root / "val2017", root / "annotations" / "instances_val2017.json")
    result = evaluate_in_tiles(detector, dataset, 40, batch_size=4, progress=False)
    expected = []
    for number in (1, 2):
        found = detector.predict(root / "val2017" / f"{number}.png", threshold=0, tiles=40, batch_size=4)
        expected += found[:15].to_coco(number)
    assert result.results == expected
    assert result.scores is not None
    assert result.scores.num_images == 3
    assert len(result.unreadable) == 1
    assert "3.png" in result.unreadable[0]


def test_the_command_evaluates_in_tiles(
    checkpoint: Path,
    root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)  # It would change the settings of this process.
    data = [f"--config.data.root={root}", "--config.augment.eval_size=32", "--config.augment.max_size=64"]
    output = tmp_path / "results.json"
    status = run(["--checkpoint", str(checkpoint), "--tiles=40", *data, "--output", str(output)])
    assert status == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("AP=")
    assert {entry["image_id"] for entry in json.loads(output.read_text())} == {1, 2}


@pytest.mark.parametrize("flags", [["--tiles=8"], ["--tiles=64", "--overlap=2"], ["--overlap=0.3"]])
def test_impossible_tiles_are_refused_before_anything_is_read(
    flags: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)
    assert run(["--checkpoint", "no/such/run", *flags]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "tiles" in error
    assert "no/such/run" not in error


def test_no_readable_image_is_an_error(checkpoint: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = open_coco(root / "val2017", root / "annotations" / "instances_val2017.json")

    def fail(row: int) -> np.ndarray:
        raise UserError(f"image {row} is broken.")

    monkeypatch.setattr(dataset, "open_image", fail)
    with pytest.raises(UserError, match=r"None of the 3 images .* The first one: image 0 is broken\."):
        evaluate_in_tiles(Detector.from_pretrained(checkpoint), dataset, 40, progress=False)
