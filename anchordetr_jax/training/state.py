"""What a training run carries from step to step, as one pytree."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

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


def trainable_paths(definition: ModelDefinition, freeze: Iterable[str]) -> frozenset[str]:
    """Paths of the parameters that no pattern of `freeze` matches as a whole.

    Raises:
        UserError: a pattern is not a regular expression, or nothing is left to train.
    """
    patterns = []
    for pattern in freeze:
        try:
            patterns.append(re.compile(pattern))
        except re.error as error:
            raise UserError(
                f"Setting 'optimizer.freeze' has {pattern!r}, which is not a regular expression: {error}."
            ) from error
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


def new_state(params: Variables, frozen: Variables, init_optimizer: Callable[[Variables], Any]) -> TrainState:
    """The state before the first step."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        opt_state=init_optimizer(params),
        bad_steps=jnp.zeros((), jnp.int32),
        bad_steps_in_row=jnp.zeros((), jnp.int32),
    )
