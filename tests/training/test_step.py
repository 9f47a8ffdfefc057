"""One training step: what it computes, on however many devices, and what it refuses."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

from anchordetr_jax.config import MatcherConfig, ModelConfig
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.training.sharding import ShardingRule, global_batch, to_host
from tests.tolerances import GRADIENT64_RELATIVE, STEPS64_RELATIVE
from tests.training.tiny import CONFIG, MODEL, StandIn, Trainer, batch, equal, trainer

WIDE_MODEL = dataclasses.replace(MODEL, dtype="float64")
WIDE = dataclasses.replace(CONFIG, model=WIDE_MODEL)
HOST = dataclasses.replace(WIDE, matcher=MatcherConfig(backend="host"))


def run(made: Trainer, batches: list[Any]) -> list[dict[str, float]]:
    """Takes a step with each batch; gives the metrics, and leaves the last state in `made`."""
    metrics = []
    for one in batches:
        made.state, values = made.step(made.state, global_batch(one, made.mesh))
        metrics.append({name: float(value) for name, value in values.items()})
    return metrics


def test_the_loss_falls_on_a_batch_that_is_repeated() -> None:
    losses = [values["loss"] for values in run(trainer(), [batch()] * 15)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("devices", "fsdp"), [(4, 1), (4, 2), (8, 8)])
def test_the_number_of_devices_changes_nothing(devices: int, fsdp: int, x64: None) -> None:
    batches = [batch(seed) for seed in range(5)]
    one, many = trainer(HOST), trainer(HOST, devices=devices, fsdp=fsdp)
    for expected, found in zip(run(one, batches), run(many, batches), strict=True):
        assert found == pytest.approx(expected, rel=GRADIENT64_RELATIVE)
    for path, value in to_host(one.state.params).items():
        np.testing.assert_allclose(to_host(many.state.params)[path], value, rtol=0, atol=STEPS64_RELATIVE)


def test_the_number_of_devices_changes_nothing_for_the_detector_itself(x64: None) -> None:
    small = dataclasses.replace(HOST, model=dataclasses.replace(WIDE_MODEL, decoder_layers=1))
    split_large = (ShardingRule(".*", 2**13),)
    batches = [batch(seed, images=4, size=(32, 48)) for seed in range(2)]
    one = trainer(small, model=AnchorDETR)
    many = trainer(small, model=AnchorDETR, devices=4, fsdp=2, rules=split_large)
    for expected, found in zip(run(one, batches), run(many, batches), strict=True):
        assert found == pytest.approx(expected, rel=GRADIENT64_RELATIVE)
    for path, value in to_host(one.state.params).items():
        np.testing.assert_allclose(to_host(many.state.params)[path], value, rtol=0, atol=STEPS64_RELATIVE)


def test_both_matchers_take_the_same_step(x64: None) -> None:
    host, device = trainer(HOST, devices=2), trainer(WIDE, devices=2)
    assert run(device, [batch()])[0] == pytest.approx(run(host, [batch()])[0], rel=GRADIENT64_RELATIVE)


def test_boxes_are_counted_over_the_whole_batch() -> None:
    images = batch()
    assert run(trainer(devices=4), [images])[0]["num_boxes"] == images.num_boxes.sum()


def test_images_that_are_not_valid_contribute_nothing(x64: None) -> None:
    good = batch()
    valid = good.valid.copy()
    valid[[2, 5]] = False
    noise = batch(99)
    other = {
        name: np.where(valid.reshape((-1,) + (1,) * (value.ndim - 1)), value, getattr(noise, name))
        for name, value in good._asdict().items()
        if name != "valid"
    }
    first, second = trainer(WIDE), trainer(WIDE)
    metrics = [run(first, [good._replace(valid=valid)]), run(second, [good._replace(valid=valid, **other)])]
    assert metrics[0] == metrics[1]
    assert equal(to_host(first.state.params), to_host(second.state.params))
    assert metrics[0][0]["num_boxes"] == good.num_boxes[valid].sum()


def test_a_batch_without_objects_is_a_step_like_others() -> None:
    made = trainer()
    metrics = run(made, [batch()._replace(num_boxes=np.zeros(8, np.int32))])[0]
    assert metrics["num_boxes"] == 0
    assert metrics["refused"] == 0
    assert metrics["loss/box"] == 0
    assert metrics["loss/class"] > 0


def test_a_step_that_is_not_finite_changes_nothing_but_the_counters() -> None:
    made = trainer()
    run(made, [batch(1)])
    before = to_host(made.state)
    poisoned = batch(2)._replace(images=np.full((8, 8, 12, 3), np.nan, np.float32))
    metrics = run(made, [poisoned, poisoned])
    after = to_host(made.state)
    assert equal((before.params, before.frozen, before.opt_state), (after.params, after.frozen, after.opt_state))
    assert [values["refused"] for values in metrics] == [1, 1]
    assert [int(after.step), int(after.bad_steps), int(after.bad_steps_in_row)] == [3, 2, 2]


def test_a_good_step_ends_a_row_of_bad_ones() -> None:
    made = trainer()
    poisoned = batch(2)._replace(images=np.full((8, 8, 12, 3), np.inf, np.float32))
    metrics = run(made, [poisoned, batch(1)._replace(images=np.zeros((8, 8, 12, 3), np.float32))])
    assert [values["bad_steps_in_row"] for values in metrics] == [1, 0]
    assert [values["bad_steps"] for values in metrics] == [1, 1]


def test_a_refused_step_moves_the_schedule_along() -> None:
    made = trainer(dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, warmup_steps=4)))
    poisoned = batch(2)._replace(images=np.full((8, 8, 12, 3), np.nan, np.float32))
    rates = [values["learning_rate"] for values in run(made, [poisoned, poisoned])]
    assert rates == pytest.approx([0.25e-2, 0.5e-2])


def test_frozen_variables_keep_their_values() -> None:
    optimizer = dataclasses.replace(CONFIG.optimizer, freeze=(r"layers/0/.*",))
    made = trainer(dataclasses.replace(CONFIG, optimizer=optimizer))
    before = to_host({**made.state.params, **made.state.frozen})
    run(made, [batch()])
    after = to_host({**made.state.params, **made.state.frozen})
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert before.keys() - changed == {"scale", "layers/0/kernel", "layers/0/bias"}


def test_the_gradient_norm_is_told_before_clipping() -> None:
    unclipped = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, clip_norm=0.0))
    norms = [run(trainer(config), [batch()])[0]["grad_norm"] for config in (CONFIG, unclipped)]
    assert norms[0] == norms[1] > 0.1


def test_the_first_state_is_the_same_on_any_mesh() -> None:
    assert equal(to_host(trainer().state), to_host(trainer(devices=4, fsdp=2).state))


def test_the_abstract_state_describes_the_real_one() -> None:
    made = trainer(devices=4, fsdp=2)
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), made.abstract)
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), made.state)


def test_the_stand_in_has_the_interface_of_the_detector() -> None:
    import inspect

    for method in ("__init__", "__call__"):
        names = [list(inspect.signature(getattr(cls, method)).parameters) for cls in (StandIn, AnchorDETR)]
        assert names[0] == names[1]
    assert ModelConfig is type(MODEL)
