"""`anchordetr evaluate`: as a user runs its script, and what it writes and refuses."""

import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchordetr_jax import cli
from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.commands import evaluate as evaluate_command
from anchordetr_jax.commands import main
from anchordetr_jax.config import AugmentConfig, Config, DataConfig, EvalConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.kernels.building import variables_of
from tests.page import Page

SCRIPT = Path(__file__).parents[2] / "scripts" / "evaluate.py"
CATEGORIES = [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]


@pytest.fixture(scope="module")
def root(tmp_path_factory, make_tiny_detector):
    """A data set of two images and, beside it, a checkpoint whose settings name it."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "val2017").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(root / "val2017" / name)
    contents = {
        "images": [{"id": i, "file_name": f"{'ab'[i]}.png", "height": 48, "width": 64} for i in range(2)],
        "annotations": [{"id": i + 1, "image_id": i, "category_id": 2, "bbox": [4, 4, 40, 30]} for i in range(2)],
        "categories": CATEGORIES,
    }
    write_annotations(root, contents)
    model = make_tiny_detector()
    config = Config(
        model=model.config,
        data=DataConfig(root=str(root), num_buckets=1),
        augment=AugmentConfig(eval_size=48, max_size=64),
        eval=EvalConfig(batch_size=2),
    )
    save_variables(root / "checkpoint", variables_of(model), Categories(ids=(2, 5), names=("cat", "dog")), config)
    return root


def write_annotations(root, contents):
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(contents))


@pytest.fixture(scope="module")
def compilations(tmp_path_factory):
    """JAX's cache, shared by the runs of this file."""
    return tmp_path_factory.mktemp("compilations")


@pytest.fixture
def by_script(script_environment, compilations, tmp_path):
    """Runs the script in a process of its own."""
    script_environment["JAX_COMPILATION_CACHE_DIR"] = str(compilations)

    def run(*arguments):
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(
            command, cwd=tmp_path, env=script_environment, capture_output=True, text=True, timeout=240, check=False
        )

    return run


