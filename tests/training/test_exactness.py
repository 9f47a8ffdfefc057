"""The same five steps in float64, however images, parameters and processes are divided: losses and parameters agree."""

import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from anchordetr_jax.config import Config
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.training.sharding import ShardingRule
from tests.processes import free_port, start
from tests.tolerances import GRADIENT64_RELATIVE, STEPS64_RELATIVE
from tests.training.tiny import CONFIG, StandIn, Trainer, batch, changed, run, to_host, trainer

REPOSITORY = Path(__file__).parents[2]
STEPS = 5
WIDE = changed(CONFIG, model={"dtype": "float64", "decoder_layers": 1}, train={"ema_decay": 0.9})
HOST = changed(WIDE, matcher={"backend": "host"})
RECIPES: dict[str, dict[str, dict[str, Any]]] = {
    "official": {},
    "extended": {
        "optimizer": {"name": "muon", "learning_rate": 3e-3},
        "train": {"denoising_groups": 2, "denoising_negatives": True},
        "loss": {"classification": "iou_aware"},
        "augment": {"contrast": 0.4, "hue": 0.1},
    },
}
IN_TWO_PROCESSES = ((StandIn, "official"), (StandIn, "extended"), (AnchorDETR, "extended"))
RULES: dict[type[Any], tuple[ShardingRule, ...]] = {
    StandIn: (ShardingRule(".*", 8),),
    AnchorDETR: (ShardingRule(".*", 2**11),),
}

Trained = tuple[list[dict[str, float]], dict[str, np.ndarray]]
"""Metrics of each step, and weights and their average after the last."""


def five_batches() -> list[Batch]:
    """Images of two sizes, padded to the larger."""
    batches = []
    for seed in range(STEPS):
        one = batch(seed, size=(32, 48))
        one.image_sizes[::2] = 25, 40
        batches.append(one)
    return batches


def after_five_steps(made: Trainer, batches: list[Batch]) -> Trained:
    metrics = run(made, batches)
    state: Any = to_host(made.state)
    return metrics, {**state.params, **{f"ema/{path}": value for path, value in state.ema.items()}}


def train(model: type[Any], config: Config = HOST, *, devices: int = 1, fsdp: int = 1) -> Trained:
    return after_five_steps(
        trainer(config, model=model, devices=devices, fsdp=fsdp, rules=RULES[model]), five_batches()
    )


@functools.cache
def on_one_device(model: type[Any], recipe: str) -> Trained:
    """In one piece, matched on the device."""
    return train(model, changed(WIDE, **RECIPES[recipe]))


def assert_same(found: Trained, expected: Trained) -> None:
    assert len(found[0]) == STEPS
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, rel=GRADIENT64_RELATIVE)
        assert ours["refused"] == 0
    assert found[1].keys() == expected[1].keys()
    for path, value in expected[1].items():
        np.testing.assert_allclose(found[1][path], value, rtol=0, atol=STEPS64_RELATIVE, err_msg=path)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(("devices", "fsdp", "accumulate"), [(4, 1, 1), (2, 2, 1), (4, 2, 2)])
def test_devices_change_nothing(devices: int, fsdp: int, accumulate: int, recipe: str, x64: None) -> None:
    config = changed(changed(HOST, **RECIPES[recipe]), train={"accumulate": accumulate})
    assert_same(train(StandIn, config, devices=devices, fsdp=fsdp), on_one_device(StandIn, recipe))


def test_a_network_that_computes_in_bfloat16_is_trained_in_float32() -> None:
    made = trainer(changed(WIDE, model={"dtype": "bfloat16"}), model=AnchorDETR)
    state, metrics = jax.eval_shape(made.step, made.abstract, five_batches()[0])
    assert {str(leaf.dtype) for leaf in jax.tree.leaves((state, metrics))} == {"float32", "int32"}


WORKER = """
import sys
import jax
import numpy as np
from anchordetr_jax.devices import initialize_distributed
jax.config.update("jax_enable_x64", True)
port, index, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
initialize_distributed(f"127.0.0.1:{port}", 2, index)
from tests.training import test_exactness
for name, (metrics, weights) in test_exactness.as_one_of_two_processes(index).items():
    np.savez(f"{folder}/{name}-{index}.npz", **weights)
    np.save(f"{folder}/{name}-{index}.npy", metrics, allow_pickle=True)
"""


def as_one_of_two_processes(index: int) -> dict[str, Trained]:
    """What a worker does: models and recipes on the four devices of two processes, with its half of every batch."""
    assert jax.device_count() == 2 * jax.local_device_count() == 4
    halves = [jax.tree.map(lambda array: np.split(array, 2)[index], one) for one in five_batches()]
    trained = {}
    for model, recipe in IN_TWO_PROCESSES:
        config = changed(changed(HOST, **RECIPES[recipe]), train={"accumulate": 1 if model is StandIn else 2})
        made = trainer(config, model=model, devices=4, fsdp=2, rules=RULES[model])
        trained[f"{model.__name__}-{recipe}"] = after_five_steps(made, halves)
    return trained


@pytest.mark.processes
def test_two_processes_of_two_devices_each_learn_the_same_as_one_device(
    x64: None, script_environment: dict[str, str], tmp_path: Path
) -> None:
    port = free_port()
    flags = f"{script_environment['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    two_devices = {"XLA_FLAGS": flags, "NPROC": "16"}
    workers = [
        start(["-c", WORKER, str(port), str(index), str(tmp_path)], REPOSITORY, {**script_environment, **two_devices})
        for index in range(2)
    ]
    try:
        expected = {  # Meanwhile.
            f"{model.__name__}-{recipe}": on_one_device(model, recipe) for model, recipe in IN_TWO_PROCESSES
        }
        for worker in workers:
            _, errors = worker.communicate(timeout=600)
            assert worker.wait() == 0, errors
    finally:
        for worker in workers:
            worker.kill()
    for name, trained in expected.items():
        for index in range(2):
            metrics = list(np.load(tmp_path / f"{name}-{index}.npy", allow_pickle=True))
            with np.load(tmp_path / f"{name}-{index}.npz") as weights:
                assert_same((metrics, dict(weights)), trained)
