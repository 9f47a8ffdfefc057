"""Repeat-factor sampling: which images come how often."""

import numpy as np
import pytest

from anchordetr_jax.config import AugmentConfig, DataConfig
from anchordetr_jax.data.batching import plan_epoch
from anchordetr_jax.data.buckets import Buckets
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.data.repeats import class_shares, describe_repeats, repeat_factors, repeated_rows
from anchordetr_jax.errors import UserError
from tests.tolerances import EXACT64

CATEGORIES = Categories(ids=(1, 2, 3, 4), names=("cat", "dog", "whale", "crane"))
LABELS = [np.array(labels, int) for labels in [[0, 0], [0, 1], [], [0], [1, 2], [0, 1], [0], [0], [0, 3, 3], [0, 1]]]
"""Of ten images: 8 with a cat, 4 with a dog, one with a whale, one with a crane."""
THRESHOLD = 0.5
FACTORS = [1, 5**0.5 / 2, 1, 1, 5**0.5, 5**0.5 / 2, 1, 1, 5**0.5, 5**0.5 / 2]
BUCKETS: Buckets = ((48, 48),)
AUGMENT = AugmentConfig(train_sizes=(24, 32), max_size=48, crop_probability=0.0)


def factors() -> np.ndarray:
    return repeat_factors(LABELS, class_shares(LABELS, 4), THRESHOLD)


def plan(epoch: int, batch_size: int = 4, seed: int = 3) -> np.ndarray:
    repeated = factors()
    epochs = Epochs(round(repeated.sum()), batch_size)
    sizes = np.tile([30, 40], (10, 1))
    planned = plan_epoch(
        sizes, seed=seed, epoch=epoch, epochs=epochs, augment=AUGMENT, buckets=BUCKETS, factors=repeated
    )
    assert len(planned.draws.size) == planned.rows.size
    return planned.rows


def test_the_share_of_images_with_a_class_counts_each_image_once() -> None:
    np.testing.assert_allclose(class_shares(LABELS, 4), [0.8, 0.4, 0.1, 0.1])


def test_an_image_has_the_factor_of_its_rarest_class_raised_to_a_whole_number_together() -> None:
    expected = np.array(FACTORS) * np.ceil(sum(FACTORS)) / sum(FACTORS)
    np.testing.assert_allclose(factors(), expected, rtol=0, atol=EXACT64)


def test_without_rare_classes_each_image_comes_once() -> None:
    common = repeat_factors(LABELS, class_shares(LABELS, 4), 0.01)
    np.testing.assert_array_equal(common, np.ones(10))
    np.testing.assert_array_equal(repeated_rows(common, np.random.default_rng(0)), np.arange(10))


def test_each_epoch_has_every_image_about_as_often_as_its_factor_says() -> None:
    repeated, generator = factors(), np.random.default_rng(0)
    times = np.array([np.bincount(repeated_rows(repeated, generator), minlength=10) for _ in range(2000)])
    assert (times.sum(axis=1) == round(repeated.sum())).all()
    assert ((times >= np.floor(repeated)) & (times <= np.ceil(repeated))).all()
    np.testing.assert_allclose(times.mean(axis=0), repeated, atol=0.05)


def test_a_plan_follows_from_seed_and_epoch_alone_and_its_steps_do_not_overlap() -> None:
    np.testing.assert_array_equal(plan(2), plan(2))
    assert (plan(2) != plan(2, seed=4)).any()
    rows = np.concatenate([plan(epoch).ravel() for epoch in range(8)])
    assert np.bincount(rows)[4] == pytest.approx(8 * factors()[4], abs=2)
    assert len(rows) == 8 * round(factors().sum()) // 4 * 4


def test_images_that_come_more_than_once_are_augmented_each_time_anew() -> None:
    many = np.full(10, 3.0)
    planned = plan_epoch(
        np.tile([30, 40], (10, 1)),
        seed=0,
        epoch=0,
        epochs=Epochs(30, 30),
        augment=AUGMENT,
        buckets=BUCKETS,
        factors=many,
    )
    drawn: dict[int, set[tuple[int, ...]]] = {row: set() for row in range(10)}
    for row, flip, size in zip(planned.rows.ravel(), planned.draws.flip, planned.draws.size, strict=True):
        drawn[int(row)].add((bool(flip), *size.tolist()))
    assert max(map(len, drawn.values())) > 1


def test_rare_classes_and_repeated_images_are_counted_and_named() -> None:
    line = describe_repeats(factors(), LABELS, class_shares(LABELS, 4), CATEGORIES, THRESHOLD)
    assert line == (
        "5 of the images come up to 2.3 times in an epoch, which then has 13 images, for 3 rare classes: "
        "whale (in 1), crane (in 1), dog (in 4)"
    )
    assert "none comes more often" in describe_repeats(np.ones(10), LABELS, class_shares(LABELS, 4), CATEGORIES, 0.01)


def test_where_every_image_has_a_rare_class_all_are_counted() -> None:
    labels = [np.array([0])] * 8 + [np.array([1])] * 2
    shares = class_shares(labels, 4)
    line = describe_repeats(repeat_factors(labels, shares, 0.9), labels, shares, CATEGORIES, 0.9)
    assert line.startswith("10 of the images come up to 2.2 times in an epoch, which then has 13 images, for 2 rare")


def test_a_threshold_that_is_no_share_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.repeat_threshold"):
        DataConfig(repeat_threshold=2)