@pytest.fixture
def evaluate(tmp_path, capsys, monkeypatch):
    """Runs the command in this process, on one device. A process of its own takes six seconds to start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(evaluate_command, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)  # It would change the settings of this process.

    def run(*arguments):
        capsys.readouterr()
        status = main(["evaluate", *map(str, arguments)])
        printed = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, status, printed.out, printed.err)

    return run


@pytest.mark.processes
def test_it_scores_writes_and_draws(root, by_script, tmp_path):
    ran = by_script("--checkpoint", root / "checkpoint", "--report", "report", "--predictions", "predictions.png")
    assert ran.returncode == 0, ran.stderr
    assert not re.search(r"^I\d{4} ", ran.stderr, re.MULTILINE)  # nothing of the libraries' own talk
    lines = ran.stdout.splitlines()
    assert re.fullmatch(r"AP=\d\.\d{3} AP50=\d\.\d{3}", lines[-1])
    assert sum(line.startswith(" Average ") for line in lines) == 12
    assert any(line.split()[:2] == ["cat", "2"] for line in lines)
    with contextlib.redirect_stdout(io.StringIO()):
        contents = json.loads((root / "annotations" / "instances_val2017.json").read_text())
        for box in contents["annotations"]:
            box.update(iscrowd=0, area=box["bbox"][2] * box["bbox"][3])  # which pycocotools alone asks for
        truth = COCO()
        truth.dataset = contents
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    scores = json.loads((tmp_path / "results.scores.json").read_text())
    assert [scores["AP"], scores["AP50"]] == evaluation.stats[:2].tolist()
    page = Page.of(tmp_path / "report" / "index.html")
    assert page.numbers["AP"] == f"{scores['AP']:.3f}"
    assert f"checkpoint: {root / 'checkpoint'}" in page.text
    for picture in ("report/precision_recall.png", "report/worst_misses.png", "predictions.png"):
        with Image.open(tmp_path / picture) as image:
            assert image.width > 100


@pytest.mark.processes
def test_a_second_run_compiles_nothing_again_and_leaves_no_journal(root, by_script, tmp_path):
    first, second = (by_script("--checkpoint", root / "checkpoint") for _ in range(2))
    assert "2 images in 1 batches of 1 shape (64x64)" in first.stderr
    assert "1 compilations, 1 of them loaded from JAX's cache" in second.stdout
    assert first.stdout.splitlines()[-1] == second.stdout.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "results.scores.json"]


def test_results_that_cannot_be_written_leave_the_journal(root, evaluate, tmp_path):
    (tmp_path / "results.json").mkdir()
    ran = evaluate("--checkpoint", root / "checkpoint")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("Error: Cannot write results.json")
    (tmp_path / "results.json").rmdir()
    ran = evaluate("--checkpoint", root / "checkpoint")
    assert "The evaluation continues after 2 of 2 images" in ran.stderr
    assert "The detections of 2 more images are from the stopped evaluation." in ran.stdout
    assert not (tmp_path / "results.json.partial").exists()


def test_test_dev_is_written_as_the_server_takes_it(root, evaluate, tmp_path):
    contents = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    del contents["annotations"]
    (root / "annotations" / "image_info_test-dev2017.json").write_text(json.dumps(contents))
    ran = evaluate("--checkpoint", root / "checkpoint", "--split", "test-dev", "--config.data.test_images=val2017")
    assert ran.returncode == 0, ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["detections_test-dev2017_checkpoint_results.json"]
    assert ran.stdout.splitlines()[-1].startswith("No scores, because ")
    entries = json.loads((tmp_path / "detections_test-dev2017_checkpoint_results.json").read_text())
    assert {entry["image_id"] for entry in entries} == {0, 1}
    for entry in entries:
        assert list(entry) == ["image_id", "category_id", "bbox", "score"]
        assert entry["category_id"] in (2, 5)
        assert len(entry["bbox"]) == 4


def test_a_plain_folder_gets_results_and_no_scores(root, evaluate, tmp_path):
    folder = tmp_path / "photos"
    shutil.copytree(root / "val2017", folder)
    (folder / "broken.jpg").write_bytes(b"no image")
    flags = ("--config.data.source=folder", f"--config.data.root={folder}", "--predictions", "grid.png")
    ran = evaluate("--checkpoint", root / "checkpoint", *flags)
    assert ran.returncode == 0, ran.stderr
    assert f"Not readable, counted as an image without detections: Image file {folder / 'broken.jpg'}" in ran.stdout
    assert re.fullmatch(
        r"No scores, because .* \d+ detections of 3 images are in results.json", ran.stdout.splitlines()[-1]
    )
    evaluate("--checkpoint", root / "checkpoint", "--output", "coco.json")
    of_folder, of_coco = (json.loads((tmp_path / name).read_text()) for name in ("results.json", "coco.json"))
    assert [{**entry, "image_id": entry["image_id"] + 1} for entry in of_coco] == of_folder
    assert (tmp_path / "grid.png").exists()


def test_a_report_without_annotations_is_refused_at_once(root, evaluate, tmp_path):
    flags = ("--config.data.source=folder", f"--config.data.root={root / 'val2017'}", "--report", "report")
    ran = evaluate("--checkpoint", root / "checkpoint", *flags)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].endswith("has no annotations to report on: leave --report out.")
    assert not list(tmp_path.iterdir())


def test_settings_of_the_checkpoint_can_be_changed(root, evaluate):
    ran = evaluate("--checkpoint", root / "checkpoint", "--config.data.val_annotations=annotations/none.json")
    assert ran.returncode == 1
    assert "none.json" in ran.stderr.splitlines()[-1]


def test_validation_images_of_another_data_set_are_scored_though_the_run_held_images_out(
    root, make_tiny_detector, evaluate, tmp_path
):
    model = make_tiny_detector()
    config = Config(
        model=model.config,
        data=DataConfig(root=str(tmp_path / "mine"), val_fraction=0.1, num_buckets=1),
        augment=AugmentConfig(eval_size=48, max_size=64),
    )
    save_variables(tmp_path / "run", variables_of(model), Categories(ids=(2, 5), names=("cat", "dog")), config)
    ran = evaluate("--checkpoint", tmp_path / "run", f"--config.data.root={root}")
    assert ran.returncode == 0, ran.stderr
    assert f"Evaluating on 2 images: {root / 'annotations' / 'instances_val2017.json'}\n" in ran.stderr


def test_another_architecture_is_refused_in_a_sentence(root, evaluate):
    ran = evaluate("--checkpoint", root / "checkpoint", "--config.model.decoder_layers=2")
    assert ran.returncode == 1
    assert "model.decoder_layers" in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr


def test_other_classes_are_refused_in_a_sentence(root, evaluate, tmp_path):
    contents = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    contents["categories"][1]["name"] = "cow"
    (tmp_path / "cows.json").write_text(json.dumps(contents))
    ran = evaluate("--checkpoint", root / "checkpoint", f"--config.data.val_annotations={tmp_path / 'cows.json'}")
    assert ran.returncode == 1
    assert "'dog' in the checkpoint and 'cow' in" in ran.stderr.splitlines()[-1]


def test_an_empty_folder_is_no_checkpoint(root, evaluate, tmp_path):
    (tmp_path / "empty").mkdir()
    ran = evaluate("--checkpoint", tmp_path / "empty")
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith("Error: There is no checkpoint in")


def test_a_checkpoint_to_compare_with_is_refused_where_nothing_is_exported(root, evaluate):
    done = evaluate(root / "checkpoint", "--compare=nothing")
    assert done.returncode == 1
    assert "--compare is for an exported folder" in done.stderr


@pytest.mark.parametrize(
    "flag",
    [
        "--dilation",
        "--annotations=no.json",
        "--config.augment.eval_size=32",
        "--config.eval.max_detections=3",
        "--config.data.labels=raw",
    ],
)
def test_what_an_exported_program_has_fixed_cannot_be_changed(flag, evaluate, tmp_path):
    (tmp_path / "metadata.json").write_text(
        json.dumps({"shape": 0, "classes": {}, "jax": {"any": "a"}, "weights": "w"})
    )
    for name in "aw":
        (tmp_path / name).touch()
    done = evaluate(tmp_path, flag)
    assert done.returncode == 1
    assert f"{flag.partition('=')[0]} cannot change an exported program" in done.stderr
