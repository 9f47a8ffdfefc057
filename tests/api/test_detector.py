"""Training and evaluation from Python are those of the command: the same bits; each continues what the other began."""

import contextlib
import dataclasses
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import anchordetr_jax
from anchordetr_jax import Detector, TrainingRun, UserError, train
from anchordetr_jax.api import detector as api_detector
from anchordetr_jax.checkpoints.checkpoint import read_meta
from anchordetr_jax.commands import evaluate as commands_evaluate
from anchordetr_jax.commands import main
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.evaluation import evaluate
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.shares import EvaluationResult
from anchordetr_jax.files import stored_path
from anchordetr_jax.training import experiment
from tests.detector import MODEL, save_detector
from tests.training.saved_arrays import saved_arrays
from tests.training.shared_runs import share_runs
from tests.training.tiny import equal

SETTINGS: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 8,
    "augment.train_sizes": (32,),
    "eval_size": 32,
    "max_size": 48,
    "data.num_workers": 0,
    "matcher.backend": "device",
    "tensorboard": False,
    "checkpoint_every": 1,
    "keep_checkpoints": 9,
    "evaluate_every": 0,
    "keep_best": False,
    "denoising_groups": 0,
    "optimizer.name": "adamw",
    "data.num_buckets": 1,
}
FLAGS = [
    "--config.train.epochs=1",
    "--config.train.batch_size=8",
    "--config.augment.train_sizes=32",
    "--config.augment.eval_size=32",
    "--config.augment.max_size=48",
    "--config.data.num_workers=0",
    "--config.matcher.backend=device",
    "--noconfig.train.tensorboard",
    "--config.train.checkpoint_every=1",
    "--config.train.keep_checkpoints=9",
    "--config.train.evaluate_every=0",
    "--noconfig.train.keep_best",
    "--config.train.denoising_groups=0",
    "--config.optimizer.name=adamw",
    "--config.data.num_buckets=1",
]


@pytest.fixture(scope="module", autouse=True)
def one_device() -> Iterator[None]:
    """Programs for one device compile in half the time of those for eight."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (experiment, evaluate, commands_evaluate):
            patch.setattr(module, "make_mesh", lambda config: make_mesh(config, jax.devices()[:1]))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    write_shapes_dataset(root, train_images=8, val_images=2, config=ShapesConfig(short_side=(32, 40), max_side=48))
    return root


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = dataclasses.replace(MODEL, decoder_layers=1)
    return save_detector(tmp_path_factory.mktemp("start") / "checkpoint", model)


@pytest.fixture(scope="module")
def fine_tuned(data: Path, start: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    workdir = tmp_path_factory.mktemp("runs") / "python"
    return Detector.from_pretrained(start).finetune(data, workdir=workdir, **SETTINGS)


def log(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the only number that depends on the clock."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


def assert_same_run(a: Path, b: Path, step: int) -> None:
    assert equal(saved_arrays(a / "checkpoints" / str(step)), saved_arrays(b / "checkpoints" / str(step)))
    assert log(a) == log(b)


def test_fine_tuning_is_the_run_of_the_command_to_the_bit(
    fine_tuned: TrainingRun, data: Path, start: Path, tmp_path: Path
) -> None:
    assert main(["train", str(data), "--workdir", str(tmp_path), f"--config.init_from={start}", *FLAGS]) == 0
    assert_same_run(Path(fine_tuned.workdir), tmp_path, step=1)


def test_evaluation_scores_as_the_command_does(
    fine_tuned: TrainingRun, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", str(fine_tuned.workdir)]) == 0
    expected = json.loads((tmp_path / "results.scores.json").read_text())
    scores = fine_tuned.detector.evaluate()
    assert {name: scores[name] for name in scores.metrics} == {name: expected[name] for name in scores.metrics}
    assert fine_tuned.detector.evaluate(data, split="val", **{"eval.batch_size": 8}).metrics == scores.metrics
    assert isinstance(fine_tuned.detector, Detector)
    assert "Average Precision" in repr(scores)
    assert "<td>AP50</td>" in scores._repr_html_()


def test_a_saved_detector_warns_of_images_of_shapes_that_its_training_never_showed(
    fine_tuned: TrainingRun, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = fine_tuned.detector
    assert detector.augment.shown_ratios
    detector.augment = dataclasses.replace(detector.augment, shown_ratios=(9.0,))
    detector.save_pretrained(tmp_path / "saved")
    Detector.from_pretrained(tmp_path / "saved").evaluate(data)
    assert any("2 of 2 images have shapes" in record.getMessage() for record in caplog.records)


def test_another_data_set_is_evaluated_on_validation_images_of_its_own(
    fine_tuned: TrainingRun, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = Detector.from_pretrained(fine_tuned.workdir)
    expected = detector.evaluate(data)
    assert detector.trained is not None
    held_out = dataclasses.replace(detector.trained.data, root=str(data.parent / "mine"), val_fraction=0.5)
    detector.trained = dataclasses.replace(detector.trained, data=held_out)
    assert detector.evaluate(data).metrics == expected.metrics
    assert capsys.readouterr().err.count("Evaluating on 2 images: ") == 2


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose class outputs are category ids."""
    categories = Categories(ids=(1, 3), names=("cat", "dog"), scheme="raw")
    model = dataclasses.replace(MODEL, decoder_layers=1, num_classes=4)
    return save_detector(tmp_path_factory.mktemp("raw") / "checkpoint", model, categories)


