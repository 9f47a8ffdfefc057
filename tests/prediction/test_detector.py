import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from anchordetr_jax import Detector, UserError, cli
from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.commands import main
from anchordetr_jax.prediction import network
from anchordetr_jax.prediction.detections import nothing_found_sentence, thresholds_sentence
from anchordetr_jax.weights.convert import export_weights
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import write_torch_file
from tests.detector import MODEL, save_detector
from tests.processes import start
from tests.tolerances import SCORE32

SIZES = ((40, 60), (30, 30), (36, 60), (40, 60))
"""Of these all but one are padded to the same shape."""
BOX32 = 1e-3
"""Pixels, in images of up to 60: relative boxes agree to CLOSE32."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_detector(tmp_path_factory.mktemp("detector") / "checkpoint")


@pytest.fixture(scope="module")
def detector(checkpoint: Path) -> Detector:
    return Detector.from_pretrained(checkpoint)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i, size in enumerate(SIZES):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(root / f"{i}.png")
    return root


def test_importing_the_package_imports_no_jax() -> None:
    code = "import sys, anchordetr_jax; assert 'jax' not in sys.modules and 'Detector' in dir(anchordetr_jax)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_image_gives_the_same_detections_alone_and_in_any_batch(detector: Detector, folder: Path) -> None:
    together = detector.predict(folder, threshold=0, batch_size=3)
    for i, (found, size) in enumerate(zip(together, SIZES, strict=True)):
        alone = detector.predict(folder / f"{i}.png", threshold=0)
        assert found.source == str(folder / f"{i}.png")
        assert found.image_size == size
        assert len(found) == MODEL.num_patterns * MODEL.num_anchors * 2
        np.testing.assert_allclose(found.scores, alone.scores, atol=SCORE32)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=BOX32)


def test_paths_pictures_and_arrays_of_an_image_give_the_same(detector: Detector, folder: Path) -> None:
    path = folder / "0.png"
    with Image.open(path) as picture:
        kinds = [str(path), path.as_uri(), picture.copy(), np.asarray(picture), np.asarray(picture) / 255]
    expected = detector.predict(path, threshold=0)
    for kind in kinds:
        found = detector.predict(kind, threshold=0)
        assert np.array_equal(found.boxes, expected.boxes)
        assert np.array_equal(found.scores, expected.scores)


def test_names_and_ids_are_the_checkpoints(detector: Detector, folder: Path) -> None:
    found = detector.predict(folder / "0.png", threshold=0)
    assert {(one.label, one.name, one.category_id) for one in found} == {(0, "cat", 3), (1, "dog", 7)}


def test_detections_score_at_least_the_threshold_and_are_inside_the_image(detector: Detector, folder: Path) -> None:
    everything = detector.predict(folder / "0.png", threshold=0)
    some = detector.predict(folder / "0.png", threshold=float(everything.scores[4]))
    assert np.array_equal(some.scores, everything.scores[:5])
    assert everything.boxes.min() >= 0
    assert everything.boxes[:, [0, 2]].max() <= 60
    assert everything.boxes[:, [1, 3]].max() <= 40


def test_without_a_threshold_each_class_has_the_one_of_the_evaluation(checkpoint: Path, folder: Path) -> None:
    thresholds = Thresholds(0.9, {3: 0.4})
    model = Detector.from_pretrained(checkpoint)
    detector = Detector(model.model, model.categories, eval_size=32, max_size=64, thresholds=thresholds)
    everything = detector.predict(folder / "0.png", threshold=0)
    expected = [d for d in everything if d.score >= np.float32(0.4 if d.name == "cat" else 0.9)]
    assert 0 < len(expected) < len(everything)
    assert list(detector.predict(folder / "0.png")) == expected
    half = [d for d in everything if d.score >= 0.5]
    assert list(model.predict(folder / "0.png")) == half


@pytest.mark.parametrize(
    ("by_class", "evaluated", "start"),
    [
        ({"cat": 0.41, "dog": 0.3}, True, "The threshold is that of the class: cat 0.41, dog 0.3. It has the best F1"),
        ({"cat": 0.41, "dog": 0.41}, True, "The threshold is 0.41. It has the best F1"),
        ({str(i): i / 20 for i in range(12)}, True, "The threshold is that of the class: 0 0, 1 0.05, "),
        ({"cat": 0.5}, False, "The threshold is 0.5, because no evaluation of this checkpoint tells a better one"),
    ],
)
def test_thresholds_that_nobody_gave_are_said(by_class: dict[str, float], evaluated: bool, start: str) -> None:
    sentence = thresholds_sentence(by_class, evaluated=evaluated)
    assert sentence.startswith(start)
    assert (" and 2 more" in sentence) == (len(by_class) > 10)


def test_detections_know_all_classes_and_the_best_score_below_the_threshold(detector: Detector, folder: Path) -> None:
    everything = detector.predict(folder / "0.png", threshold=0)
    nothing = detector.predict(folder / "0.png", threshold=1)
    assert len(nothing) == 0
    assert nothing.classes == ("cat", "dog")
    assert nothing.best_score == everything.scores[0]


def test_detections_that_are_not_finite_are_counted_and_said(
    checkpoint: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = Detector.from_pretrained(checkpoint)
    state = jax.tree.map(lambda leaf: jax.numpy.full_like(leaf, jax.numpy.nan), detector._state)
    detector._state = state
    found = detector.predict(folder / "0.png", threshold=0)
    assert len(found) == 0
    assert found.not_finite == MODEL.num_patterns * MODEL.num_anchors * 2
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith(f"{found.not_finite} detections were left out because their score or box is not finite")


def test_the_first_image_of_a_shape_that_training_never_showed_is_named_once(
    checkpoint: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = Detector(Detector.from_pretrained(checkpoint).model, eval_size=32, max_size=64, shown_ratios=(0.67,))
    detector.predict(folder / "0.png")
    assert not caplog.records
    detector.predict(folder)
    detector.predict(folder / "1.png")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("An image of 30x30 pixels has a shape that the detector's training")


def test_tiles_of_a_shape_that_training_never_showed_are_named(
    checkpoint: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detector = Detector(Detector.from_pretrained(checkpoint).model, eval_size=32, max_size=64, shown_ratios=(0.67,))
    detector.predict(folder / "0.png", tiles=32)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("A tile of 32x32 pixels")


@pytest.mark.parametrize(
    ("best", "recommended", "sentence"),
    [
        (0.4239, None, "The best score is 0.423, and the threshold is 0.5: --threshold 0.423 shows that detection."),
        (0.4, 0.35, "shows that detection, and the last evaluation of the run recommends --threshold 0.35 "),
    ],
)
def test_a_threshold_that_helps_is_said(best: float, recommended: float | None, sentence: str) -> None:
    assert sentence in nothing_found_sentence(0.5, best, recommended)


def test_a_picture_is_seen_as_its_exif_data_turns_it(detector: Detector, folder: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    with Image.open(folder / "0.png") as picture:
        picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    turned, upright = (detector.predict(path, threshold=0) for path in (tmp_path / "turned.png", folder / "0.png"))
    assert turned.image_size == (40, 60)
    assert np.array_equal(turned.boxes, upright.boxes)


def test_a_damaged_image_is_an_error_of_predict_and_an_outcome_of_predict_each(
    detector: Detector, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_text("hello")
    images = [folder / "0.png", tmp_path / "bad.png", tmp_path / "missing.png", folder / "1.png"]
    outcomes = dict(detector.predict_each(images, 0.1))
    assert [isinstance(outcomes[i], UserError) for i in range(4)] == [False, True, True, False]
    with pytest.raises(UserError, match=r"bad\.png is not an image"):
        detector.predict(images)


@pytest.mark.parametrize(("threshold", "message"), [(50, r"did you mean 0\.5"), (-1, "between 0 and 1")])
def test_a_threshold_beyond_scores_is_refused(detector: Detector, threshold: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        detector.predict([], threshold=threshold)


def test_no_images_give_no_detections(detector: Detector) -> None:
    assert detector.predict([]) == []


def test_an_official_file_is_loaded_when_the_caller_says_whether_it_is_dc5(tmp_path: Path) -> None:
    resnet = dataclasses.replace(MODEL, backbone="resnet50", num_classes=91, decoder_layers=1)
    save_detector(tmp_path / "resnet", resnet, None)
    export_weights(tmp_path / "resnet", tmp_path / "full.pth")
    state_dict, *_ = read_state_dict(tmp_path / "full.pth")
    write_torch_file(tmp_path / "bare.pth", {"model": state_dict})
    with pytest.raises(
        UserError, match=r"bare\.pth does not say .* --no-dilation \(C5\) .* dilation=False \(C5\) or True \(DC5\)"
    ):
        Detector.from_pretrained(tmp_path / "bare.pth")
    detector = Detector.from_pretrained(tmp_path / "bare.pth", dilation=True, dtype="bfloat16")
    assert detector.names[1] == "person"
    assert len(detector.names) == 80
    assert detector.model.config.dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "float16"}, "dtype must be one of"),
        ({"names": {2: "c"}}, "class output 2"),
        ({"names": ["a", "b", "c"]}, r"list of 3, but the detector has 2 class outputs, .* names=\{1: 'person'"),
        ({"names": {"0": "a"}}, r"names has \['0'\] as class outputs: give whole numbers"),
        ({"names": {0: None}}, "names has the name None: give text"),
        ({"names": "ab"}, "names cannot be a str"),
        ({"names": ["a"]}, "list of 1, but the detector has 2 class outputs, from 0 to 1: give {output: name}"),
        ({"max_detections": -3}, r"eval\.max_detections' must be at least 1, not -3"),
        ({"max_detections": 0}, r"eval\.max_detections' must be at least 1, not 0"),
        ({"eval_size": 0}, r"augment\.eval_size' must be at least 1, not 0"),
        ({"dilation": True}, "knows its dilation"),
        ({"annotations": "a.json"}, "knows its annotations"),
    ],
)
def test_wrong_options_are_refused(checkpoint: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Detector.from_pretrained(checkpoint, **options)


def test_weights_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing at .*nowhere"):
        Detector.from_pretrained(tmp_path / "nowhere")


def test_a_list_of_names_has_one_for_each_output(checkpoint: Path) -> None:
    assert Detector.from_pretrained(checkpoint, names=["fox", "wolf"]).names == {0: "fox", 1: "wolf"}


def test_names_may_be_given(checkpoint: Path) -> None:
    assert Detector.from_pretrained(checkpoint, names={1: "wolf"}).names == {1: "wolf"}


@pytest.mark.processes
def test_the_script_draws_and_writes_what_it_can_read(
    checkpoint: Path, folder: Path, tmp_path: Path, script_environment: dict[str, str]
) -> None:
    (tmp_path / "bad.jpg").write_text("hello")
    images = [folder / "0.png", folder / "2.png"]
    arguments = [*images, images[0], tmp_path / "bad.jpg", "--output", tmp_path / "out", "--threshold", "0.1"]
    command = ["scripts/predict.py", *map(str, arguments), "--checkpoint", str(checkpoint)]
    process = start(command, Path.cwd(), script_environment)
    output, errors = process.communicate()
    assert process.wait() == 0, errors
    assert "bad.jpg is not an image" in errors
    assert output.strip().endswith("; 1 could not be read")
    assert "The threshold is" not in output
    written = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(image["file_name"]).name for image in written["images"]] == ["0.png", "2.png"]
    assert {entry["category_id"] for entry in written["annotations"]} <= {3, 7}
    assert written["categories"] == [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"0.png", "2.png"}


def test_the_command_ends_with_the_mistake_if_it_can_read_no_image(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "prepare_computation", lambda: None)  # It would change the settings of this process.
    (tmp_path / "bad.jpg").write_text("hello")
    arguments = [str(tmp_path / "bad.jpg"), "--output", str(tmp_path / "none"), "--checkpoint", str(checkpoint)]
    assert main(["predict", *arguments]) == 1
    printed = capsys.readouterr()
    assert "Error: Image file" in printed.err.splitlines()[-1]
    assert "The threshold is 0.5, because no evaluation" in printed.out


def test_detectors_of_one_architecture_share_what_is_compiled(
    detector: Detector, checkpoint: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector.predict(folder / "0.png")
    monkeypatch.setattr(network, "top_detections", None)  # so that it cannot be traced again
    Detector.from_pretrained(checkpoint).predict(folder / "2.png")


def test_a_saved_detector_detects_the_same(checkpoint: Path, tmp_path: Path) -> None:
    detector = Detector.from_pretrained(checkpoint, names={1: "wolf"})
    detector.thresholds = Thresholds(0.25, {3: 0.4})
    detector.augment = dataclasses.replace(detector.augment, shown_ratios=(0.5, 1.5))
    detector.save_pretrained(tmp_path / "saved", data="animals")
    back = Detector.from_pretrained(tmp_path / "saved")
    assert back.thresholds == detector.thresholds
    assert back.augment == detector.augment
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    mine, theirs = detector.predict(image, threshold=0), back.predict(image, threshold=0)
    assert back.names == {1: "wolf"}
    assert set(theirs.category_ids.tolist()) == {7}
    np.testing.assert_array_equal(mine.boxes, theirs.boxes)


def test_the_card_of_a_detector_with_a_part_of_its_classes_names_these(checkpoint: Path, tmp_path: Path) -> None:
    names: dict[Any, str] = {np.int64(1): "wolf"}  # As numpy gives them.
    Detector.from_pretrained(checkpoint, names=names).save_pretrained(tmp_path)
    assert "- Detects 1 class: wolf" in (tmp_path / "README.md").read_text()


def test_a_detector_with_all_its_classes_is_saved_with_all(checkpoint: Path, tmp_path: Path) -> None:
    Detector.from_pretrained(checkpoint, names={0: "fox", 1: "wolf"}).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["used_outputs"] is None
    assert Detector.from_pretrained(tmp_path).names == {0: "fox", 1: "wolf"}


def test_a_saved_detector_without_names_keeps_how_its_outputs_are_numbered(checkpoint: Path, tmp_path: Path) -> None:
    detector = Detector(Detector.from_pretrained(checkpoint).model)
    detector.labels = "raw"
    detector.save_pretrained(tmp_path)
    assert Detector.from_pretrained(tmp_path).labels == "raw"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose newest checkpoint, of step 20, is newer than its evaluation; that of step 10 has its own."""
    for step in (10, 20):
        save_detector(tmp_path / "run" / "checkpoints" / str(step))
    scores = json.dumps({"step": 10, "AP": 0.25, "threshold": {"score": 0.3}})
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoints" / "10"):
        (folder / "evaluation.json").write_text(scores)
    return tmp_path / "run"


