"""Augmentations beyond DETR's: boxes stay around their objects, and a plan needs the seed alone."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from anchordetr_jax.config import AugmentConfig, Config, DataConfig, TrainConfig
from anchordetr_jax.data import further, mosaic
from anchordetr_jax.data.batching import EpochPlan, plan_epoch
from anchordetr_jax.data.buckets import training_buckets
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.data.erasing import FILL, draw_rectangles, erase
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.mosaic import Labelled, compose
from anchordetr_jax.data.scale_jitter import with_scale_jitter
from anchordetr_jax.data.shape_jitter import with_shape_jitter
from anchordetr_jax.data.transforms import (
    NUM_UNIFORMS,
    Draws,
    apply_draw,
    draw_augmentations,
    evaluation_draws,
    resized_sizes,
)
from tests.data.coco_folder import open_coco

BASE = AugmentConfig(train_sizes=(24, 32), max_size=48, crop_probability=0.0, eval_size=32)
COUNT, BATCH = 30, 4
SIZES = np.random.default_rng(0).integers(20, 70, (COUNT, 2))
SEEDS = st.integers(0, 2**32 - 1)


def settings(**changes: Any) -> AugmentConfig:
    return dataclasses.replace(BASE, **changes)


def drawn(seed: int) -> Labelled:
    """Two red rectangles on black, and their boxes; labels 5 and 6."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(30, 90, 2).tolist()
    image, boxes = np.zeros((height, width, 3), np.uint8), []
    for half in (0, width // 2):
        x, y = half + rng.integers(0, width // 4), rng.integers(0, height // 2)
        w, h = rng.integers(4, width // 4), rng.integers(4, height // 2)
        image[y : y + h, x : x + w, 0] = 255
        boxes.append((x, y, x + w, y + h))
    return image, np.array(boxes, np.float32), np.array([5, 6])


def assert_boxes_hold_all_bright_pixels(image: np.ndarray, boxes: np.ndarray, *, whole: bool = True) -> None:
    """Every pixel of an object is in a box; and if they are whole, objects fill their boxes from side to side."""
    bright = image[..., 0] > 127
    inside = np.zeros_like(bright)
    for x1, y1, x2, y2 in boxes.tolist():
        # A resized edge is bright for half a pixel beyond the box at most.
        rows, columns = slice(max(int(y1 - 1), 0), int(y2 + 2)), slice(max(int(x1 - 1), 0), int(x2 + 2))
        inside[rows, columns] = True
        if whole and min(x2 - x1, y2 - y1) > 3:
            seen = bright[rows, columns]
            assert seen.any(axis=0).sum() >= x2 - x1 - 2
            assert seen.any(axis=1).sum() >= y2 - y1 - 2
    assert not (bright & ~inside).any()


def planned(epoch: int, *, seed: int = 7, **changes: Any) -> EpochPlan:
    augment = settings(**changes)
    buckets = training_buckets(SIZES, DataConfig(num_buckets=2, shape_multiple=8), augment)
    return plan_epoch(SIZES, seed=seed, epoch=epoch, epochs=Epochs(COUNT, BATCH), augment=augment, buckets=buckets)


ALL: dict[str, Any] = {
    "mosaic_probability": 0.5,
    "scale_jitter_probability": 0.5,
    "shape_jitter_probability": 0.5,
    "erase_probability": 0.5,
    "vertical_flip_probability": 0.5,
    "transpose_probability": 0.5,
}


def test_the_seed_and_the_epoch_decide_everything() -> None:
    one, same, other = planned(3, **ALL), planned(3, **ALL), planned(3, seed=8, **ALL)
    assert one.mosaics is not None
    assert same.mosaics is not None
    assert other.mosaics is not None
    for name in ("size", "crop", "erased"):
        assert (getattr(one.draws, name) == getattr(same.draws, name)).all()
        assert (getattr(one.draws, name) != getattr(other.draws, name)).any()
    assert (one.mosaics.partners == same.mosaics.partners).all()
    assert (one.mosaics.uniforms != other.mosaics.uniforms).any()


def test_half_of_the_images_are_turned_upside_down_and_nothing_else_changes() -> None:
    changes: dict[str, Any] = {"scale_jitter_probability": 0.5}
    plain, turned = planned(3, **changes), planned(3, **changes, vertical_flip_probability=0.5)
    assert not plain.draws.upside_down.any()
    assert 0.25 < turned.draws.upside_down.mean() < 0.75
    assert (plain.rows == turned.rows).all()
    for name in ("size", "flip", "crop"):
        assert (getattr(plain.draws, name) == getattr(turned.draws, name)).all()


def test_with_them_off_the_plan_has_none_of_them() -> None:
    plan = planned(0)
    assert plan.mosaics is None
    assert not plan.draws.erased.any()


def test_erasing_and_mosaics_change_neither_the_order_nor_the_sizes() -> None:
    plain, changed = planned(2), planned(2, mosaic_probability=1.0, erase_probability=1.0)
    assert (plain.rows == changed.rows).all()
    assert (plain.draws.size == changed.draws.size).all()


def test_a_batch_has_the_mosaics_of_its_own_images() -> None:
    plan = planned(1, **ALL)
    assert plan.mosaics is not None
    for index in range(plan.num_steps):
        batch = plan.batch(plan.first_step + index)
        assert batch.mosaics is not None
        assert (batch.mosaics.partners == plan.mosaics.partners[index * BATCH : (index + 1) * BATCH]).all()


def test_mosaics_end_after_their_epochs() -> None:
    shares = []
    for epoch in range(4):
        plan = planned(epoch, mosaic_probability=1.0, mosaic_epochs=2)
        assert plan.mosaics is not None
        shares.append(plan.mosaics.present.mean())
    assert shares[0] == shares[1] == 1
    assert shares[2] < 0.2  # A step may begin with images of the pass before.
    assert shares[3] == 0


@given(seed=SEEDS)
def test_a_mosaic_has_each_object_in_its_box(seed: int) -> None:
    pieces: list[Labelled | None] = [drawn(seed + i) for i in range(4)]
    image, boxes, labels = compose(pieces, (60, 80), np.random.default_rng(seed).random(mosaic.NUM_UNIFORMS), 0.5)
    assert image.shape == (60, 80, 3)
    assert len(boxes) == len(labels) <= 8
    assert (boxes >= 0).all()
    assert (boxes <= (80, 60, 80, 60)).all()
    assert_boxes_hold_all_bright_pixels(image, boxes)


def test_every_quarter_shows_its_own_image() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 90)]
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, int)
    pieces: list[Labelled | None] = [(np.full((9, 14, 3), colour, np.uint8), *nothing) for colour in colours]
    image, _, _ = compose(pieces, (20, 30), np.full(mosaic.NUM_UNIFORMS, 0.5), 0.5)
    assert [tuple(image[y, x]) for y in (0, 19) for x in (0, 29)] == colours
    assert tuple(image[9, 14]) == colours[0]
    assert tuple(image[10, 15]) == colours[3]


