import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.data.transforms import (
    NUM_UNIFORMS,
    Draw,
    apply_draw,
    draw_augmentations,
    evaluation_draws,
    mirrored_boxes,
    relative_boxes,
    resized_sizes,
    transpose,
    turn_upside_down,
)

SMALL = AugmentConfig(
    train_sizes=(24, 32), max_size=48, crop_resize_sizes=(20, 28), crop_min=12, crop_max=24, eval_size=32
)
IMAGE_SIZES = st.tuples(st.integers(1, 90), st.integers(1, 90))
NO_BOXES, NO_LABELS = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)


def noise(size: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def random_boxes(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    ends = np.sort(rng.random((count, 2, 2), np.float32), axis=1) * np.array([size[1], size[0]], np.float32)
    return ends.reshape(count, 4)


# Sizes (h, w) that the official code makes of images, at most 1333 pixels long.
@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((480, 640), 800, (800, 1066)),
        ((640, 480), 800, (1066, 800)),
        ((427, 640), 800, (800, 1199)),
        ((375, 500), 800, (800, 1066)),
        ((640, 360), 800, (1333, 750)),
        ((640, 240), 800, (1333, 500)),
        ((500, 500), 480, (480, 480)),
        ((480, 1000), 480, (480, 1000)),
        ((1200, 1600), 608, (608, 810)),
        ((640, 478), 512, (685, 512)),
        ((100, 3000), 800, (44, 1320)),
        ((799, 1333), 800, (799, 1333)),
        ((801, 1333), 800, (800, 1331)),
    ],
)
def test_sizes_follow_the_official_rule(size: tuple[int, int], short_side: int, expected: tuple[int, int]) -> None:
    assert tuple(resized_sizes(np.array([size]), short_side, 1333)[0].tolist()) == expected


def test_no_image_is_so_long_that_a_side_vanishes() -> None:
    assert resized_sizes(np.array([[1, 3000]]), 800, 1333).tolist() == [[1, 3000]]
    assert resized_sizes(np.array([[2, 9000]]), 800, 1333).min() >= 1


@given(size=IMAGE_SIZES, short_side=st.integers(1, 60), max_size=st.integers(20, 100))
def test_resizing_twice_changes_nothing_more(size: tuple[int, int], short_side: int, max_size: int) -> None:
    once = resized_sizes(np.array([size]), short_side)
    assert (resized_sizes(once, short_side) == once).all()
    transposed = resized_sizes(np.array([size[::-1]]), short_side, max_size)
    assert (transposed[:, ::-1] == resized_sizes(np.array([size]), short_side, max_size)).all()


@given(sizes=st.lists(IMAGE_SIZES, min_size=1, max_size=5), seed=st.integers(0, 1000))
def test_a_draw_fits_its_image(sizes: list[tuple[int, int]], seed: int) -> None:
    uniforms = np.random.default_rng(seed).random((len(sizes), NUM_UNIFORMS))
    draws = draw_augmentations(uniforms, np.array(sizes), SMALL)
    for index, size in enumerate(sizes):
        draw = draws[index]
        source = size
        if draw.pre_size is not None and draw.crop is not None:
            assert min(draw.pre_size) in SMALL.crop_resize_sizes
            y, x, height, width = draw.crop
            assert 0 <= y <= draw.pre_size[0] - height
            assert 0 <= x <= draw.pre_size[1] - width
            for side, whole in zip((height, width), draw.pre_size, strict=True):
                assert min(whole, SMALL.crop_min) <= side <= SMALL.crop_max
            source = (height, width)
        possible = [tuple(resized_sizes(np.array([source]), s, SMALL.max_size)[0]) for s in SMALL.train_sizes]
        assert draw.size in possible


@pytest.mark.parametrize("value", [0.0, np.nextafter(1, 0)])
def test_the_extremes_of_the_random_numbers_are_within_range(value: float) -> None:
    draw = draw_augmentations(np.full((1, NUM_UNIFORMS), value), np.array([[40, 50]]), SMALL)[0]
    if value == 0:
        assert draw == Draw(size=(24, 24), flip=True, pre_size=(20, 25), crop=(0, 0, 12, 12))
    else:
        assert draw == Draw(size=(32, 40))


def test_flips_and_crops_come_as_often_as_set() -> None:
    config = AugmentConfig(flip_probability=0.25, crop_probability=0.75)
    uniforms = np.random.default_rng(0).random((4000, NUM_UNIFORMS))
    draws = draw_augmentations(uniforms, np.tile([[480, 640]], (4000, 1)), config)
    assert abs(draws.flip.mean() - 0.25) < 0.03
    assert abs(draws.crop.any(axis=1).mean() - 0.75) < 0.03


def test_every_size_in_the_settings_is_drawn_equally_often() -> None:
    config = AugmentConfig(crop_probability=0.0)
    uniforms = np.random.default_rng(0).random((5500, NUM_UNIFORMS))
    draws = draw_augmentations(uniforms, np.tile([[480, 640]], (5500, 1)), config)
    sizes, counts = np.unique(draws.size.min(axis=1), return_counts=True)
    assert tuple(sizes.tolist()) == config.train_sizes
    assert counts.min() > 400