@pytest.mark.parametrize("step", [10, 20])
def test_python_and_the_command_save_the_same_folder(run: Path, tmp_path: Path, step: int) -> None:
    checkpoint = run / "checkpoints" / str(step)
    python, command = tmp_path / "python" / "saved", tmp_path / "command" / "saved"
    Detector.from_pretrained(checkpoint).save_pretrained(python)
    assert main(["convert", "export", str(checkpoint), str(command), "--form", "pretrained"]) == 0
    for name in ("config.json", "README.md", "model.safetensors"):
        assert (python / name).read_bytes() == (command / name).read_bytes()
    assert json.loads((python / "config.json").read_text())["score_thresholds"]["overall"] == 0.3
    assert ("| AP |" in (python / "README.md").read_text()) == (step == 10)


@pytest.mark.parametrize("change", [{"eval_size": 48}, {"dtype": "bfloat16"}, {"names": {1: "wolf"}}])
def test_the_card_has_no_scores_of_other_settings(run: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    Detector.from_pretrained(run / "checkpoints" / "10", **change).save_pretrained(tmp_path / "saved")
    assert "| AP |" not in (tmp_path / "saved" / "README.md").read_text()


def test_a_card_says_the_scores_that_are_given(run: Path, tmp_path: Path) -> None:
    Detector.from_pretrained(run / "checkpoints" / "10").save_pretrained(tmp_path / "saved", scores={"AP": 0.75})
    assert "| 0.750 |" in (tmp_path / "saved" / "README.md").read_text()
