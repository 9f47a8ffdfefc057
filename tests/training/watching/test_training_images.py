"""The picture of what a run trains on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.config import AugmentConfig, Config, DataConfig, TrainConfig
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.pictures.boxes import class_colour
from anchordetr_jax.training.watching import training_images
from anchordetr_jax.training.watching.training_images import (
    as_the_step_sees_it,
    draw_training_image,
    write_training_images,
)
from tests.data.coco_folder import open_coco


@pytest.fixture
def data(tmp_path: Path) -> TrainingBatches:
    """Three images with one object each, at most two in a batch."""
    for i in range(3):
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / f"{i}.png")
    content = {
        "images": [{"id": i + 1, "file_name": f"{i}.png", "width": 60, "height": 40} for i in range(3)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": [10, 5, 20, 20]} for i in (1, 2, 3)],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    augment = AugmentConfig(train_sizes=(420,), max_size=630, crop_probability=0.0, flip_probability=0.0)
    config = Config(augment=augment, data=DataConfig(num_buckets=1), train=TrainConfig(batch_size=1))
    return TrainingBatches(open_coco(tmp_path, tmp_path / "a.json", split="train"), config)


def test_boxes_are_drawn_where_training_sees_them(data: TrainingBatches) -> None:
    _, batch = data.load(0)
    picture = np.asarray(draw_training_image(batch, 0, data.categories))
    assert picture.shape == (420, 630, 3)
    rows, columns = np.nonzero((picture == class_colour(0)).all(axis=-1))
    # The object is a sixth to a half of the width, and an eighth to five eighths of the height.
    assert (columns.min(), columns.max()) == pytest.approx((105, 315), abs=4)
    right = columns > 300  # The tag with the name is at the left.
    assert (rows[right].min(), rows.max()) == pytest.approx((52, 262), abs=4)


def test_the_picture_has_the_images_of_the_first_steps(data: TrainingBatches, tmp_path: Path) -> None:
    write_training_images(tmp_path / "two.png", data, count=2)
    write_training_images(tmp_path / "all.png", data, count=99)
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "all.png") as all_images:
        assert two.width < all_images.width  # Three columns.


def test_the_picture_shows_the_jitter_of_the_device(data: TrainingBatches) -> None:
    step, batch = data.load(1)
    batch = batch._replace(images=np.full_like(batch.images, 100))
    assert as_the_step_sees_it(step, batch, data) is batch
    augment = dataclasses.replace(data.config.augment, brightness=0.5)
    data.config = dataclasses.replace(data.config, augment=augment)
    seen = as_the_step_sees_it(step, batch, data).images[0, :420, :630]
    assert len(np.unique(seen)) == 1
    assert seen[0, 0, 0] != 100


def test_an_error_is_logged_and_does_not_end_the_run(
    data: TrainingBatches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(training_images, "picture_grid", fail)
    write_training_images(tmp_path / "picture.png", data)
    assert "could not be drawn: disk full" in caplog.text
