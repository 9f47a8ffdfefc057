import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anchordetr_jax.config import AugmentConfig, DataConfig
from anchordetr_jax.data import further
from anchordetr_jax.data.buckets import (
    choose_buckets,
    evaluation_buckets,
    holds,
    padding_waste,
    smallest_bucket,
    training_buckets,
)
from anchordetr_jax.data.transforms import NUM_UNIFORMS, draw_augmentations, evaluation_draws
from tests.data.coco_sizes import coco_sizes

SIZES = st.lists(st.tuples(st.integers(1, 200), st.integers(1, 200)), min_size=1, max_size=40).map(np.array)


@given(sizes=SIZES, number=st.integers(1, 6), multiple=st.sampled_from([1, 8, 32]))
def test_buckets_are_few_aligned_and_hold_every_size(sizes: np.ndarray, number: int, multiple: int) -> None:
    buckets = choose_buckets(sizes, number, multiple)
    assert 1 <= len(buckets) <= number
    assert (np.array(buckets) % multiple == 0).all()
    assert (smallest_bucket(sizes, buckets) >= 0).all()


@given(sizes=SIZES, multiple=st.sampled_from([1, 8]))
def test_one_bucket_is_the_tightest_around_all(sizes: np.ndarray, multiple: int) -> None:
    height, width = choose_buckets(sizes, 1, multiple)[0]
    assert 0 <= height - sizes[:, 0].max() < multiple
    assert 0 <= width - sizes[:, 1].max() < multiple


@given(sizes=SIZES)
def test_a_bucket_for_every_size_wastes_nothing(sizes: np.ndarray) -> None:
    assert padding_waste(sizes, choose_buckets(sizes, len(sizes))) == 0


@given(sizes=SIZES, number=st.integers(1, 5))
def test_no_bucket_can_shrink(sizes: np.ndarray, number: int) -> None:
    """Every bucket is as high and as wide as an image that it is the smallest bucket of."""
    buckets = choose_buckets(sizes, number)
    home = smallest_bucket(sizes, buckets)
    for index, bucket in enumerate(buckets):
        assert bucket == tuple(sizes[home == index].max(axis=0))


def test_two_buckets_part_upright_images_from_lying_ones() -> None:
    sizes = np.array([(480, 640), (500, 600), (640, 480), (610, 490)])
    assert choose_buckets(sizes, 2) == ((640, 490), (500, 640))


def test_the_smallest_bucket_that_holds_an_image_is_its_own() -> None:
    buckets = ((10, 10), (10, 20), (20, 10), (20, 30))
    sizes = np.array([(10, 10), (3, 11), (11, 3), (11, 11), (20, 30), (21, 1)])
    assert smallest_bucket(sizes, buckets).tolist() == [0, 1, 2, 3, 3, -1]
    assert holds(np.array([(10, 20)]), buckets).tolist() == [[False, True, False, True]]


def test_waste_is_the_share_of_padded_pixels() -> None:
    assert padding_waste(np.array([(5, 10), (10, 10)]), ((10, 10),)) == 0.25


def test_coco_needs_twelve_shapes_to_pad_less_than_a_tenth() -> None:
    sizes = coco_sizes(5000)
    buckets = evaluation_buckets(sizes, DataConfig(num_buckets=12), AugmentConfig())
    assert len(buckets) <= 12
    assert padding_waste(evaluation_draws(sizes, AugmentConfig()).size, buckets) < 0.04


def test_more_shapes_waste_less() -> None:
    sizes = coco_sizes(2000)
    wastes = [
        padding_waste(evaluation_draws(sizes, AugmentConfig()).size, evaluation_buckets(sizes, data, AugmentConfig()))
        for data in (DataConfig(num_buckets=number) for number in (1, 2, 4, 8, 16))
    ]
    assert (np.diff(wastes) < 0).all()


@settings(max_examples=15)
@given(
    sizes=st.lists(st.tuples(st.integers(20, 200), st.integers(20, 200)), min_size=1, max_size=8).map(np.array),
    train_sizes=st.lists(st.integers(16, 128), min_size=1, max_size=4),
    max_size=st.integers(40, 200),
    crop_resize_sizes=st.lists(st.integers(16, 128), min_size=1, max_size=3),
    crop_limits=st.tuples(st.integers(8, 128), st.integers(8, 128)).map(sorted),
    crop_probability=st.sampled_from([0.0, 0.5, 1.0]),
    further_probability=st.sampled_from([0.0, 0.5]),
    multiple=st.sampled_from([1, 16]),
)
def test_every_size_that_can_be_drawn_fits_a_training_bucket(
    sizes: np.ndarray,
    train_sizes: list[int],
    max_size: int,
    crop_resize_sizes: list[int],
    crop_limits: list[int],
    crop_probability: float,
    further_probability: float,
    multiple: int,
) -> None:
    augment = AugmentConfig(
        transpose_probability=further_probability,
        shape_jitter_probability=further_probability,
        train_sizes=tuple(train_sizes),
        max_size=max_size,
        crop_resize_sizes=tuple(crop_resize_sizes),
        crop_min=crop_limits[0],
        crop_max=crop_limits[1],
        crop_probability=crop_probability,
    )
    buckets = training_buckets(sizes, DataConfig(num_buckets=3, shape_multiple=multiple), augment)
    assert len(buckets) <= 3
    uniforms = np.random.default_rng(1).random((3000, NUM_UNIFORMS))
    uniforms[::3, 4:6] = np.round(uniforms[::3, 4:6]) * np.nextafter(1, 0)  # the smallest and largest crops
    numbers = further.random_numbers(np.random.default_rng(2), 3000)
    before = further.transposed_sizes(sizes[np.arange(3000) % len(sizes)], numbers, augment)
    draws = draw_augmentations(uniforms, before, augment)
    drawn, _ = further.draw_further(draws, numbers, before, np.zeros(3000, int), len(sizes), augment)
    assert (smallest_bucket(draws.size, buckets) >= 0).all()
    assert (smallest_bucket(drawn.size, buckets) >= 0).all()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_training_buckets_do_not_reserve_room_for_what_is_never_drawn(probability: float) -> None:
    augment = AugmentConfig(
        train_sizes=(64,), max_size=200, crop_resize_sizes=(64,), crop_min=32, crop_max=48, crop_probability=probability
    )
    buckets = training_buckets(np.array([(64, 128)]), DataConfig(num_buckets=2, shape_multiple=1), augment)
    # Without crops there is one size; crops have sides of 32 to 48, so aspects of up to 1.5.
    assert buckets == (((64, 128),) if probability == 0 else ((64, 96), (96, 64)))
