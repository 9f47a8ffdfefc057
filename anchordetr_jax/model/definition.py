"""A model apart from its arrays, which then live in flat dicts from a path such as `"backbone/layer2/0/conv1/kernel"`.

The same paths serve conversion, checkpoints, learning-rate groups, freezing and sharding rules.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

Variables = dict[str, jax.Array]
"""Arrays by path, path parts joined by "/"."""


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

    @property
    def param_paths(self) -> frozenset[str]:
        """Paths of the `nnx.Param`s: what can be trained, as frozen statistics cannot."""
        return frozenset(_join(path) for path, variable in self.template if isinstance(variable, nnx.Param))

    def merge(self, *variables: Mapping[str, Any]) -> Any:
        """The NNX model holding the given arrays (together: one for every path), inside `jax.jit` as well."""
        values = {path: value for group in variables for path, value in group.items()}
        flat = [(path, variable.replace(values[_join(path)])) for path, variable in self.template]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


def variables_of(model: nnx.Module) -> Variables:
    """All arrays of a model by path."""
    return {_join(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.split(model)[1])}


def count(variables: Mapping[str, Any]) -> int:
    """Number of scalars in all arrays together."""
    return sum(math.prod(value.shape) for value in variables.values())


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
