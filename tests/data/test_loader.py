import dataclasses
import itertools
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.config import AugmentConfig, Config, DataConfig, EvalConfig, TrainConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.loader import (
    ReadAhead,
    TrainingBatches,
    eval_batches,
    evaluation_plan,
    padded_boxes,
    reading_problem,
)
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from anchordetr_jax.data.sources.annotated import AnnotatedImages
from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.data.transforms import apply_draw, relative_boxes
from anchordetr_jax.errors import UserError
from tests.data.coco_folder import open_coco

AUGMENT = AugmentConfig(
    train_sizes=(32, 40), max_size=64, crop_resize_sizes=(36, 44), crop_min=20, crop_max=36, eval_size=40
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shapes")
    config = ShapesConfig(short_side=(32, 48), max_side=64, max_objects=6)
    write_shapes_dataset(folder, train_images=22, val_images=11, config=config)
    return folder


def settings(root: Path, **data: Any) -> Config:
    return Config(
        data=DataConfig(root=str(root), num_buckets=3, shape_multiple=8, **data),
        augment=AUGMENT,
        train=TrainConfig(batch_size=4, epochs=3, seed=1),
        eval=EvalConfig(batch_size=4),
    )


def training(root: Path, process_index: int = 0, process_count: int = 1, **data: Any) -> TrainingBatches:
    config = settings(root, **data)
    return TrainingBatches(
        open_split(config.data, "train"), config, process_index=process_index, process_count=process_count
    )


@pytest.fixture
def damaged(root: Path, tmp_path: Path) -> Path:
    """The data set with one training and one validation image damaged, one each missing."""
    for split in ("train2017", "val2017"):
        (tmp_path / split).mkdir()
        for index, file in enumerate(sorted((root / split).iterdir())):
            if index != 2:
                (tmp_path / split / file.name).write_bytes(file.read_bytes()[: 300 if index == 5 else None])
    (tmp_path / "annotations").symlink_to(root / "annotations")
    return tmp_path


def equal(one: Batch, other: Batch) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_training_ends_with_the_last_epoch(root: Path) -> None:
    batches = training(root)
    assert batches.epochs.steps_before(3) == 3 * 22 // 4
    assert [step for step, _ in batches.batches()] == list(range(16))


def test_every_step_has_the_planned_images(root: Path) -> None:
    batches = training(root)
    for step, batch in batches.batches(0, 8):
        planned = batches.plan(batches.epochs.epoch_of_step(step)).batch(step)
        assert (batch.rows == planned.rows).all()
        assert batch.images.shape == (4, *planned.bucket, 3)
        assert (batch.image_sizes == planned.draws.size).all()


def test_starting_at_a_step_gives_the_same_batches_as_arriving_there(root: Path) -> None:
    arrived = dict(training(root).batches(0, 12))
    started = dict(training(root).batches(7, 12))
    assert list(started) == [7, 8, 9, 10, 11]
    assert all(equal(started[step], arrived[step]) for step in started)


def test_images_with_rare_classes_come_more_often_wherever_the_run_continues(root: Path) -> None:
    batches = training(root, repeat_threshold=0.9)
    assert batches.epochs.images > 22
    assert f"an epoch, which then has {batches.epochs.images} images" in batches.describe()
    arrived = dict(batches.batches(0, 12))
    started = dict(training(root, repeat_threshold=0.9).batches(9, 12))
    assert all(equal(started[step], arrived[step]) for step in started)
    assert training(root).epochs.images == 22


def test_an_image_has_its_drawn_pixels_and_boxes_and_nothing_else(root: Path) -> None:
    batches = training(root)
    step, batch = next(batches.batches(3, 4))
    planned = batches.plan(0).batch(step)
    for place, row in enumerate(batch.rows.tolist()):
        source = batches.source
        draw = planned.draws[place]
        pixels, boxes, labels = apply_draw(source.open_image(row), source.boxes(row), source.labels(row), draw)
        height, width, count = *draw.size, len(boxes)
        assert (batch.images[place, :height, :width] == pixels).all()
        assert not batch.images[place, height:].any()
        assert not batch.images[place, :, width:].any()
        assert batch.num_boxes[place] == count
        assert (batch.boxes[place, :count] == relative_boxes(boxes, draw.size)).all()
        assert (batch.labels[place, :count] == labels).all()
        assert not batch.boxes[place, count:].any()
        assert (batch.original_sizes[place] == source.sizes[row]).all()
    assert batch.valid.all()


def test_a_batch_has_the_promised_types(root: Path) -> None:
    _, batch = next(training(root).batches())
    types = {name: str(value.dtype) for name, value in batch._asdict().items()}
    assert types == {
        "images": "uint8",
        "image_sizes": "int32",
        "boxes": "float32",
        "labels": "int32",
        "num_boxes": "int32",
        "rows": "int32",
        "valid": "bool",
        "original_sizes": "int32",
    }


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_the_processes_make_up_the_batch(root: Path, processes: int) -> None:
    whole = training(root).load(5)[1]
    shares = [training(root, index, processes).load(5)[1] for index in range(processes)]
    assert equal(Batch(*(np.concatenate(parts) for parts in zip(*shares, strict=True))), whole)


def test_a_batch_that_the_processes_cannot_divide_is_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"4 images cannot be divided among 3 processes; set train\.batch_size"):
        training(root, 0, 3)


