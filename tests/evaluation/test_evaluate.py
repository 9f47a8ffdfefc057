import contextlib
import dataclasses
import io
import itertools
import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchordetr_jax.config import AugmentConfig, Config, DataConfig, EvalConfig, MeshConfig, ModelConfig
from anchordetr_jax.data.loader import evaluation_plan
from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.model.anchor_detr import Predictions
from tests.tolerances import CLOSE32, EXACT64, SCORE32

SIZES = ((40, 64), (64, 40), (48, 48), (33, 71), (90, 60))  # (height, width)
MANY_SIZES = SIZES * 3 + SIZES[:2]
CATEGORIES = [{"id": 2, "name": "cat"}, {"id": 5, "name": "dog"}]


class Moments(nnx.Module):
    """A detector with the interface of AnchorDETR that compiles at once: it sees the mean and spread of colours."""

    def __init__(self, seed=0, num_queries=8, num_classes=2):
        self.config = ModelConfig(num_classes=num_classes)
        self.shape = (num_queries, num_classes + 4)
        noise = np.random.default_rng(seed).normal(0, 1, (7, num_queries * (num_classes + 4)))
        self.kernel = nnx.Param(jnp.asarray(noise, jnp.float32))

    def __call__(self, images, image_sizes):
        rows, columns = (jnp.arange(n)[None] < image_sizes[:, axis, None] for axis, n in enumerate(images.shape[1:3]))
        valid = (rows[:, :, None] & columns[:, None, :])[..., None]
        pixels = jnp.where(valid, images / jnp.float32(255), 0)
        mean = pixels.sum((1, 2)) / valid.sum((1, 2))
        spread = (pixels**2).sum((1, 2)) / valid.sum((1, 2)) - mean**2
        features = jnp.concatenate([20 * (mean - 0.5), 100 * (spread - 1 / 12), jnp.ones_like(mean[:, :1])], axis=1)
        outputs = (features @ self.kernel[...]).reshape(1, len(images), *self.shape)
        return Predictions(outputs[..., :-4], jax.nn.sigmoid(outputs[..., -4:]))


def any_model(*arguments) -> Any:
    return Moments(*arguments)


def settings(root, **evaluation):
    return Config(
        data=DataConfig(root=str(root), num_buckets=2, shape_multiple=32),
        augment=AugmentConfig(eval_size=40, max_size=72),
        eval=EvalConfig(**{"batch_size": 2, "max_detections": 10, **evaluation}),
    )


def one_device():
    return make_mesh(MeshConfig(), jax.devices()[:1])


def run(config, model, mesh=None, journal=None):
    dataset = open_split(config.data, "val")
    return Evaluator(dataset, config, mesh or one_device()).run(model, progress=False, journal=journal)


def write_images(root, sizes):
    """A data set of images of noise without objects."""
    rng = np.random.default_rng(0)
    (root / "val2017").mkdir()
    (root / "annotations").mkdir()
    images = []
    for i, (height, width) in enumerate(sizes):
        pixels = rng.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(root / "val2017" / f"{i}.png")
        images.append({"id": 10 * (len(sizes) - i), "file_name": f"{i}.png", "height": height, "width": width})
    write_annotations(root, images, [])
    return root


