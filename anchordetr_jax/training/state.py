"""What a training run carries from step to step, as one pytree."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from anchordetr_jax.config import OptimizerConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.model.definition import ModelDefinition, Variables

Value = TypeVar("Value")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that one step reads and the next one needs. All leaves are arrays; counters are int32 scalars."""

    step: jax.Array
    """Steps taken, refused ones included: it says which batch comes next."""
    params: Variables
    """Parameters that are trained."""
    frozen: Variables
    """All other variables of the model: frozen parameters and frozen statistics."""
    opt_state: Any
    bad_steps: jax.Array
    """Steps that were refused because loss or gradient was not finite."""
    bad_steps_in_row: jax.Array
    """…since the last step that was not."""
    ema: Variables = dataclasses.field(default_factory=dict)
    """Moving average of `params` over the steps, by path. Empty where none is kept."""


def evaluated_variables(state: TrainState) -> Variables:
    """All variables of the model as it is evaluated: with the moving average of the weights where one is kept."""
    return {**(state.ema or state.params), **state.frozen}


def with_average(state: TrainState) -> TrainState:
    """The state with a moving average that begins with the weights it has now. All processes must call it."""
    # Copies, because the step is given every array of the state to overwrite, and may get none of them twice.
    shardings = jax.tree.map(lambda value: value.sharding, state.params)
    copy = jax.jit(lambda params: jax.tree.map(jnp.copy, params), out_shardings=shardings)
    return dataclasses.replace(state, ema=copy(state.params))


def average_of(ema: Variables, params: Variables, *, decay: float, updates: jax.Array) -> Variables:
    """The moving average after `updates` earlier ones: decay * average + (1 - decay) * params.

    The decay is (1 + updates) / (10 + updates) as long as that is less, so that the average is at first one over the
    last few steps, whatever the decay.
    """
    count = updates.astype(float)
    weight = 1 - jnp.minimum(decay, (1 + count) / (10 + count))
    return {path: value + weight.astype(value.dtype) * (params[path] - value) for path, value in ema.items()}


def trainable_paths(definition: ModelDefinition, freeze: Iterable[str]) -> frozenset[str]:
    """Paths of the parameters that no pattern of `freeze` matches as a whole.

    Raises:
        UserError: a pattern is not a regular expression or matches nothing, or nothing is left to train.
    """
    patterns = []
    for pattern in freeze:
        try:
            patterns.append(re.compile(pattern))
        except re.error as error:
            raise UserError(
                f"Setting 'optimizer.freeze' has {pattern!r}, which is not a regular expression: {error}."
            ) from error
        # The default speaks of a ResNet's first layers, which another backbone need not have.
        if pattern not in OptimizerConfig.freeze and not any(map(patterns[-1].fullmatch, definition.param_paths)):
            raise UserError(
                f"Setting 'optimizer.freeze' has {pattern!r}, which matches no parameter as a whole: parameters have "
                f"paths such as {min(definition.param_paths)!r}."
            )
    paths = frozenset(
        path for path in definition.param_paths if not any(pattern.fullmatch(path) for pattern in patterns)
    )
    if not paths:
        raise UserError(
            "Setting 'optimizer.freeze' matches every parameter: remove some, so that something is left to train."
        )
    return paths


def split_variables(
    variables: Mapping[str, Value], trainable: frozenset[str]
) -> tuple[dict[str, Value], dict[str, Value]]:
    """(trained, all others)."""
    params = {path: value for path, value in variables.items() if path in trainable}
    return params, {path: value for path, value in variables.items() if path not in trainable}


def new_state(
    params: Variables, frozen: Variables, init_optimizer: Callable[[Variables], Any], *, ema: bool = False
) -> TrainState:
    """The state before the first step, with a moving average of the weights or without."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        opt_state=init_optimizer(params),
        bad_steps=jnp.zeros((), jnp.int32),
        bad_steps_in_row=jnp.zeros((), jnp.int32),
        ema=jax.tree.map(jnp.copy, params) if ema else {},
    )