def test_the_quarter_of_an_image_that_cannot_be_read_is_black_and_empty() -> None:
    pieces = [None, drawn(0), drawn(1), drawn(2)]
    image, boxes, _ = compose(pieces, (40, 40), np.full(mosaic.NUM_UNIFORMS, 0.5), 0.0)
    assert not image[:20, :20].any()
    assert not ((boxes[:, 0] < 20) & (boxes[:, 1] < 20)).any()


@given(seed=SEEDS)
def test_jitter_keeps_objects_in_their_boxes_and_images_within_their_usual_size(seed: int) -> None:
    image, boxes, labels = drawn(seed)
    sizes = np.array([image.shape[:2]])
    config = settings(train_sizes=(40,), max_size=60, scale_jitter_probability=1.0)
    uniforms = np.random.default_rng(seed).random((1, 5))
    draws = with_scale_jitter(evaluation_draws(sizes, config), uniforms, sizes, config, allowed=np.array([True]))
    assert (draws.size <= resized_sizes(sizes, 40, 60)).all()
    result, its_boxes, _ = apply_draw(image, boxes, labels, draws[0])
    assert result.shape[:2] == tuple(draws.size[0])
    if draws.size.max() / max(image.shape[:2]) > 0.9:  # Thin objects fade in a smaller image.
        assert_boxes_hold_all_bright_pixels(result, its_boxes)


def jitter(factor_u: float, **changes: Any) -> Draws:
    config = settings(train_sizes=(40,), max_size=100, scale_jitter_probability=1.0, **changes)
    sizes = np.array([[20, 30]])
    uniforms = np.array([[0.0, factor_u, 0.0, 0.5, 0.5]])
    return with_scale_jitter(evaluation_draws(sizes, config), uniforms, sizes, config, allowed=np.array([True]))


def test_a_factor_below_1_makes_the_image_smaller_and_one_above_crops_it() -> None:
    small, large = jitter(0.0), jitter(0.999999)
    assert small.size.tolist() == [[4, 6]]
    assert not small.crop.any()
    assert large.pre_size.tolist() == [[80, 120]]
    assert large.size.tolist() == [[40, 60]]
    assert large.crop.tolist() == [[20, 30, 40, 60]]


