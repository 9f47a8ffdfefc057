import functools
import itertools
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.config import AugmentConfig, DataConfig
from anchordetr_jax.data.batching import (
    EpochPlan,
    describe_plan,
    plan_epoch,
    plan_evaluation,
)
from anchordetr_jax.data.buckets import Buckets, evaluation_buckets, training_buckets
from anchordetr_jax.data.epochs import Epochs
from anchordetr_jax.data.transforms import resized_sizes

SMALL = AugmentConfig(
    train_sizes=(24, 32), max_size=48, crop_resize_sizes=(20, 28), crop_min=12, crop_max=24, eval_size=32
)
COUNTS = st.integers(1, 60)
BATCH_SIZES = st.integers(1, 16)


def sizes_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(20, 70, (count, 2))


@functools.cache
def buckets_for(number: int) -> Buckets:
    return training_buckets(sizes_of(60), DataConfig(num_buckets=number, shape_multiple=8), SMALL)


BUCKETS = buckets_for(4)


def planned(count: int, epoch: int, batch_size: int, seed: int = 7, buckets: Buckets = BUCKETS) -> EpochPlan:
    return plan_epoch(
        sizes_of(60)[:count], seed=seed, epoch=epoch, epochs=Epochs(count, batch_size), augment=SMALL, buckets=buckets
    )


