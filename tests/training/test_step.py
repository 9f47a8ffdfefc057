"""One training step: what it computes, on however many devices, and what it refuses."""

import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.devices import global_batch
from anchordetr_jax.model.anchor_detr import AnchorDETR
from tests.processes import start
from tests.tolerances import EXACT64, GRADIENT64_RELATIVE, LOSS64_RELATIVE
from tests.training.tiny import CONFIG, MODEL, StandIn, batch, changed, equal, run, to_host, trainer

WIDE = changed(CONFIG, model={"dtype": "float64"})
HOST = changed(WIDE, matcher={"backend": "host"})


def test_the_loss_falls_on_a_batch_that_is_repeated() -> None:
    losses = [values["loss"] for values in run(trainer(), [batch()] * 15)]
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize(("devices", "accumulate"), [(1, 8), (2, 2)])
def test_micro_batches_add_up_to_the_gradient_of_the_whole_batch(devices: int, accumulate: int, x64: None) -> None:
    """With plain gradient descent of rate 1, parameters change by the gradient."""
    descent = {"name": "sgd", "learning_rate": 1.0, "backbone_learning_rate": 1.0, "weight_decay": 0, "clip_norm": 0}
    plain = changed(WIDE, optimizer=descent)
    whole, parts = trainer(plain), trainer(changed(plain, train={"accumulate": accumulate}), devices=devices)
    before = to_host(whole.state.params)
    assert run(parts, [batch()])[0] == pytest.approx(run(whole, [batch()])[0], rel=LOSS64_RELATIVE)
    after, expected = to_host(parts.state.params), to_host(whole.state.params)
    for path, value in before.items():
        gradient = value - expected[path]
        assert np.linalg.norm(after[path] - expected[path]) <= GRADIENT64_RELATIVE * np.linalg.norm(gradient)


def test_micro_batches_without_objects_or_images_do_not_change_the_step(x64: None) -> None:
    one = batch()
    counts, valid = one.num_boxes.copy(), one.valid.copy()
    counts[2:4], valid[4:6] = 0, False
    one = one._replace(num_boxes=counts, valid=valid)
    whole, parts = trainer(WIDE), trainer(changed(WIDE, train={"accumulate": 4}))
    assert run(parts, [one])[0] == pytest.approx(run(whole, [one])[0], rel=LOSS64_RELATIVE)


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


def test_a_step_that_is_not_finite_changes_only_the_counters() -> None:
    made = trainer(changed(CONFIG, train={"ema_decay": 0.9}))
    run(made, [batch(1)])
    before = to_host(made.state)
    poisoned = batch(2)._replace(images=np.full((8, 8, 12, 3), np.nan, np.float32))
    metrics = run(made, [poisoned, poisoned])
    after = to_host(made.state)
    for name in ("params", "frozen", "opt_state", "ema"):
        assert equal(getattr(before, name), getattr(after, name)), name
    assert [values["refused"] for values in metrics] == [1, 1]
    assert [int(after.step), int(after.bad_steps), int(after.bad_steps_in_row)] == [3, 2, 2]


def test_a_good_step_ends_a_row_of_bad_ones() -> None:
    made = trainer()
    poisoned = batch(2)._replace(images=np.full((8, 8, 12, 3), np.inf, np.float32))
    metrics = run(made, [poisoned, batch(1)._replace(images=np.zeros((8, 8, 12, 3), np.float32))])
    assert [values["bad_steps_in_row"] for values in metrics] == [1, 0]
    assert [values["bad_steps"] for values in metrics] == [1, 1]


def test_a_refused_step_moves_the_schedule_along() -> None:
    made = trainer(changed(CONFIG, optimizer={"warmup_steps": 4}))
    poisoned = batch(2)._replace(images=np.full((8, 8, 12, 3), np.nan, np.float32))
    rates = [values["learning_rate"] for values in run(made, [poisoned, poisoned])]
    assert rates == pytest.approx([0.25e-2, 0.5e-2])


def test_frozen_variables_keep_their_values() -> None:
    made = trainer(changed(CONFIG, optimizer={"freeze": (r"layers/0/.*",)}))
    before = to_host({**made.state.params, **made.state.frozen})
    run(made, [batch()])
    after = to_host({**made.state.params, **made.state.frozen})
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert before.keys() - moved == {"scale", "layers/0/kernel", "layers/0/bias"}