def test_training_marks_an_image_that_cannot_be_read_and_goes_on(damaged: Path) -> None:
    seen = []
    for _, batch in training(damaged).batches(0, 5):
        bad = ~batch.valid
        seen += batch.rows[bad].tolist()
        assert not batch.images[bad].any()
        assert not batch.num_boxes[bad].any()
        assert (batch.image_sizes[bad] == batch.images.shape[1:3]).all()
    assert set(seen) <= {2, 5}
    assert len(seen) >= 1


def test_why_an_image_cannot_be_read_is_told(damaged: Path) -> None:
    source = training(damaged).source
    assert "000000000003.jpg does not exist" in str(reading_problem(source, 2))
    assert "000000000006.jpg is" in str(reading_problem(source, 5))
    assert reading_problem(source, 0) is None


def test_evaluation_has_every_image_once_and_marks_fillers_and_damage(damaged: Path) -> None:
    config = settings(damaged)
    batches = list(eval_batches(open_split(config.data, "val"), config))
    rows, valid = (np.concatenate([getattr(batch, name) for batch in batches]) for name in ("rows", "valid"))
    assert sorted(rows[rows >= 0].tolist()) == list(range(11))
    assert sorted(rows[~valid & (rows >= 0)].tolist()) == [2, 5]
    assert not valid[rows < 0].any()
    assert all(len(batch.rows) == 4 for batch in batches)


def test_evaluation_can_go_on_in_the_middle(root: Path) -> None:
    config = settings(root)
    source = open_split(config.data, "val")
    whole, rest = list(eval_batches(source, config)), list(eval_batches(source, config, start=2))
    assert len(whole) == len(evaluation_plan(source, config)) > 2
    assert len(rest) == len(whole) - 2
    assert all(equal(one, other) for one, other in zip(rest, whole[2:], strict=True))


def test_the_processes_share_every_evaluation_batch(root: Path) -> None:
    config = settings(root)
    source = open_split(config.data, "val")
    shares = [list(eval_batches(source, config, process_index=index, process_count=2)) for index in (0, 1)]
    whole = list(eval_batches(source, config))
    for first, second, batch in zip(*shares, whole, strict=True):
        assert (np.concatenate([first.rows, second.rows]) == batch.rows).all()


def crowded(tmp_path: Path, boxes: int) -> AnnotatedImages:
    Image.new("RGB", (20, 20)).save(tmp_path / "full.png")
    one = {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "full.png", "width": 20, "height": 20}],
        "annotations": [{"id": index + 1, **one} for index in range(boxes)],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return open_coco(tmp_path, tmp_path / "instances.json")


