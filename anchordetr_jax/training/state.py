"""What a training run carries from step to step, as one pytree, and the way between it and the NNX model.

Weights live outside the model as flat dicts from a path such as `"backbone/layer2/0/conv1/kernel"` to its array: the
same names serve learning-rate groups, freezing, sharding rules and checkpoints.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from anchordetr_jax.errors import UserError

Variables = dict[str, jax.Array]
"""Arrays by path, path parts joined by "/"."""
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


@dataclasses.dataclass(frozen=True)
class ModelDefinition:
    """A model without its arrays: what `nnx.split` says of it, so that `merge` can build it again."""

    graphdef: nnx.GraphDef[Any]
    template: tuple[tuple[tuple[Any, ...], nnx.Variable[Any]], ...]
    """Path and (abstract) variable, for every variable of the model."""

    @classmethod
    def of(cls, model: nnx.Module) -> "ModelDefinition":
        """The definition of `model`, whose arrays may be abstract (`jax.ShapeDtypeStruct`)."""
        graphdef, state = nnx.split(model)
        abstract = [
            (path, variable.replace(jax.ShapeDtypeStruct(variable.get_value().shape, variable.get_value().dtype)))
            for path, variable in nnx.to_flat_state(state)
        ]
        return cls(graphdef, tuple(abstract))

    @classmethod
    def abstract(cls, build: Callable[[], nnx.Module]) -> "ModelDefinition":
        """The definition of the model that `build` would make, without making its arrays."""
        return cls.of(nnx.eval_shape(build))

    @property
    def shapes(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shape and dtype of every variable."""
        return {_join(path): variable.get_value() for path, variable in self.template}

    def trainable_paths(self, freeze: Iterable[str]) -> frozenset[str]:
        """Paths of the `nnx.Param`s that no pattern of `freeze` matches as a whole.

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
            path
            for path, variable in ((_join(path), variable) for path, variable in self.template)
            if isinstance(variable, nnx.Param) and not any(pattern.fullmatch(path) for pattern in patterns)
        )
        if not paths:
            raise UserError(
                "Setting 'optimizer.freeze' matches every parameter: remove some, so that something is left to train."
            )
        return paths

    def merge(self, *variables: Mapping[str, Any]) -> Any:
        """The NNX model holding the given arrays (together: one for every path), inside `jax.jit` as well."""
        values = {path: value for group in variables for path, value in group.items()}
        flat = [(path, variable.replace(values[_join(path)])) for path, variable in self.template]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


def variables_of(model: nnx.Module) -> Variables:
    """All arrays of a model by path."""
    return {_join(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.split(model)[1])}


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


def count(variables: Mapping[str, Any]) -> int:
    """Number of scalars in all arrays together."""
    return sum(math.prod(value.shape) for value in variables.values())


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