@pytest.fixture(scope="module")
def seen(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validation images whose objects are some detections of `raw`."""
    root, rng = tmp_path_factory.mktemp("seen"), np.random.default_rng(0)
    (root / "val").mkdir()
    detector = Detector.from_pretrained(raw)
    contents: dict[str, Any] = {"categories": [{"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}]}
    contents |= {"images": [], "annotations": []}
    for number in (1, 2):
        path = root / "val" / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), np.uint8)).save(path)
        contents["images"].append({"id": number, "file_name": path.name, "height": 40, "width": 60})
        for entry in detector.predict(path, threshold=0).to_coco(number)[::4]:
            if min(entry["bbox"][2:]) > 1:
                contents["annotations"].append({**entry, "id": len(contents["annotations"]) + 1})
    (root / "val" / "_annotations.coco.json").write_text(json.dumps(contents))
    return root


@pytest.mark.parametrize("kind", ["checkpoint", "folder"])
def test_a_detector_whose_outputs_are_category_ids_scores_as_by_the_command(
    raw: Path, seen: Path, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if kind == "folder":
        Detector.from_pretrained(raw).save_pretrained(tmp_path / "saved")
    path = raw if kind == "checkpoint" else tmp_path / "saved"
    assert main(["evaluate", str(path), f"--config.data.root={seen}"]) == 0
    expected = json.loads((tmp_path / "results.scores.json").read_text())
    scores = Detector.from_pretrained(path).evaluate(seen)
    assert scores["AP"] == expected["AP"] > 0.35  # With the outputs numbered without gaps it is 0.31.


def test_a_detector_of_a_model_in_memory_scores_the_outputs_of_its_categories(raw: Path, seen: Path) -> None:
    loaded = Detector.from_pretrained(raw)
    detector = Detector(loaded.model, loaded.categories, eval_size=32, max_size=64)
    assert detector.evaluate(seen)["AP"] == loaded.evaluate(seen)["AP"] > 0.35


def test_outputs_numbered_in_another_way_than_the_detectors_are_refused(raw: Path, seen: Path) -> None:
    with pytest.raises(UserError, match=r"output 1 of the checkpoint and output 0 .* Set data\.labels to 'raw'"):
        Detector.from_pretrained(raw).evaluate(seen, labels="contiguous")


def test_the_initial_checkpoint_of_fine_tuning_says_how_outputs_are_numbered(raw: Path, tmp_path: Path) -> None:
    Detector(Detector.from_pretrained(raw).model, read_meta(stored_path(raw)).categories)._save_as_checkpoint(
        stored_path(tmp_path / "initial")
    )
    assert read_meta(stored_path(tmp_path / "initial")).config.data.labels == "raw"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"dtype": "bfloat16"},
            r"does not use the setting 'model\.dtype', .*; from_pretrained takes dtype and padding",
        ),
        ({"learning_rate": 0.1}, r"'optimizer\.learning_rate', only those of data, eval, mesh, and augment\.eval_size"),
        ({"train.batch_size": 3}, r"'train\.batch_size'"),
        ({"flip_probability": 0.0}, r"'augment\.flip_probability'"),
        ({"init_from": "resnet50"}, "'init_from'"),
        ({"split": "test-dev"}, "split must be one of train, val, test, not 'test-dev'"),
        ({"data.root": "other"}, r"'data\.root' is there twice, also as data: keep one"),
    ],
)
def test_a_setting_without_effect_on_an_evaluation_is_refused(
    raw: Path, seen: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        Detector.from_pretrained(raw).evaluate(seen, **settings)


def test_the_batch_size_of_an_evaluation_is_that_of_eval(
    raw: Path, seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []

    class Watched(Evaluator):
        def run(self, *arguments: Any, **options: Any) -> EvaluationResult:
            used.append(self.config.eval.batch_size)
            return super().run(*arguments, **options)

    monkeypatch.setattr(api_detector, "Evaluator", Watched)
    Detector.from_pretrained(raw).evaluate(seen, batch_size=1, max_detections=5)
    assert used == [1]


class Interrupted(TrainingBatches):
    """Sends Ctrl-C before the batch of step 1."""

    def batches(  # type: ignore[override]
        self, first_step: int = 0, stop_step: int | None = None
    ) -> Iterator[tuple[int, Batch]]:
        with contextlib.closing(super().batches(first_step, stop_step)) as batches:
            for step, batch in batches:
                if step == 1:
                    signal.raise_signal(signal.SIGINT)
                yield step, batch


Run = Callable[[Path], Any]


@pytest.fixture(scope="module")
def in_python(data: Path) -> Run:
    settings = {**SETTINGS, "epochs": 4, "evaluate_every": 4}
    return lambda workdir: train("shapes-scratch", workdir=workdir, data=data, **settings)


@pytest.fixture(scope="module")
def by_command(data: Path) -> Run:
    flags = [*FLAGS, "--config.train.epochs=4", "--config.train.evaluate_every=4"]
    return lambda workdir: main(["train", str(data), "--config", "shapes-scratch", "--workdir", str(workdir), *flags])


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    share_runs(monkeypatch)


@pytest.fixture(scope="module")
def whole_run(in_python: Run, tmp_path_factory: pytest.TempPathFactory) -> TrainingRun:
    """A run of the stand-in that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        share_runs(patch)
        run: TrainingRun = in_python(tmp_path_factory.mktemp("whole") / "run")
        return run


def test_a_run_has_its_numbers_and_its_pictures(whole_run: TrainingRun, tmp_path: Path) -> None:
    (row,) = whole_run.metrics
    assert (row["step"], row["epoch"]) == (4, 4)
    assert {"loss", "AP", "AP50", "ARl"} <= row.keys()
    assert repr(whole_run).splitlines()[1].split()[:4] == ["step", "epoch", "loss", "AP"]
    assert "<th>AP50</th>" in whole_run._repr_html_()
    assert min(whole_run.curves().size) > 100
    assert min(whole_run.predictions().size) > 100
    with pytest.raises(UserError, match="no workdir of a run"):
        TrainingRun(tmp_path)


@pytest.mark.usefixtures("stand_in")
def test_the_command_continues_what_python_began_and_ctrl_c_stopped(
    in_python: Run, by_command: Run, whole_run: TrainingRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "TrainingBatches", Interrupted)
        assert in_python(tmp_path).step == 2  # Ctrl-C saves, and the call returns.
    assert "Stopped after step 2, which is saved" in capsys.readouterr().out
    by_command(tmp_path)
    assert_same_run(Path(whole_run.workdir), tmp_path, step=4)


@pytest.mark.usefixtures("stand_in")
def test_python_continues_what_the_command_began(
    in_python: Run, by_command: Run, whole_run: TrainingRun, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "TrainingBatches", Interrupted)
        with pytest.raises(SystemExit):
            by_command(tmp_path)
    in_python(tmp_path)
    assert_same_run(Path(whole_run.workdir), tmp_path, step=4)


def test_a_setting_that_does_not_exist_is_answered_with_the_nearest(start: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"There is no setting 'imgsz'; did you mean 'augment\.train_sizes'\?"):
        Detector.from_pretrained(start).finetune(data, workdir=tmp_path, imgsz=640)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"init_from": "another"}, "begins with this detector"),
        ({"epochs": 3, "train.epochs": 9}, r"'train\.epochs' is there twice, also as epochs"),
        ({"data.root": "elsewhere"}, r"'data\.root' is there twice, also as data"),
    ],
)
def test_two_values_for_one_thing_are_refused(
    settings: dict[str, Any], sentence: str, start: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence):
        Detector.from_pretrained(start).finetune(data, workdir=tmp_path, **settings)
    assert not list(tmp_path.iterdir())


def test_the_package_offers_what_its_page_names() -> None:
    for name in anchordetr_jax.__all__:
        assert getattr(anchordetr_jax, name) is not None
