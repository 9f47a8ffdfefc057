"""This package's programs, compiled for one shape and ready to run many times."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.config import Config, MatcherConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.detection.matching import Targets, match
from anchordetr_jax.devices import global_batch, make_mesh, replicated
from anchordetr_jax.kernels import compiler_options
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.optimizer import make_optimizer
from anchordetr_jax.training.state import new_state, split_variables, trainable_paths
from anchordetr_jax.training.step import make_train_step
from anchordetr_jax.weights.state_dict import variables_from_state_dict


class Program(NamedTuple):
    """A compiled program, and what the compiler says about it."""

    run: Callable[[], Any]
    """Runs it once and waits for the result."""
    flops: float
    temporary_bytes: int
    compile_seconds: float


def forward_program(config: Config, state_dict: Mapping[str, np.ndarray], batch: Batch) -> Program:
    """From uint8 pixels to the logits and boxes of all decoder layers."""
    variables = jax.device_put(variables_from_state_dict(state_dict, config.model))
    arguments = variables, jax.device_put(batch.images), jax.device_put(batch.image_sizes)
    compiled, seconds = _compile(jitted_forward(config), *arguments)
    flops = flops_of(jitted_forward(countable(config)).lower(*arguments))
    return _program(lambda: jax.block_until_ready(compiled(*arguments)), compiled, seconds, flops)


def train_program(config: Config, state_dict: Mapping[str, np.ndarray], batch: Batch) -> Program:
    """A whole training step: forward pass, matching, losses, gradients, update. Each run continues from the last one.

    The step runs on the first device alone.
    """
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    definition = definition_of(config.model)
    optimizer = make_optimizer(config.optimizer, steps_before=lambda epoch: 1000 * epoch, epochs=config.train.epochs)
    variables = variables_from_state_dict(state_dict, config.model)
    trained = trainable_paths(definition, config.optimizer.freeze)
    state = new_state(*split_variables(jax.tree.map(jnp.asarray, variables), trained), optimizer.init)
    state = jax.device_put(state, replicated(mesh))
    on_device = global_batch(batch, mesh)

    def train_step(config: Config) -> Any:
        return make_train_step(definition_of(config.model), optimizer, config, mesh, state)

    compiled, seconds = _compile(train_step(config), state, on_device)
    flops = flops_of(train_step(countable(config)).lower(state, on_device))

    def run() -> None:
        nonlocal state
        state, metrics = compiled(state, on_device)
        jax.block_until_ready((state, metrics))

    return _program(run, compiled, seconds, flops)


def matching_program(config: MatcherConfig, logits: np.ndarray, boxes: np.ndarray, targets: Targets) -> Program:
    """Costs and assignments of all decoder layers: logits [L,B,Q,K], boxes [L,B,Q,4] -> queries [L,B,N]."""
    arguments = jax.device_put((logits, boxes, targets))
    compiled, seconds = _compile(jax.jit(functools.partial(match, config=config)), *arguments)
    flops = compiled.cost_analysis()["flops"]
    return _program(lambda: jax.block_until_ready(compiled(*arguments)), compiled, seconds, flops)


def product_flops_per_second(size: int = 2048, dtype: str = "float32") -> float:
    """What one large matrix product reaches on the first device. It stands for the peak where no other is known."""
    a = jnp.ones((size, size), dtype)
    product = jax.jit(functools.partial(jnp.matmul, precision="highest"))
    jax.block_until_ready(product(a, a))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        jax.block_until_ready(product(a, a))
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


def jitted_forward(config: Config) -> Any:
    """From variables, images and their sizes to the predictions of all decoder layers."""
    definition = definition_of(config.model)
    options = compiler_options(jax.default_backend())
    return jax.jit(lambda variables, *inputs: definition.merge(variables)(*inputs), compiler_options=options)


def countable(config: Config) -> Config:
    """The same network without kernels: XLA counts the operations of a loop only once, and kernels have loops."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, kernels="none"))


def flops_of(lowered: jax.stages.Lowered) -> float:
    """XLA's count of the floating-point operations of a program."""
    costs = lowered.cost_analysis()
    assert costs is not None
    return float(costs["flops"])


def temporary_bytes(compiled: jax.stages.Compiled) -> int:
    """Memory that a compiled program needs besides its arguments and results, by the compiler's analysis."""
    memory = compiled.memory_analysis()
    assert memory is not None
    return int(memory.temp_size_in_bytes)


def _compile(function: Any, *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    compiled = function.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def _program(run: Callable[[], Any], compiled: Any, seconds: float, flops: float) -> Program:
    return Program(run, flops, temporary_bytes(compiled), seconds)
