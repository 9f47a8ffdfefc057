"""The optimiser's arithmetic is PyTorch's, and its schedules follow the epochs."""

import dataclasses
import re
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.config import OptimizerConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.optimizer import clip_by_total_norm, make_optimizer, schedule_factor, total_norm
from tests.tolerances import EXACT64, SAME32

SHAPES = {"backbone/layer2/kernel": (3, 4), "backbone/layer2/bias": (4,), "decoder/kernel": (4, 5), "anchors": (6, 2)}
RECIPE = OptimizerConfig(learning_rate=1e-2, backbone_learning_rate=1e-3, weight_decay=1e-1, drop_epoch=2)


def five_an_epoch(epoch: int) -> int:
    return 5 * epoch


def random_tree(seed: int, scale: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {path: scale * rng.standard_normal(shape) for path, shape in SHAPES.items()}


def factors(config: OptimizerConfig, epochs: int, steps_before: Callable[[int], int] = five_an_epoch) -> np.ndarray:
    factor = schedule_factor(config, steps_before=steps_before, epochs=epochs)
    return np.array([float(factor(step)) for step in range(steps_before(epochs) + 1)])


@pytest.mark.parametrize("join", [False, True])
def test_the_norm_is_that_of_all_gradients_together(join: bool, x64: None) -> None:
    gradients = random_tree(0)
    expected = np.linalg.norm(np.concatenate([value.ravel() for value in gradients.values()]))
    norm = total_norm({path: jnp.asarray(value) for path, value in gradients.items()}, join=join)
    np.testing.assert_allclose(norm, expected, rtol=EXACT64)


@pytest.mark.parametrize("scale", [1e-3, 1e-2, 1.0, 1e3])
def test_clipping_divides_by_the_norm_plus_a_millionth(scale: float, x64: None) -> None:
    gradients = {path: jnp.asarray(value) for path, value in random_tree(1, scale).items()}
    norm = total_norm(gradients)
    clipped, _ = clip_by_total_norm(0.1).update(gradients, None, norm=norm)
    coefficient = min(1.0, 0.1 / (float(norm) + 1e-6))
    for path, value in gradients.items():
        np.testing.assert_allclose(clipped[path], coefficient * value, rtol=EXACT64)


def test_clipping_leaves_zero_gradients_alone() -> None:
    clipped, _ = clip_by_total_norm(0.1).update({"a": jnp.zeros(3)}, None, norm=jnp.zeros(()))
    np.testing.assert_array_equal(clipped["a"], np.zeros(3))


@pytest.mark.torch
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("clip_norm", [0.0, 0.1])
def test_eleven_steps_equal_those_of_pytorch(name: Literal["adamw", "sgd"], clip_norm: float, x64: None) -> None:
    torch = pytest.importorskip("torch")
    config = dataclasses.replace(RECIPE, name=name, clip_norm=clip_norm)
    start = random_tree(2)
    theirs = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in start.items()}
    groups = [
        {"params": [p for path, p in theirs.items() if not path.startswith("backbone/")], "lr": config.learning_rate},
        {
            "params": [p for path, p in theirs.items() if path.startswith("backbone/")],
            "lr": config.backbone_learning_rate,
        },
    ]
    if name == "adamw":
        torch_optimizer = torch.optim.AdamW(groups, weight_decay=config.weight_decay)
    else:
        torch_optimizer = torch.optim.SGD(groups, momentum=0.9, weight_decay=config.weight_decay)
    drops = torch.optim.lr_scheduler.StepLR(torch_optimizer, config.drop_epoch)

    ours = {path: jnp.asarray(value) for path, value in start.items()}
    optimizer = make_optimizer(config, steps_before=five_an_epoch, epochs=3)
    state = optimizer.init(ours)
    for step in range(11):  # Past the drop after epoch 2, which is step 10.
        gradients = random_tree(100 + step)
        for path, parameter in theirs.items():
            parameter.grad = torch.tensor(gradients[path])
        if clip_norm:
            torch.nn.utils.clip_grad_norm_(theirs.values(), clip_norm)
        torch_optimizer.step()
        if (step + 1) % 5 == 0:
            drops.step()
        as_jax = {path: jnp.asarray(value) for path, value in gradients.items()}
        changes, state = optimizer.update(as_jax, state, ours, jnp.asarray(step), total_norm(as_jax))
        ours = {path: value + changes[path] for path, value in ours.items()}
    for path, parameter in theirs.items():
        np.testing.assert_allclose(ours[path], parameter.detach().numpy(), rtol=0, atol=EXACT64)


def test_learning_rates_fall_to_a_tenth_after_each_drop_epoch() -> None:
    expected = [1.0] * 10 + [0.1] * 10 + [0.01] * 5 + [0.01]
    np.testing.assert_allclose(factors(RECIPE, epochs=5), expected, rtol=SAME32)


def test_a_drop_comes_where_an_uneven_epoch_ends() -> None:
    boundaries = [0, 3, 7, 10]
    falls = factors(RECIPE, epochs=3, steps_before=boundaries.__getitem__)
    np.testing.assert_allclose(falls, [1.0] * 7 + [0.1] * 4, rtol=SAME32)


