"""This package's programs, compiled for one shape and ready to run many times."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.benchmark.gpu.flags import CompilerOptions
from anchordetr_jax.config import Config, MatcherConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.detection.matching import Targets, match
from anchordetr_jax.devices import global_batch, make_mesh, replicated
from anchordetr_jax.kernels import chosen_platform, compiler_options
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.optimizer import make_optimizer
from anchordetr_jax.training.state import new_state, split_variables, trainable_paths
from anchordetr_jax.training.step import make_train_step


class Program(NamedTuple):
    """A compiled program, and what the compiler says about it."""

    start: Callable[[], Any]
    """Runs it once. On an accelerator it returns before the result is there."""
    flops: Callable[[], float]
    """Counts its floating-point operations, as XLA does. A network with kernels is traced once more for it."""
    temporary_bytes: int
    argument_bytes: int
    compile_seconds: float

    def run(self, times: int = 1) -> Any:
        """Runs it once, or `times` times one after the other, and waits for the last result."""
        for _ in range(times - 1):
            self.start()
        return jax.block_until_ready(self.start())


def forward_program(
    config: Config, variables: Mapping[str, Any], batch: Batch, *, options: CompilerOptions | None = None
) -> Program:
    """From uint8 pixels to the logits and boxes of all decoder layers. `options` are more options of the compiler."""
    arguments = jax.device_put((dict(variables), batch.images, batch.image_sizes))
    compiled, seconds, flops = _compile(jitted_forward, config, arguments, options)
    return _program(lambda: compiled(*arguments), compiled, seconds, flops)


def train_program(
    config: Config, variables: Mapping[str, Any], batch: Batch, *, options: CompilerOptions | None = None
) -> Program:
    """A whole training step: forward pass, matching, losses, gradients, update. Each run continues from the last one.

    The step runs on the first device alone. `options` are more options of the compiler.
    """
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    definition = definition_of(config.model)
    optimizer = make_optimizer(config.optimizer, steps_before=lambda epoch: 1000 * epoch, epochs=config.train.epochs)
    trained = trainable_paths(definition, config.optimizer.freeze)
    state = new_state(*split_variables(jax.tree.map(jnp.asarray, variables), trained), optimizer.init)
    state = jax.device_put(state, replicated(mesh))
    on_device = global_batch(batch, mesh)

    def train_step(config: Config) -> Any:
        return make_train_step(definition_of(config.model), optimizer, config, mesh, state)

    arguments = state, on_device
    compiled, seconds, flops = _compile(train_step, config, arguments, options)
    del arguments  # The first step takes over the memory of this state.

    def start() -> Any:
        nonlocal state
        state, metrics = compiled(state, on_device)
        return state, metrics

    return _program(start, compiled, seconds, flops)


def matching_program(config: MatcherConfig, logits: np.ndarray, boxes: np.ndarray, targets: Targets) -> Program:
    """Costs and assignments of all decoder layers: logits [L,B,Q,K], boxes [L,B,Q,4] -> queries [L,B,N]."""
    arguments = jax.device_put((logits, boxes, targets))
    start = time.perf_counter()
    lowered = jax.jit(functools.partial(match, config=config)).lower(*arguments)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    return _program(lambda: compiled(*arguments), compiled, seconds, lambda: flops_of(lowered))


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


def _compile(
    function_of: Callable[[Config], Any], config: Config, arguments: tuple[Any, ...], options: CompilerOptions | None
) -> tuple[jax.stages.Compiled, float, Callable[[], float]]:
    """The compiled function of these settings, the seconds that it took, and what counts its FLOPs."""
    start = time.perf_counter()
    lowered = function_of(config).lower(*arguments)
    compiled = lowered.compile(compiler_options=options)
    seconds = time.perf_counter() - start
    # The first run of a training step takes over the memory of its arguments.
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), arguments)

    @functools.cache
    def flops() -> float:
        if chosen_platform(config.model.kernels, jax.default_backend()) is None:
            return flops_of(lowered)
        return flops_of(function_of(countable(config)).lower(*shapes))

    return compiled, seconds, flops


def _program(
    start: Callable[[], Any], compiled: jax.stages.Compiled, seconds: float, flops: Callable[[], float]
) -> Program:
    memory = compiled.memory_analysis()
    assert memory is not None
    return Program(start, flops, int(memory.temp_size_in_bytes), int(memory.argument_size_in_bytes), seconds)
