"""The same photographs from a COCO folder and from a prepared TFDS data set."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from anchordetr_jax.config import AugmentConfig, Config, DataConfig, EvalConfig
from anchordetr_jax.data.shapes import write_shapes_dataset
from anchordetr_jax.data.sources.opening import open_source
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.report import prediction_examples, worst_examples
from tests.data.sources.prepared import prepare
from tests.evaluation.test_evaluate import any_model, one_device


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    """By source: data set and evaluation of 12 drawn photographs, whose objects are where a detector sees some."""
    root, data_dir = (tmp_path_factory.mktemp(name) for name in ("shapes", "tensorflow_datasets"))
    annotations = root / "annotations" / "instances_val2017.json"
    write_shapes_dataset(root, train_images=1, val_images=12)
    coco = DataConfig(root=str(root), num_buckets=2)
    tfds = dataclasses.replace(coco, source="tfds", root=str(data_dir), tfds_name="photos/2017")
    categories = open_source(coco, "val").categories

    def evaluate(data):
        augment = AugmentConfig(eval_size=64, max_size=96)
        config = Config(data=data, augment=augment, eval=EvalConfig(batch_size=3, max_detections=50))
        dataset = open_source(data, "val", categories)
        return dataset, Evaluator(dataset, config, one_device()).run(
            any_model(0, 40, categories.num_labels), progress=False
        )

    contents = json.loads(annotations.read_text())
    some = evaluate(coco)[1].results[::3]
    contents["annotations"] += [
        box for number, entry in enumerate(some, start=10**6) if (box := near(entry, contents["images"], number))
    ]
    annotations.write_text(json.dumps(contents))
    prepare(data_dir, {"validation": root / "val2017"}, {"validation": annotations})
    return {"coco": evaluate(coco), "tfds": evaluate(tfds)}


def near(entry, images, number):
    """An object where something was detected, if most of that is inside its image."""
    image = next(image for image in images if image["id"] == entry["image_id"])
    x, y, width, height = entry["bbox"]
    left, top = max(x, 0), max(y, 0)
    right, bottom = min(x + width, image["width"]), min(y + height, image["height"])
    box = [round(value, 2) for value in (left, top, right - left, bottom - top)]
    area = int(box[2] * box[3])
    ids = {"id": number, "image_id": entry["image_id"], "category_id": entry["category_id"]}
    return ids | {"bbox": box, "area": area, "iscrowd": 0} if area > max(9, 0.6 * width * height) else None


def test_both_sources_give_the_same_detections_and_the_same_numbers(evaluated):
    coco, tfds = (evaluated[source][1] for source in ("coco", "tfds"))
    assert coco.results == tfds.results
    assert coco.metrics == tfds.metrics
    assert 0 < coco.metrics["AP"] < 1  # so that the numbers tell something
    assert coco.scores.per_class == tfds.scores.per_class
    assert coco.unreadable == tfds.unreadable == ()


def test_both_sources_give_the_same_pictures_to_a_report(evaluated):
    examples: Any
    for examples in (prediction_examples, worst_examples):
        of_coco, of_tfds = (examples(dataset, result.results, 4) for dataset, result in evaluated.values())
        assert len(of_coco) == len(of_tfds) == 4
        for ours, theirs in zip(of_coco, of_tfds, strict=True):
            np.testing.assert_array_equal(ours.image, theirs.image)
            assert ours.title == theirs.title