def test_evaluation_only_resizes() -> None:
    draws = evaluation_draws(np.array([[48, 64], [64, 48], [90, 30]]), SMALL)
    assert [draws[i] for i in range(3)] == [Draw((32, 42)), Draw((42, 32)), Draw((48, 16))]


@given(seed=st.integers(0, 1000), size=IMAGE_SIZES)
def test_boxes_stay_inside_the_image_and_keep_their_labels(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    boxes, labels = random_boxes(rng, size, 6), np.arange(6)
    draw = draw_augmentations(rng.random((1, NUM_UNIFORMS)), np.array([size]), SMALL)[0]
    image, moved, kept = apply_draw(noise(size), boxes, labels, draw)
    assert image.shape == (*draw.size, 3)
    assert len(moved) == len(kept)
    assert moved.dtype == np.float32
    assert (np.diff(kept) > 0).all()
    margin = 1e-3 * max(draw.size)  # of float32
    assert (moved >= -margin).all()
    assert (moved <= np.array(draw.size[::-1] * 2) + margin).all()


@given(seed=st.integers(0, 1000), size=IMAGE_SIZES)
def test_a_flip_undoes_a_flip(seed: int, size: tuple[int, int]) -> None:
    boxes = np.round(random_boxes(np.random.default_rng(seed), size, 4))
    flip = Draw(size, flip=True)
    image, moved, labels = apply_draw(*apply_draw(noise(size), boxes, np.arange(4), flip), flip)
    assert (image == noise(size)).all()
    assert (moved == boxes).all()
    assert labels.tolist() == [0, 1, 2, 3]


def test_a_flip_mirrors_pixels_and_boxes() -> None:
    image = noise((4, 6))
    flipped, boxes, _ = apply_draw(image, np.array([[1, 0, 3, 2]], np.float32), np.array([7]), Draw((4, 6), flip=True))
    assert (flipped == image[:, ::-1]).all()
    assert boxes.tolist() == [[3, 0, 5, 2]]
    assert mirrored_boxes(boxes, 6, axis=0).tolist() == [[1, 0, 3, 2]]


def test_a_transposed_image_keeps_its_object_in_the_box():
    image = np.zeros((4, 6, 3), np.uint8)
    image[1:3, 0:5] = 255
    turned, boxes = transpose(image, np.array([[0, 1, 5, 3]], np.float32))
    assert turned.shape == (6, 4, 3)
    assert boxes.tolist() == [[1, 0, 3, 5]]
    assert (turned[0:5, 1:3] == 255).all()
    assert turned.sum() == image.sum()


def test_an_image_that_is_turned_upside_down_keeps_its_object_in_the_box():
    image = np.zeros((6, 4, 3), np.uint8)
    image[1:3, 0:2] = 255
    turned, boxes = turn_upside_down(image, np.array([[0, 1, 2, 3]], np.float32))
    assert boxes.tolist() == [[0, 3, 2, 5]]
    assert (turned[3:5, 0:2] == 255).all()
    assert turned.sum() == image.sum()


def test_a_crop_clips_boxes_and_drops_those_outside() -> None:
    image = noise((10, 12))
    boxes = np.array([[0, 0, 4, 4], [3, 2, 9, 20], [9, 0, 12, 10], [0, 0, 12, 2]], np.float32)
    draw = Draw(size=(6, 6), pre_size=(10, 12), crop=(2, 3, 6, 6))
    cropped, moved, labels = apply_draw(image, boxes, np.array([5, 6, 7, 8]), draw)
    assert (cropped == image[2:8, 3:9]).all()
    assert moved.tolist() == [[0, 0, 1, 2], [0, 0, 6, 6]]
    assert labels.tolist() == [5, 6]


def test_a_crop_may_leave_no_box() -> None:
    draw = Draw(size=(8, 8), pre_size=(10, 10), crop=(0, 0, 4, 4))
    _, boxes, labels = apply_draw(noise((10, 10)), np.array([[5, 5, 9, 9]], np.float32), np.array([1]), draw)
    assert boxes.shape == (0, 4)
    assert labels.shape == (0,)


def test_boxes_scale_by_the_ratios_of_the_two_sides() -> None:
    _, boxes, _ = apply_draw(noise((10, 20)), np.array([[2, 1, 10, 5]], np.float32), np.array([1]), Draw((30, 25)))
    assert boxes.tolist() == [[2.5, 3, 12.5, 15]]


def test_resizing_an_even_colour_keeps_it() -> None:
    image, _, _ = apply_draw(np.full((9, 7, 3), 77, np.uint8), NO_BOXES, NO_LABELS, Draw((20, 31)))
    assert (image == 77).all()


def test_relative_boxes_are_centres_and_sides_in_parts_of_the_image() -> None:
    boxes = relative_boxes(np.array([[10, 20, 30, 60]], np.float32), (80, 40))
    assert boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert boxes.dtype == np.float32