@given(seed=SEEDS)
def test_shape_jitter_keeps_objects_in_their_boxes_and_their_size(seed: int) -> None:
    image, boxes, labels = drawn(seed)
    sizes = np.array([image.shape[:2]])
    config = settings(shape_jitter_probability=1.0, shape_jitter_min=0.4)
    uniforms = np.random.default_rng(seed).random((1, 5))
    whole = dataclasses.replace(evaluation_draws(sizes, config), size=sizes)
    draws = with_shape_jitter(whole, uniforms, config, allowed=np.array([True]))
    assert (draws.size <= sizes).all()
    assert (draws.size >= np.floor(0.4 * sizes)).all()
    result, its_boxes, its_labels = apply_draw(image, boxes, labels, draws[0])
    assert result.shape[:2] == tuple(draws.size[0])
    assert_boxes_hold_all_bright_pixels(result, its_boxes)
    y, x, height, width = draws.crop[0].tolist()
    inside = (boxes >= (x, y, x, y)).all(axis=1) & (boxes <= (x + width, y + height) * 2).all(axis=1)
    for label in labels[inside]:
        before, after = boxes[labels == label], its_boxes[its_labels == label]
        assert (after[:, 2:] - after[:, :2]).tolist() == (before[:, 2:] - before[:, :2]).tolist()


@given(seed=SEEDS, crop_probability=st.sampled_from([0.0, 1.0]), jitter_probability=st.sampled_from([0.0, 1.0]))
def test_shape_jitter_keeps_the_scale_of_every_other_change(
    seed: int, crop_probability: float, jitter_probability: float
) -> None:
    config = settings(
        crop_probability=crop_probability,
        crop_resize_sizes=(400, 500),
        crop_min=200,
        crop_max=450,
        train_sizes=(300, 400),
        max_size=1000,
        scale_jitter_probability=jitter_probability,
        shape_jitter_probability=1.0,
    )
    rng = np.random.default_rng(seed)
    sizes, all_of_them = rng.integers(200, 700, (20, 2)), np.ones(20, bool)
    plain = draw_augmentations(rng.random((20, NUM_UNIFORMS)), sizes, config)
    plain = with_scale_jitter(plain, rng.random((20, 5)), sizes, config, allowed=all_of_them)
    shaped = with_shape_jitter(plain, rng.random((20, 5)), config, allowed=all_of_them)
    cropped = plain.pre_size.any(axis=1, keepdims=True)
    assert (shaped.pre_size == np.where(cropped, plain.pre_size, plain.size)).all()
    corner, sides = np.where(cropped, plain.crop[:, :2], 0), np.where(cropped, plain.crop[:, 2:], plain.size)
    assert (shaped.crop[:, :2] >= corner).all()
    assert (shaped.crop[:, :2] + shaped.crop[:, 2:] <= corner + sides).all()
    scale, before = shaped.size / shaped.crop[:, 2:], plain.size / sides
    assert scale == pytest.approx(before, abs=0.51 / shaped.crop[:, 2:].min())  # Sizes are whole numbers.


def test_half_of_the_images_are_transposed_and_have_the_other_changes_of_an_image_of_that_size() -> None:
    changes = ALL | {"transpose_probability": 0.0}
    uniforms = further.random_numbers(np.random.default_rng(1), len(SIZES))
    none = np.zeros(len(SIZES), int)

    def drawn_for(sizes: np.ndarray, **more: Any) -> Draws:
        config = settings(**(changes | more))
        turned = further.transposed_sizes(sizes, uniforms, config)
        return further.draw_further(evaluation_draws(turned, config), uniforms, turned, none, len(sizes), config)[0]

    found = drawn_for(SIZES, transpose_probability=0.5)
    assert 0.25 < found.transposed.mean() < 0.75
    expected = drawn_for(np.where(found.transposed[:, None], SIZES[:, ::-1], SIZES))
    for name in set(vars(found)) - {"transposed"}:
        assert (getattr(found, name) == getattr(expected, name)).all()


def test_transposed_images_fit_the_buckets() -> None:
    """All images lie."""
    sizes = np.sort(SIZES, axis=1)
    augment = settings(transpose_probability=0.5)
    buckets = training_buckets(sizes, DataConfig(num_buckets=2, shape_multiple=8), augment)
    epochs = Epochs(COUNT, BATCH)
    plan = plan_epoch(sizes, seed=1, epoch=0, epochs=epochs, augment=augment, buckets=buckets)
    assert plan.draws.transposed.any()
    assert any(height > width for height, width in buckets)
    upright = plan.draws.size[:, 0] > plan.draws.size[:, 1]
    square = plan.draws.size[:, 0] == plan.draws.size[:, 1]
    assert (upright | square)[plan.draws.transposed].all()


