"""An evaluation in tiles scores what prediction in tiles finds."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from anchordetr_jax import Detector, UserError, cli
from anchordetr_jax.commands.evaluate import run
from anchordetr_jax.config import EvalConfig
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.journal import Journal, fingerprint
from anchordetr_jax.evaluation.results import DatasetDetections
from anchordetr_jax.evaluation.shares import EvaluationResult
from anchordetr_jax.prediction.tiled_evaluation import evaluate_in_tiles
from anchordetr_jax.weights.pretrained import open_pretrained
from tests.data.coco_folder import open_coco
from tests.detector import save_detector
from tests.evaluation.test_evaluate import assert_same
from tests.processes import free_port, start
from tests.tolerances import SCORE32


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


def evaluate(checkpoint: Path, root: Path, journal: Journal | None = None, **evaluation: Any) -> EvaluationResult:
    """Evaluates in tiles of 40 pixels; an image has at most 15 detections."""
    found = open_pretrained(checkpoint)
    limits = EvalConfig(**{"batch_size": 4, "max_detections": 15, **evaluation})
    config = dataclasses.replace(found.config, eval=limits)
    return evaluate_in_tiles(found.model(), config, dataset_of(root), 40, progress=False, journal=journal)


def dataset_of(root: Path) -> DetectionSource:
    return open_coco(root / "val2017", root / "annotations" / "instances_val2017.json")


def test_the_results_are_the_best_detections_of_prediction_in_tiles(
    checkpoint: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = evaluate(checkpoint, root)
    detector = Detector.from_pretrained(checkpoint, max_detections=15)
    expected = []
    for number in (1, 2):
        found = detector.predict(root / "val2017" / f"{number}.png", threshold=0, tiles=40, batch_size=4)
        expected += found[:15].to_coco(number)
    assert result.results == expected
    assert result.scores is not None
    assert result.scores.num_images == 3
    assert len(result.unreadable) == 1
    assert "3.png" in result.unreadable[0]
    assert "1 of 3 images could not be read" in caplog.text
    # Pixels of the network: whole pictures of 21x32, 32x24 and 32x32 (10x10), and 6 tiles of 32x32.
    assert result.padding == pytest.approx(1 - (21 * 32 + 32 * 24 + 7 * 32 * 32) / (9 * 32 * 32))


def test_detections_that_are_not_finite_are_counted_and_said(
    checkpoint: Path, root: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    found = open_pretrained(checkpoint)
    model, config = found.model(), dataclasses.replace(found.config, eval=EvalConfig(batch_size=4, max_detections=5))
    graphdef, state = nnx.split(model)
    broken = nnx.merge(graphdef, jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), state))
    for _ in range(2):  # The second one has the number from the journal.
        journal = Journal(tmp_path / "journal")
        result = evaluate_in_tiles(broken, config, dataset_of(root), 40, progress=False, journal=journal)
        assert (result.results, result.not_finite) == ([], 8 * 5)  # Eight views of the two readable images.
    assert result.kept_images == 2
    assert "40 detections were left out because their score or box is not finite" in caplog.text


def test_a_stopped_evaluation_continues_after_the_finished_images(
    checkpoint: Path, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(checkpoint, root)
    journal, add = Journal(tmp_path / "journal", seconds=1000), Journal.add

    def stop(images: DatasetDetections) -> None:
        add(journal, images)
        raise KeyboardInterrupt

    monkeypatch.setattr(journal, "add", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(checkpoint, root, journal)
    result = evaluate(checkpoint, root, Journal(tmp_path / "journal"), batch_size=3)
    assert result.kept_images == 1
    assert "The evaluation continues after 1 of 3 images" in capsys.readouterr().err
    assert_same(result.results, whole.results, SCORE32)
    again = evaluate(checkpoint, root, Journal(tmp_path / "journal"))
    assert (again.kept_images, again.compilations, again.results) == (2, 1, result.results)  # 3.png is tried again.


def test_whole_images_and_other_tiles_are_other_evaluations(checkpoint: Path, root: Path) -> None:
    found, dataset = open_pretrained(checkpoint), dataset_of(root)
    keys = {
        fingerprint(found.model(), dataset, found.config, tiles) for tiles in (None, (40, 0.2), (40, 0.3), (50, 0.2))
    }
    assert len(keys) == 4


WORKER = """
import json, sys
from pathlib import Path
from anchordetr_jax.devices import initialize_distributed
root, checkpoint, port, index, folder = sys.argv[1:]
initialize_distributed(f"127.0.0.1:{port}", 2, int(index))
from anchordetr_jax.commands.evaluate import run
data = [f"--config.data.root={root}", "--config.eval.batch_size=4", "--config.eval.max_detections=15"]
output = f"{folder}/results.json"
sys.exit(run([checkpoint, "--tiles=40", *data, "--output", output]))
"""


@pytest.mark.processes
def test_two_processes_share_the_images(
    checkpoint: Path, root: Path, tmp_path: Path, script_environment: dict[str, str]
) -> None:
    port = free_port()
    workers = [
        start(
            ["-c", WORKER, str(root), str(checkpoint), str(port), str(index), str(tmp_path)],
            Path(__file__).parents[2],
            {**script_environment, "NPROC": "8"},
        )
        for index in range(2)
    ]
    outputs = []
    for worker in workers:
        output, errors = worker.communicate(timeout=240)
        assert worker.wait() == 0, errors
        outputs.append(output.splitlines())
    assert outputs[0][-1].startswith("AP=")
    assert not any(line.startswith("AP=") for line in outputs[1])
    expected = evaluate(checkpoint, root)
    assert_same(json.loads((tmp_path / "results.json").read_text()), expected.results, SCORE32)
    scores = json.loads((tmp_path / "results.scores.json").read_text())
    assert scores["num_images"] == 3
    assert len(scores["unreadable"]) == 1


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
    dataset, found = dataset_of(root), open_pretrained(checkpoint)

    def fail(row: int) -> np.ndarray:
        raise UserError(f"image {row} is broken.")

    monkeypatch.setattr(dataset, "open_image", fail)
    with pytest.raises(UserError, match=r"None of the 3 images .* The first one: image 0 is broken\."):
        evaluate_in_tiles(found.model(), found.config, dataset, 40, progress=False)
