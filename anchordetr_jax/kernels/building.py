"""A detector built for a platform, and apart from its arrays.

The arrays live in flat dicts from a path such as `"backbone/layer2/blocks/0/conv1/kernel"`. The same paths serve
conversion, checkpoints, learning-rate groups, freezing and sharding rules.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.kernels import chosen_platform, install
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.small_backbones import small_backbone

Variables = dict[str, jax.Array]
"""Arrays by path, path parts joined by "/"."""


class InitialKeys(nnx.Rngs):
    """Gives the same keys as `nnx.Rngs(seed).params()`, and counts them in Python.

    `nnx.Rngs` counts them in an array. Under a JAX transformation that takes five times as long as all the rest.
    """

    def __init__(self, seed: int):
        super().__init__(seed)
        self.drawn = 0

    def params(self) -> jax.Array:
        """The next key."""
        key = jax.random.fold_in(self.default.key[...], self.drawn)
        self.drawn += 1
        return key


def build(config: ModelConfig, *, rngs: nnx.Rngs, platform: str | None = None, interpret: bool = False) -> AnchorDETR:
    """A detector with initial weights and, as `model.kernels` says, a platform's functions in its layers.

    Args:
        config: `num_classes` must be set.
        rngs: for the initial weights.
        platform: where it will run, as JAX names it ("cpu", "gpu", "tpu"). The default is JAX's default backend.
        interpret: as for `kernels.install`.
    """
    model = AnchorDETR(config, rngs=rngs, backbone=small_backbone(config, rngs=rngs))
    if chosen := chosen_platform(config.kernels, platform or jax.default_backend()):
        install(model, chosen, interpret=interpret)
    return model


@functools.lru_cache(maxsize=16)  # It takes seconds, and many callers ask for the same one.
def definition_of(config: ModelConfig, platform: str | None = None, *, interpret: bool = False) -> "ModelDefinition":
    """The detector of these settings without its arrays; the arguments are those of `build`."""
    return ModelDefinition.abstract(lambda: build(config, rngs=InitialKeys(0), platform=platform, interpret=interpret))


@dataclasses.dataclass(frozen=True)
class ModelDefinition:
    """A model without its arrays: all that `merge` needs to build it again."""

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
        """Paths of the `nnx.Param`s: everything that can be trained. Frozen statistics cannot."""
        return frozenset(_join(path) for path, variable in self.template if isinstance(variable, nnx.Param))

    def merge(self, *variables: Mapping[str, Any]) -> Any:
        """The NNX model with the given arrays, which together must have every path. It works inside `jax.jit` too."""
        values = {path: value for group in variables for path, value in group.items()}
        flat = [(path, variable.replace(values[_join(path)])) for path, variable in self.template]
        return nnx.merge(self.graphdef, nnx.from_flat_state(flat))


def variables_of(model: nnx.Module) -> Variables:
    """All arrays of a model by path."""
    return {_join(path): variable.get_value() for path, variable in nnx.to_flat_state(nnx.split(model)[1])}


def count(variables: Mapping[str, Any]) -> int:
    """The number of scalars in all arrays together."""
    return sum(math.prod(value.shape) for value in variables.values())


def _join(path: tuple[Any, ...]) -> str:
    return "/".join(map(str, path))