@pytest.mark.parametrize(("boxes", "padded"), [(0, 4), (1, 4), (4, 4), (5, 8)])
def test_boxes_are_padded_to_what_the_fullest_image_needs(tmp_path: Path, boxes: int, padded: int) -> None:
    assert padded_boxes(crowded(tmp_path, boxes), DataConfig()) == padded


def test_a_set_number_of_boxes_is_kept(tmp_path: Path) -> None:
    assert padded_boxes(crowded(tmp_path, 5), DataConfig(max_boxes=5)) == 5


def test_an_image_with_more_boxes_than_set_is_named_and_not_cut(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"full\.png has 5 boxes but data\.max_boxes is 4; set it to at least 5"):
        padded_boxes(crowded(tmp_path, 5), DataConfig(max_boxes=4))


def test_a_training_set_is_described(root: Path) -> None:
    text = training(root).describe()
    assert text.startswith("22 images with ")
    assert "% padding" in text


def test_closing_stops_reading_ahead(root: Path) -> None:
    batches = training(root, prefetch=4).batches()
    next(batches)
    assert len(batches) == 15
    batches.close()
    batches.close()
    assert next(batches, None) is None
    assert len(batches) == 0


def test_elements_come_in_order_while_others_are_prepared() -> None:
    started: list[int] = []
    both = threading.Event()

    def load(number: int) -> int:
        started.append(number)
        if len(started) >= 2:
            both.set()
        assert both.wait(timeout=30)  # the first is ready only when the second is being prepared
        return number

    assert list(ReadAhead(load, 5, 9, DataConfig(prefetch=2))) == [5, 6, 7, 8]


def test_nothing_is_read_beyond_the_end() -> None:
    asked: list[int] = []

    def load(number: int) -> int:
        asked.append(number)
        return number

    assert list(ReadAhead(load, 3, 3, DataConfig())) == []
    assert list(ReadAhead(load, 0, 2, DataConfig(prefetch=8))) == [0, 1]
    assert sorted(asked) == [0, 1]


def test_an_error_while_reading_is_raised_where_the_batch_is_asked_for() -> None:
    def load(number: int) -> int:
        if number == 1:
            raise UserError("no more")
        return number

    elements = ReadAhead(load, 0, 3, DataConfig())
    assert next(elements) == 0
    with pytest.raises(UserError, match="no more"):
        next(elements)
    elements.close()


@pytest.mark.processes
def test_worker_processes_read_the_same_batches_as_threads(root: Path) -> None:
    by_threads = training(root).batches(4, 9)
    by_processes = training(root, num_workers=2).batches(4, 9)
    for (step, one), (same_step, other) in itertools.zip_longest(by_threads, by_processes):
        assert step == same_step
        assert equal(one, other)
        assert type(other.images) is np.ndarray


def test_after_a_change_of_the_batch_size_the_rest_of_the_training_is_planned(root: Path) -> None:
    """22 images make five batches of 4 per epoch, so two of three epochs remain after step 5."""
    batches = training(root)
    larger = dataclasses.replace(batches.config, train=TrainConfig(batch_size=6, epochs=3, seed=1))
    epochs = batches.epochs.continued(5, 22, 6)
    rest = list(TrainingBatches(batches.source, larger).with_epochs(epochs).batches(5))
    assert [step for step, _ in rest] == list(range(5, 5 + 2 * 22 // 6))
    assert all(len(batch.rows) == 6 for _, batch in rest)


def test_a_later_epoch_is_planned_without_the_ones_before(root: Path) -> None:
    batches = training(root)
    longer = TrainingBatches(
        batches.source, dataclasses.replace(batches.config, train=TrainConfig(batch_size=4, epochs=10**6, seed=1))
    )
    last = longer.epochs.steps_before(10**6) - 1
    assert [step for step, _ in longer.batches(last)] == [last]
