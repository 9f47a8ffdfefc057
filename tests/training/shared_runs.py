"""Runs of the stand-in in a test's own process that share what they trace and compile.

A run of ten steps takes three times as long if its step is traced, lowered and loaded again. Runs in other processes,
such as those of test_train_script.py, share nothing.
"""

import dataclasses
import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh

from anchordetr_jax.config import Config, OptimizerConfig
from anchordetr_jax.kernels.building import ModelDefinition
from anchordetr_jax.training import loop as loop_module
from anchordetr_jax.training import run as run_module
from anchordetr_jax.training.optimizer import Optimizer, make_optimizer
from anchordetr_jax.training.state import TrainState, initial_state
from anchordetr_jax.training.step import TrainStep, make_train_step
from tests.training.tiny import build_in_place

_ELSEWHERE = {
    "epochs": 1,  # A step has them in its optimizer.
    "log_every": 1,
    "checkpoint_every": 1,
    "evaluate_every": 1,
    "keep_best": False,
    "patience": 0,
}
"""Settings of the training that no step reads. Runs that differ in others have steps of their own."""

_optimizers: dict[Hashable, Optimizer] = {}
_steps: dict[Hashable, TrainStep] = {}
_states: dict[Hashable, Callable[[], TrainState]] = {}


def share_runs(patch: pytest.MonkeyPatch) -> None:
    """Lets `train` train the stand-in, with steps and first states that all such runs share."""
    patch.setattr(run_module, "build", build_in_place)
    patch.setattr(run_module, "make_optimizer", _optimizer)
    patch.setattr(run_module, "initial_state", _initial_state)
    patch.setattr(loop_module, "make_train_step", _train_step)


def _optimizer(config: OptimizerConfig, *, steps_before: Callable[[int], int], epochs: int, mesh: Mesh) -> Optimizer:
    steps = [steps_before(epoch) for epoch in range(epochs + 1)]
    read = steps[config.drop_epoch :: config.drop_epoch] if config.schedule == "step" else steps[-1:]
    key = (config, tuple(read), mesh)  # Runs of any length share a rate that never drops.
    if key not in _optimizers:
        _optimizers[key] = make_optimizer(config, steps_before=steps.__getitem__, epochs=epochs, mesh=mesh)
    return _optimizers[key]


def _train_step(
    definition: ModelDefinition, optimizer: Optimizer, config: Config, mesh: Mesh, state: TrainState
) -> TrainStep:
    key = (optimizer, _of_step(config), mesh)
    if key not in _steps:
        _steps[key] = make_train_step(definition, optimizer, config, mesh, state)
    return _steps[key]


def _initial_state(
    definition: ModelDefinition, build: Callable[[], Any], optimizer: Optimizer, mesh: Mesh, **options: Any
) -> TrainState:
    config: Config = build.__self__.config  # type: ignore[attr-defined]  # It is a method of the run.
    key = (optimizer, _of_step(config), mesh)
    if key not in _states:
        state = initial_state(definition, build, optimizer, mesh, **options)
        # The step overwrites what it is given.
        _states[key] = functools.partial(jax.jit(lambda state: jax.tree.map(jnp.copy, state)), state)
    return _states[key]()


def _of_step(config: Config) -> Config:
    return dataclasses.replace(config, init_from="", train=dataclasses.replace(config.train, **_ELSEWHERE))  # type: ignore[arg-type]