@pytest.fixture
def root(tmp_path):
    return write_images(tmp_path, SIZES)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Seventeen images, and what Moments() finds in them one by one."""
    root = write_images(tmp_path_factory.mktemp("many"), MANY_SIZES)
    return root, run(settings(root, batch_size=1), Moments()).results


def write_annotations(root, images, boxes):
    annotations = [
        {"id": i, "image_id": image_id, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, (image_id, category, box) in enumerate(boxes, start=1)
    ]
    contents = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(contents))


@pytest.fixture
def scored_root(root):
    """The same, with objects where Moments() has its first, third and last detection of every image."""
    path = root / "annotations" / "instances_val2017.json"
    images = json.loads(path.read_text())["images"]
    results = run(settings(root), Moments()).results
    picked = [entry for i, entry in enumerate(results) if i % 10 in (0, 2, 9) and min(entry["bbox"][2:]) > 1]
    write_annotations(root, images, [(e["image_id"], e["category_id"], [x + 0.4 for x in e["bbox"]]) for e in picked])
    return root


def assert_same(results, expected, tolerance):
    """Entry for entry; boxes in pixels are up to a hundred times larger than what `tolerance` speaks of."""
    assert [(e["image_id"], e["category_id"]) for e in results] == [(e["image_id"], e["category_id"]) for e in expected]
    for ours, theirs in zip(results, expected, strict=True):
        np.testing.assert_allclose(ours["score"], theirs["score"], rtol=0, atol=tolerance + 1e-8)
        np.testing.assert_allclose(ours["bbox"], theirs["bbox"], rtol=0, atol=100 * tolerance + 1e-3)


def test_every_image_gets_its_detections(root):
    result = run(settings(root), Moments())
    ids, counts = np.unique([entry["image_id"] for entry in result.results], return_counts=True)
    assert ids.tolist() == [10, 20, 30, 40, 50]
    assert counts.tolist() == [10] * 5
    assert result.num_images == 5
    assert result.unreadable == ()


def test_scores_equal_pycocotools_on_the_written_results(scored_root, tmp_path):
    result = run(settings(scored_root), Moments())
    (tmp_path / "results.json").write_text(json.dumps(result.results))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(scored_root / "annotations" / "instances_val2017.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert list(result.metrics.values()) == evaluation.stats.tolist()
    assert 0.1 < result.metrics["AP"] < 1


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("id", [1, 2, 3] * 5),  # numbered from 1 in each image
        ("id", [None] * 15),
        ("id", ["text"] * 15),
        ("id", list(range(15))),
        ("id", [-1, -2, 10**12] + [7.5] * 12),
        ("area", [None] * 15),
        ("area", ["wide"] * 15),
        ("iscrowd", [None] * 15),
        ("iscrowd", ["0", 0.0, False] * 5),
    ],
)
def test_odd_values_in_annotations_give_the_scores_of_the_repaired_file(scored_root, field, values):
    expected = run(settings(scored_root), Moments()).metrics
    path = scored_root / "annotations" / "instances_val2017.json"
    contents = json.loads(path.read_text())
    for record, value in zip(contents["annotations"], itertools.cycle(values)):
        record[field] = value
    path.write_text(json.dumps(contents))
    assert run(settings(scored_root), Moments()).metrics == expected


def test_test_images_that_have_annotations_are_scored(scored_root):
    config = settings(scored_root)
    data = dataclasses.replace(
        config.data, test_images="val2017", test_annotations="annotations/instances_val2017.json"
    )
    result = Evaluator(open_split(data, "test"), config, one_device()).run(any_model(), progress=False)
    assert result.metrics == run(config, Moments()).metrics
    assert result.metrics["AP"] > 0


@pytest.mark.parametrize("batch_size", [2, 7, 16])
def test_batch_size_does_not_change_detections(many, batch_size):
    root, expected = many
    assert_same(run(settings(root, batch_size=batch_size), Moments()).results, expected, SCORE32)


def test_batches_of_equal_memory_find_the_same_and_hold_more_of_small_images(many):
    root, expected = many
    config = settings(root, batch_size=2, equal_memory=True)
    assert_same(run(config, Moments()).results, expected, SCORE32)
    sizes = {
        batch.bucket: len(batch.rows)
        for batch in evaluation_plan(open_split(config.data, "val"), config, multiple=1, equal_memory=True)
    }
    (_, smaller), (largest, fewest) = sorted(sizes.items(), key=lambda item: item[0][0] * item[0][1])
    assert fewest == 2 < smaller
    assert all(height * width * size <= 2 * largest[0] * largest[1] for (height, width), size in sizes.items())


@pytest.mark.parametrize("num_buckets", [1, 5])
def test_buckets_do_not_change_detections(root, num_buckets):
    config = settings(root)
    changed = dataclasses.replace(config, data=dataclasses.replace(config.data, num_buckets=num_buckets))
    assert_same(run(changed, Moments()).results, run(config, Moments()).results, CLOSE32)


def test_the_whole_detector_answers_the_same_in_any_batch(root, make_tiny_detector, x64):
    model = make_tiny_detector("float64")
    one_shape = DataConfig(root=str(root), num_buckets=1, shape_multiple=8)
    alone = dataclasses.replace(settings(root, batch_size=1), data=one_shape)
    together = dataclasses.replace(settings(root, batch_size=5), data=dataclasses.replace(one_shape, shape_multiple=96))
    expected = run(alone, model).results
    assert len({entry["score"] for entry in expected}) == 50  # so answers differ, and a mix-up would show
    assert_same(run(together, model).results, expected, EXACT64)


@pytest.mark.parametrize("devices", [2, 8])
def test_the_number_of_devices_does_not_change_detections(many, devices):
    root, expected = many
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:devices])
    assert_same(run(settings(root, batch_size=8), Moments(), mesh).results, expected, SCORE32)


def test_images_without_annotations_are_detected_on_but_not_scored(root):
    config = settings(root)
    path = root / "annotations" / "instances_val2017.json"
    contents = json.loads(path.read_text())
    del contents["annotations"]
    (root / "annotations" / "info.json").write_text(json.dumps(contents))
    data = dataclasses.replace(config.data, test_images="val2017", test_annotations="annotations/info.json")
    result = Evaluator(open_split(data, "test"), config, one_device()).run(any_model(), progress=False)
    assert result.results == run(config, Moments()).results
    assert (result.scores, result.metrics) == (None, {})


def test_the_batches_are_described(root):
    evaluator = Evaluator(open_split(settings(root).data, "val"), settings(root), one_device())
    assert re.fullmatch(r"5 images in \d batches of 2 shapes \(.*\), \d+\.\d% padding", evaluator.describe())


def test_each_shape_is_compiled_once_for_all_models(root):
    config = settings(root)
    evaluator = Evaluator(open_split(config.data, "val"), config, one_device())
    first = evaluator.run(any_model(0), progress=False)
    second = evaluator.run(any_model(1), progress=False)
    assert first.compilations == second.compilations == 2
    assert first.results != second.results


def test_an_unreadable_image_is_named_with_the_reason_and_counts_as_empty(scored_root, caplog):
    whole = run(settings(scored_root), Moments())
    damaged = scored_root / "val2017" / "2.png"
    damaged.write_bytes(damaged.read_bytes()[:300])
    config = settings(scored_root)
    result = Evaluator(open_split(config.data, "val"), config, one_device()).run(any_model(), progress=True)
    (problem,) = result.unreadable
    assert problem.startswith(f"Image file {damaged} is damaged")
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("1 of 5 images could not be read.")
    assert problem in message
    assert_same(result.results, [entry for entry in whole.results if entry["image_id"] != 30], CLOSE32)
    assert result.scores is not None
    assert result.scores.num_images == 5
    assert result.metrics["AR100"] < whole.metrics["AR100"]


def test_a_missing_image_is_named_too(root):
    (root / "val2017" / "0.png").unlink()
    (problem,) = run(settings(root), Moments()).unreadable
    assert str(root / "val2017" / "0.png") in problem


def test_without_any_readable_image_there_is_an_error_and_no_score(scored_root):
    config = settings(scored_root)
    evaluator = Evaluator(open_split(config.data, "val"), config, one_device())
    for path in (scored_root / "val2017").iterdir():
        path.write_bytes(path.read_bytes()[:300])  # The header is sound, the pixels are not.
    message = r"^None of the 5 images of .*instances_val2017\.json can be read\. The first one: Image file .*4\.png"
    with pytest.raises(UserError, match=message):
        run(config, Moments())  # Before anything is computed.
    with pytest.raises(UserError, match=message):
        evaluator.run(any_model(), progress=False)


def test_a_warning_is_given_once_per_evaluator(scored_root, caplog):
    (scored_root / "val2017" / "0.png").unlink()
    config = settings(scored_root)
    evaluator = Evaluator(open_split(config.data, "val"), config, one_device())
    for _ in range(2):
        evaluator.run(any_model(), progress=False)
    assert len(caplog.records) == 1


def test_images_of_shapes_that_training_never_showed_are_counted(scored_root, caplog):
    config = settings(scored_root)
    shown = dataclasses.replace(config, augment=dataclasses.replace(config.augment, shown_ratios=(100.0,)))
    run(config, any_model())
    assert not caplog.records
    images = run(shown, any_model()).num_images
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"{images} of {images} images have shapes that the detector's training hardly or never showed" in message


def test_detections_that_are_not_finite_are_counted_and_left_out(scored_root):
    model = Moments()
    model.kernel[...] = jnp.full_like(model.kernel[...], jnp.nan)
    result = run(settings(scored_root), model)
    assert (result.results, result.not_finite) == ([], 50)
    assert result.metrics["AP"] == 0


def test_a_model_with_too_few_outputs_is_refused(root):
    with pytest.raises(UserError, match="1 class outputs"):
        run(settings(root), Moments(num_classes=1))
