"""The state of a training run: one pytree that each step reads and replaces."""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from anchordetr_jax.config import OptimizerConfig
from anchordetr_jax.devices import replicated
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import ModelDefinition, Variables, variables_of
from anchordetr_jax.training.optimizer import Optimizer
from anchordetr_jax.training.sharding import FSDP_RULES, ShardingRule, variable_shardings

Value = TypeVar("Value")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything that one step hands to the next. All leaves are arrays; counters are int32 scalars."""

    step: jax.Array
    """Steps taken, refused ones included. It decides which batch comes next."""
    params: Variables
    """Parameters that are trained."""
    frozen: Variables
    """All other variables of the model: frozen parameters and frozen statistics."""
    opt_state: Any
    bad_steps: jax.Array
    """Steps that were refused because the loss or the gradient was not finite."""
    bad_steps_in_row: jax.Array
    """Steps that were refused since the last good step."""
    ema: Variables = dataclasses.field(default_factory=dict)
    """Moving average of `params` over the steps, by path. Empty if no average is kept."""


def initial_state(
    definition: ModelDefinition,
    build: Callable[[], Any],
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    freeze: Sequence[str],
    rules: Sequence[ShardingRule] = FSDP_RULES,
    ema: bool = False,
) -> TrainState:
    """The state before the first step. Each device makes only its own share of it.

    Args:
        definition: the definition of the model that `build` makes.
        build: makes the model with its initial weights; traced under `jax.jit`.
        optimizer: its state is part of the training state.
        mesh: the devices.
        freeze: patterns of the parameters that are not trained.
        rules: decide which parameters are split over `fsdp`.
        ema: whether a moving average of the weights is kept.
    """
    trainable = trainable_paths(definition, freeze)

    def make() -> TrainState:
        return new_state(*split_variables(variables_of(build()), trainable), optimizer.init, ema=ema)

    return jax.jit(make, out_shardings=state_shardings(jax.eval_shape(make), mesh, rules))()


def abstract_state(
    definition: ModelDefinition,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    freeze: Sequence[str],
    rules: Sequence[ShardingRule] = FSDP_RULES,
    ema: bool = False,
) -> TrainState:
    """Shapes, dtypes and shardings of the state (`jax.ShapeDtypeStruct` leaves), e.g. for restoring a checkpoint."""
    params, frozen = split_variables(definition.shapes, trainable_paths(definition, freeze))
    shapes = jax.eval_shape(lambda: new_state(_zeros(params), _zeros(frozen), optimizer.init, ema=ema))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh, rules),
    )


def state_shardings(state: TrainState, mesh: Mesh, rules: Sequence[ShardingRule] = FSDP_RULES) -> TrainState:
    """The sharding of every leaf of a (possibly abstract) state. Moments and averages are split like their weights."""
    variables = {**state.params, **state.frozen}
    by_path = variable_shardings(variables, mesh, rules)

    def leaf_sharding(key_path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        path = key_path[-1].key if key_path and isinstance(key_path[-1], jax.tree_util.DictKey) else None
        if path in by_path and leaf.shape == variables[path].shape:
            return by_path[path]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(leaf_sharding, state)


def evaluated_variables(state: TrainState) -> Variables:
    """All variables of the model as it is evaluated: with the moving average of the weights if one is kept."""
    return {**(state.ema or state.params), **state.frozen}


def with_average(state: TrainState) -> TrainState:
    """The state with a moving average that begins with the current weights. All processes must call it."""
    # Copies: the step overwrites every array of the state, so no array may be in it twice.
    shardings = jax.tree.map(lambda value: value.sharding, state.params)
    copy = jax.jit(lambda params: jax.tree.map(jnp.copy, params), out_shardings=shardings)
    return dataclasses.replace(state, ema=copy(state.params))


def average_of(ema: Variables, params: Variables, *, decay: float, warmup: float, updates: jax.Array) -> Variables:
    """The moving average after `updates` earlier ones: decay * average + (1 - decay) * params.

    The decay is at most (1 + updates) / (1 + warmup + updates), so that the average soon forgets the first weights.
    """
    count = updates.astype(float)
    weight = 1 - jnp.minimum(decay, (1 + count) / (1 + warmup + count))
    return {path: value + weight.astype(value.dtype) * (params[path] - value) for path, value in ema.items()}


def trainable_paths(definition: ModelDefinition, freeze: Collection[str]) -> frozenset[str]:
    """Paths of the parameters whose whole path matches no pattern of `freeze`.

    Raises:
        UserError: a pattern matches nothing, or every parameter is frozen.
    """
    for pattern in freeze:
        found = any(re.fullmatch(pattern, path) for path in definition.param_paths)
        # The default names the first layers of a ResNet. Other backbones do not have them.
        if not found and pattern not in OptimizerConfig.freeze:
            raise UserError(
                f"Setting 'optimizer.freeze' has {pattern!r}, which matches no parameter as a whole: parameters have "
                f"paths such as {min(definition.param_paths)!r}."
            )
    paths = frozenset(
        path for path in definition.param_paths if not any(re.fullmatch(pattern, path) for pattern in freeze)
    )
    if not paths:
        raise UserError(
            "Setting 'optimizer.freeze' matches every parameter, so nothing is left to train: remove some patterns."
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
    """The state before the first step, from the variables of the model. `ema`: with a moving average of the weights."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        frozen=frozen,
        opt_state=init_optimizer(params),
        bad_steps=jnp.zeros((), jnp.int32),
        bad_steps_in_row=jnp.zeros((), jnp.int32),
        ema=jax.tree.map(jnp.copy, params) if ema else {},
    )


def _zeros(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Variables:
    return {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in shapes.items()}