def test_cosine_falls_from_the_full_rate_to_nothing() -> None:
    values = factors(dataclasses.replace(RECIPE, schedule="cosine"), epochs=4)
    np.testing.assert_allclose(values[[0, 10, 20]], [1.0, 0.5, 0.0], atol=SAME32)
    assert np.all(np.diff(values) < 0)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_warmup_rises_evenly_to_the_full_rate(schedule: Literal["step", "cosine"]) -> None:
    values = factors(dataclasses.replace(RECIPE, schedule=schedule, warmup_steps=4), epochs=4)
    np.testing.assert_allclose(values[:4], [0.25, 0.5, 0.75, 1.0], rtol=SAME32)


def test_each_group_has_its_own_rate() -> None:
    rates = make_optimizer(RECIPE, steps_before=five_an_epoch, epochs=4).learning_rates(12)
    np.testing.assert_allclose([rates["rest"], rates["backbone"]], [1e-3, 1e-4], rtol=SAME32)


def test_a_pattern_gives_parameters_a_rate_of_their_own_on_the_same_schedule(x64: None) -> None:
    rates = (r".*/bias=0", r"backbone/layer\d/.*=3e-2", r"(?=anchors).*=2e-2")
    config = dataclasses.replace(RECIPE, name="sgd", weight_decay=0.0, clip_norm=0.0, learning_rates=rates)
    optimizer = make_optimizer(config, steps_before=five_an_epoch, epochs=4)
    ones = {path: jnp.ones(()) for path in [*SHAPES, "backbone/stem/kernel"]}
    changes, _ = optimizer.update(ones, optimizer.init(ones), ones, jnp.asarray(12), total_norm(ones))
    expected = {
        "backbone/layer2/kernel": 3e-3,
        "backbone/layer2/bias": 0,  # the first pattern that matches
        "backbone/stem/kernel": 1e-4,
        "decoder/kernel": 1e-3,
        "anchors": 2e-3,
    }
    assert {path: -float(change) for path, change in changes.items()} == pytest.approx(expected, rel=EXACT64)


@pytest.mark.parametrize("pattern", ["decoder/kernal", "kernel", ".*/kernel"])
def test_a_pattern_that_decides_for_no_parameter_is_a_mistake(pattern: str) -> None:
    config = dataclasses.replace(RECIPE, learning_rates=("decoder/.*=1", "backbone/.*=1", f"{pattern}=1"))
    with pytest.raises(UserError, match=rf"optimizer\.learning_rates.*{re.escape(pattern)}.*no trained parameter"):
        make_optimizer(config, steps_before=five_an_epoch, epochs=4).init({path: jnp.ones(1) for path in SHAPES})


@pytest.mark.parametrize("entry", ["decoder", "decoder/.*=fast", "=1e-4", "decoder/.*=-1", "decoder/.*=nan", "(x=1"])
def test_a_rate_that_cannot_be_read_is_named(entry: str) -> None:
    with pytest.raises(UserError, match=rf"optimizer\.learning_rates.*{re.escape(repr(entry))}"):
        OptimizerConfig(learning_rates=(entry,))


@pytest.mark.parametrize("setting", ["muon_parameters", "freeze"])
def test_a_pattern_that_is_no_regular_expression_is_named(setting: str) -> None:
    with pytest.raises(UserError, match=rf"optimizer\.{setting}.*'\(x'.*not a regular expression"):
        dataclasses.replace(RECIPE, **{setting: ("(x",)})  # type: ignore[arg-type]


def test_two_rates_for_one_pattern_are_a_mistake() -> None:
    with pytest.raises(UserError, match="twice"):
        OptimizerConfig(learning_rates=("decoder/.*=1", "decoder/.*=2"))


def test_the_schedule_follows_the_step_it_is_told() -> None:
    """Also when the steps before it were refused, and the optimiser's own counters stand at zero."""
    config = dataclasses.replace(RECIPE, name="sgd", weight_decay=0.0, clip_norm=0.0)
    optimizer = make_optimizer(config, steps_before=five_an_epoch, epochs=4)
    params = {"decoder/kernel": jnp.ones(2)}
    change, _ = optimizer.update(params, optimizer.init(params), params, jnp.asarray(12), total_norm(params))
    np.testing.assert_allclose(change["decoder/kernel"], [-1e-3, -1e-3], rtol=SAME32)


def test_updates_keep_the_dtype_of_the_parameters(x64: None) -> None:
    optimizer = make_optimizer(RECIPE, steps_before=five_an_epoch, epochs=4)
    params = {"decoder/kernel": jnp.ones(2, jnp.float32)}
    changes, state = optimizer.update(params, optimizer.init(params), params, jnp.asarray(0), total_norm(params))
    assert changes["decoder/kernel"].dtype == jnp.float32
    assert all(leaf.dtype in (jnp.float32, jnp.int32) for leaf in jax.tree.leaves(state))