def test_the_gradient_norm_is_measured_before_clipping() -> None:
    unclipped = changed(CONFIG, optimizer={"clip_norm": 0.0})
    norms = [run(trainer(config), [batch()])[0]["grad_norm"] for config in (CONFIG, unclipped)]
    assert norms[0] == norms[1] > 0.1


def test_the_average_moves_towards_the_weights_by_one_minus_the_decay(x64: None) -> None:
    made = trainer(changed(WIDE, train={"ema_decay": 0.15}), devices=4, fsdp=2)
    average = to_host(made.state.params)
    for step, decay in enumerate([1 / 10, 0.15, 0.15]):  # After n steps it is at most (1 + n) / (10 + n).
        run(made, [batch(step)])
        params = to_host(made.state.params)
        average = {path: decay * value + (1 - decay) * params[path] for path, value in average.items()}
    for path, value in to_host(made.state.ema).items():
        np.testing.assert_allclose(value, average[path], rtol=0, atol=EXACT64)


def test_an_average_changes_nothing_about_training() -> None:
    averaged, plain = trainer(changed(CONFIG, train={"ema_decay": 0.9})), trainer()
    assert run(averaged, [batch(0), batch(1)]) == run(plain, [batch(0), batch(1)])
    assert equal(to_host(averaged.state.params), to_host(plain.state.params))


@pytest.mark.parametrize("fsdp", [1, 2])
def test_devices_exchange_their_gradient_once_and_nothing_about_images(fsdp: int) -> None:
    """With micro-batches, too. With `fsdp` they also tell each other their shares of the parameters, beforehand."""
    made = trainer(changed(CONFIG, train={"accumulate": 2}), devices=4, fsdp=fsdp)
    assert hasattr(made.step, "lower")
    said = collectives(made.step.lower(made.abstract, global_batch(batch(), made.mesh)).compile().as_text())
    params = made.state.params
    split = {path for path, value in params.items() if not value.sharding.is_fully_replicated}
    size = {path: value.size // (fsdp if path in split else 1) for path, value in params.items()}
    assert said.keys() == ({"all-reduce"} if fsdp == 1 else {"all-reduce", "all-gather", "reduce-scatter"})
    assert sum(size.values()) <= said["all-reduce"] <= sum(size.values()) + 30
    if fsdp > 1:
        assert said["all-gather"] == sum(params[path].size for path in split)
        assert said["reduce-scatter"] == sum(size[path] for path in split)


COMPILED_STEP = """
from anchordetr_jax.devices import global_batch
from anchordetr_jax.kernels.cpu.process import set_up_xla
from tests.training.tiny import batch, trainer
set_up_xla()
made = trainer(devices=1)
for value in made.state.params.values():
    print("parameter", ",".join(map(str, value.shape)))
print(made.step.lower(made.abstract, global_batch(batch(), made.mesh)).compile().as_text())
"""


@pytest.mark.processes
def test_parameters_and_moments_are_updated_in_place_as_users_compile_the_step(
    usual_environment: dict[str, str],
) -> None:
    process = start(["-c", COMPILED_STEP], Path(__file__).parents[2], usual_environment)
    program, errors = process.communicate()
    assert process.wait() == 0, errors
    shapes = set(re.findall(r"^parameter ([\d,]+)$", program, re.MULTILINE))
    assert len(shapes) > 5
    assert not shapes.intersection(re.findall(r"= f32\[([\d,]+)\]\S* copy\(", program))


def collectives(program: str) -> dict[str, int]:
    """Numbers that each kind of collective of a compiled program delivers to a device."""
    delivered: dict[str, int] = {}
    pattern = r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    for shapes, kind in re.findall(pattern, program):
        sizes = [math.prod(map(int, dims.split(","))) if dims else 1 for dims in re.findall(r"\w+\[([\d,]*)\]", shapes)]
        delivered[kind] = delivered.get(kind, 0) + sum(sizes)
    return delivered


def test_the_first_state_is_the_same_on_any_mesh() -> None:
    assert equal(to_host(trainer().state), to_host(trainer(devices=4, fsdp=2).state))


def test_the_abstract_state_describes_the_real_one() -> None:
    made = trainer(devices=4, fsdp=2)
    described = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), made.abstract)
    assert described == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype, leaf.sharding), made.state)


def test_the_stand_in_has_the_interface_of_the_detector() -> None:
    import inspect

    for method in ("__call__", "encode", "decode", "queries", "query_positions"):
        names = [list(inspect.signature(getattr(cls, method)).parameters) for cls in (StandIn, AnchorDETR)]
        assert names[0] == names[1]
    assert ModelConfig is type(MODEL)