def test_shape_jitter_changes_the_sizes_of_half_of_the_images_and_nothing_else_of_them() -> None:
    changes = ALL | {"mosaic_probability": 0.0, "shape_jitter_probability": 0.0}
    uniforms = further.random_numbers(np.random.default_rng(1), len(SIZES))
    draws = evaluation_draws(SIZES, BASE)

    def drawn_with(**more: Any) -> Draws:
        none = np.zeros(len(SIZES), int)
        return further.draw_further(draws, uniforms, SIZES, none, len(SIZES), settings(**(changes | more)))[0]

    plain, shaped = drawn_with(), drawn_with(shape_jitter_probability=0.5)
    changed = (plain.size != shaped.size).any(axis=1)
    assert 0.25 < changed.mean() < 0.75
    for name, values in vars(plain).items():
        assert (values[~changed] == getattr(shaped, name)[~changed]).all()
        if name not in ("size", "pre_size", "crop"):
            assert (values == getattr(shaped, name)).all()


def test_numbers_of_later_augmentations_are_drawn_after_all_others() -> None:
    """So a run that began without them continues to the last bit."""
    numbers = further.random_numbers(np.random.default_rng(5), 3)
    others = numbers.shape[1] - 6
    assert (numbers[:, :others] == np.random.default_rng(5).random((3, others))).all()


def test_an_erased_rectangle_has_one_colour_and_covers_no_object_wholly_that_stays() -> None:
    image = np.full((20, 40, 3), 9, np.uint8)
    boxes = np.array([[10, 5, 14, 9], [10, 5, 30, 9], [0, 0, 3, 3]], np.float32)
    erased, left, labels = erase(image, boxes, np.array([1, 2, 3]), (0.25, 0.25, 0.5, 0.25))
    assert (erased[5:15, 10:20] == FILL).all()
    assert (np.delete(erased.reshape(-1, 3), np.flatnonzero((erased == FILL).all(axis=2)), axis=0) == 9).all()
    assert labels.tolist() == [2, 3]
    assert left.tolist() == boxes[1:].tolist()
    assert (image == 9).all()  # The picture that was read is not changed.


@given(seed=SEEDS)
def test_rectangles_lie_in_the_image_and_have_a_fiftieth_to_a_fifth_of_it(seed: int) -> None:
    uniforms = np.random.default_rng(seed).random((50, 5))
    y, x, h, w = draw_rectangles(uniforms, settings(erase_probability=1.0)).T
    assert (np.minimum(y, x) >= 0).all()
    assert (np.maximum(y + h, x + w) <= 1 + 1e-9).all()
    assert h * w == pytest.approx(np.clip(h * w, 0.02, 0.2))
    assert not draw_rectangles(uniforms, settings(erase_probability=0.0)).any()


@pytest.fixture
def batches(tmp_path: Path) -> TrainingBatches:
    """Six images of two rectangles, with every augmentation on."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(6):
        image, boxes, _ = drawn(i)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "height": image.shape[0], "width": image.shape[1]})
        for x1, y1, x2, y2 in boxes.tolist():
            bbox = [x1, y1, x2 - x1, y2 - y1]
            annotations.append({"id": len(annotations), "image_id": i, "category_id": 1, "bbox": bbox})
    categories = [{"id": 1, "name": "rectangle"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "a.json").write_text(json.dumps(content))
    augment = settings(train_sizes=(60, 90), max_size=200, scale_jitter_min=0.9, scale_jitter_max=1.5, **ALL)
    config = Config(augment=augment, data=DataConfig(num_buckets=2), train=TrainConfig(batch_size=3))
    return TrainingBatches(open_coco(tmp_path, tmp_path / "a.json", split="train"), config)


def test_batches_have_objects_in_their_boxes_and_the_step_decides_what_they_are(batches: TrainingBatches) -> None:
    again = batches.with_epochs(batches.epochs)  # It has planned nothing yet.
    mosaics = 0
    for step in (7, 0, 3, 12):
        _, batch = batches.load(step)
        _, same = again.load(step)
        for one, other in zip(batch, same, strict=True):
            assert (one == other).all()
        for image, (height, width), boxes, number in zip(
            batch.images, batch.image_sizes.tolist(), batch.boxes, batch.num_boxes.tolist(), strict=True
        ):
            centres, halves = boxes[:number, :2], boxes[:number, 2:] / 2
            corners = np.concatenate([centres - halves, centres + halves], axis=1) * (width, height, width, height)
            assert not image[height:].any()
            assert not image[:, width:].any()
            bright = image[:height, :width].copy()
            bright[(bright == FILL).all(axis=-1)] = 0
            assert_boxes_hold_all_bright_pixels(bright, corners, whole=False)
            mosaics += number > 2
    assert mosaics > 0
    assert batches.max_boxes == 8