@given(count=COUNTS, batch_size=BATCH_SIZES, epochs=st.integers(1, 12))
def test_no_image_is_dropped_or_doubled(count: int, batch_size: int, epochs: int) -> None:
    """After any number of epochs, each image has come as often as any other, or once more."""
    plans = [planned(count, epoch, batch_size) for epoch in range(epochs)]
    seen = np.bincount(np.concatenate([plan.rows.ravel() for plan in plans]), minlength=count)
    steps = sum(plan.num_steps for plan in plans)
    assert steps == Epochs(count, batch_size).steps_before(epochs) == epochs * count // batch_size
    assert set(seen) <= {steps * batch_size // count, -(-steps * batch_size // count)}


@given(count=st.integers(1, 8), batch_size=st.integers(1, 8), epoch=st.integers(0, 5))
def test_an_epoch_of_whole_batches_has_every_image_once(count: int, batch_size: int, epoch: int) -> None:
    plan = planned(count * batch_size if count * batch_size <= 60 else batch_size, epoch, batch_size)
    assert sorted(plan.rows.ravel().tolist()) == list(range(plan.rows.size))


@given(count=COUNTS, batch_size=BATCH_SIZES, epoch=st.integers(0, 8))
def test_the_same_arguments_give_the_same_plan(count: int, batch_size: int, epoch: int) -> None:
    first, second = planned(count, epoch, batch_size), planned(count, epoch, batch_size)
    for one, other in zip(vars(first.draws).values(), vars(second.draws).values(), strict=True):
        assert (one == other).all()
    assert (first.rows == second.rows).all()
    assert (first.bucket == second.bucket).all()


def test_a_plan_does_not_depend_on_the_state_of_other_generators() -> None:
    before = planned(40, 2, 8)
    np.random.default_rng(7).random(100)
    planned(40, 1, 8)
    assert (planned(40, 2, 8).rows == before.rows).all()


@pytest.mark.parametrize("change", [{"seed": 8}, {"epoch": 3}])
def test_another_seed_or_epoch_gives_another_order_and_other_draws(change: dict[str, Any]) -> None:
    usual: dict[str, Any] = {"count": 48, "epoch": 2, "batch_size": 8, "seed": 7}
    first, second = planned(**usual), planned(**{**usual, **change})
    assert (first.rows != second.rows).any()
    assert (
        first.draws.size[np.argsort(first.rows.ravel())] != second.draws.size[np.argsort(second.rows.ravel())]
    ).any()


def test_negative_seeds_are_seeds_too() -> None:
    assert (planned(48, 0, 8, seed=-1).rows != planned(48, 0, 8, seed=-2).rows).any()


@given(count=COUNTS, batch_size=BATCH_SIZES, epoch=st.integers(0, 8), number=st.integers(1, 5))
def test_each_image_fits_the_bucket_of_its_batch(count: int, batch_size: int, epoch: int, number: int) -> None:
    plan = planned(count, epoch, batch_size, buckets=buckets_for(number))
    for step in range(plan.first_step, plan.first_step + plan.num_steps):
        batch = plan.batch(step)
        assert batch.bucket in plan.buckets
        assert (batch.draws.size <= batch.bucket).all()
        assert batch.draws.size.min() >= 1


@given(count=st.integers(1, 60), epoch=st.integers(0, 4))
def test_a_draw_depends_on_the_image_and_the_epoch_but_not_on_the_batch_size(count: int, epoch: int) -> None:
    alone = planned(count, epoch, 1, buckets=buckets_for(1))
    together = planned(count, epoch, count, buckets=buckets_for(1))
    order, other = np.argsort(alone.rows.ravel()), np.argsort(together.rows.ravel())
    for one, same in zip(vars(alone.draws).values(), vars(together.draws).values(), strict=True):
        assert (one[order] == same[other]).all()


def test_only_one_batch_or_so_reduces_what_was_drawn() -> None:
    """Where largest buckets lie across each other, what is left over in them must share a batch."""
    sizes = np.concatenate([np.tile([[20, 40]], (37, 1)), np.tile([[40, 20]], (27, 1))])
    augment = AugmentConfig(train_sizes=(24,), max_size=48, crop_probability=0.0)
    buckets = ((48, 24), (24, 48))
    for epoch in range(5):
        plan = plan_epoch(sizes, seed=0, epoch=epoch, epochs=Epochs(64, 16), augment=augment, buckets=buckets)
        assert plan.num_steps == 4
        reduced = np.flatnonzero((plan.draws.size.max(axis=1) < 48).reshape(4, 16).any(axis=1))
        assert len(reduced) == 1
        mixed = plan.batch(plan.first_step + int(reduced[0]))
        # The upright 11 left over of 27 outnumber the 5 of 37 that lie, and keep their size; those keep their aspect.
        assert mixed.bucket == (48, 24)
        assert sorted(map(tuple, mixed.draws.size.tolist())) == [(12, 24)] * 5 + [(48, 24)] * 11


def test_a_size_that_no_bucket_holds_is_reduced_to_the_largest() -> None:
    augment = AugmentConfig(train_sizes=(24,), max_size=100, crop_probability=0.0)
    plan = plan_epoch(
        np.array([[24, 48]]), seed=0, epoch=0, epochs=Epochs(1, 1), augment=augment, buckets=((24, 24), (24, 32))
    )
    assert plan.draws.size.tolist() == [[16, 32]]


def test_leftovers_move_to_the_next_larger_bucket_at_their_own_size() -> None:
    sizes = np.concatenate([np.tile([[24, 24]], (5, 1)), np.tile([[24, 36]], (3, 1))])
    augment = AugmentConfig(train_sizes=(24,), max_size=100, crop_probability=0.0)
    plan = plan_epoch(sizes, seed=0, epoch=0, epochs=Epochs(8, 4), augment=augment, buckets=((24, 24), (24, 36)))
    assert sorted(plan.bucket.tolist()) == [0, 1]
    assert (plan.draws.size == sizes[plan.rows.ravel()]).all()


def test_the_order_of_buckets_is_shuffled() -> None:
    buckets = np.concatenate([planned(60, epoch, 2).bucket for epoch in range(4)])
    assert (np.diff(buckets) < 0).sum() > 10
    assert (np.diff(buckets) > 0).sum() > 10


def test_a_batch_larger_than_the_data_set_takes_several_permutations() -> None:
    plans = [planned(3, epoch, 8) for epoch in range(8)]
    assert [plan.num_steps for plan in plans] == [0, 0, 1, 0, 0, 1, 0, 1]
    assert np.bincount(plans[2].rows.ravel()).tolist() in ([2, 3, 3], [3, 2, 3], [3, 3, 2])


def test_a_step_of_another_epoch_is_refused() -> None:
    plan = planned(40, 1, 8)
    with pytest.raises(IndexError):
        plan.batch(plan.first_step + plan.num_steps)
    with pytest.raises(IndexError):
        plan.batch(plan.first_step - 1)


def test_a_step_has_the_draws_of_its_rows() -> None:
    plan = planned(40, 0, 8)
    batch = plan.batch(3)
    assert (batch.rows == plan.rows[3]).all()
    assert batch.draws[5] == plan.draws[3 * 8 + 5]
    assert batch.bucket == plan.buckets[plan.bucket[3]]


def test_an_epoch_of_cocos_size_is_planned_in_seconds() -> None:
    sizes = np.random.default_rng(0).integers(300, 641, (118_287, 2))
    started = time.perf_counter()
    buckets = training_buckets(sizes, DataConfig(), AugmentConfig())
    plan = plan_epoch(sizes, seed=0, epoch=1, epochs=Epochs(len(sizes), 8), augment=AugmentConfig(), buckets=buckets)
    assert time.perf_counter() - started < 30  # some 1.5 s; anything quadratic takes minutes
    assert plan.num_steps == 118_287 * 2 // 8 - 118_287 // 8
    assert plan.padding_waste < 0.2


def test_waste_counts_all_padding_of_an_epoch() -> None:
    augment = AugmentConfig(train_sizes=(20,), max_size=100, crop_probability=0.0)
    plan = plan_epoch(
        np.array([[20, 20], [20, 30]]), seed=0, epoch=0, epochs=Epochs(2, 2), augment=augment, buckets=((20, 40),)
    )
    assert plan.padding_waste == 1 - 1000 / 1600


EVALUATION_BUCKETS = evaluation_buckets(sizes_of(60), DataConfig(num_buckets=4, shape_multiple=8), SMALL)


@given(
    count=COUNTS,
    batch_size=BATCH_SIZES,
    multiple=st.integers(1, 4),
    equal_memory=st.booleans(),
)
def test_evaluation_has_every_image_once(count: int, batch_size: int, multiple: int, equal_memory: bool) -> None:
    sizes = sizes_of(60)[:count]
    plan = plan_evaluation(
        sizes,
        batch_size=batch_size,
        augment=SMALL,
        buckets=EVALUATION_BUCKETS,
        multiple=multiple,
        equal_memory=equal_memory,
    )
    rows = np.concatenate([batch.rows for batch in plan])
    assert sorted(rows[rows >= 0].tolist()) == list(range(count))
    for batch in plan:
        real = batch.rows >= 0
        assert real.any()
        assert len(batch.rows) % multiple == 0
        assert (batch.draws.size[real] <= batch.bucket).all()
        assert (batch.draws.size[real] == resized_sizes(sizes[batch.rows[real]], 32, 48)).all()


def test_only_the_last_batch_of_a_bucket_has_fillers() -> None:
    plan = plan_evaluation(sizes_of(60), batch_size=8, augment=SMALL, buckets=EVALUATION_BUCKETS, multiple=8)
    for batch, following in itertools.pairwise(plan):
        assert (batch.rows >= 0).all() or batch.bucket != following.bucket
        assert len(batch.rows) == 8


def test_the_largest_shape_comes_first_so_that_want_of_memory_shows_at_once() -> None:
    plan = plan_evaluation(sizes_of(60), batch_size=8, augment=SMALL, buckets=EVALUATION_BUCKETS)
    areas = [batch.bucket[0] * batch.bucket[1] for batch in plan]
    assert areas == sorted(areas, reverse=True)


def test_a_bucket_of_few_images_has_small_batches() -> None:
    plan = plan_evaluation(np.array([[32, 32]] * 3), batch_size=8, augment=SMALL, buckets=((32, 32),), multiple=2)
    assert [len(batch.rows) for batch in plan] == [4]


def test_batches_of_equal_memory_hold_more_images_of_smaller_shapes() -> None:
    sizes = np.concatenate([np.tile([[32, 32]], (40, 1)), np.tile([[32, 48]], (40, 1))])
    plan = plan_evaluation(
        sizes, batch_size=4, augment=SMALL, buckets=((32, 32), (32, 48)), multiple=2, equal_memory=True
    )
    assert {(batch.bucket, len(batch.rows)) for batch in plan} == {((32, 48), 4), ((32, 32), 6)}


def test_a_plan_is_described_with_its_padding() -> None:
    plan = plan_evaluation(np.array([[32, 32], [32, 32], [32, 40]]), batch_size=2, augment=SMALL, buckets=((32, 40),))
    padding = 1 - (2 * 32 * 32 + 32 * 40) / (4 * 32 * 40)
    assert describe_plan(plan) == f"3 images in 2 batches of 1 shape (32x40), {padding:.1%} padding"
