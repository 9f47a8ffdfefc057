"""A new run takes over the weights of a checkpoint that fit. With other classes the class head keeps random weights."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from anchordetr_jax.checkpoints.checkpoint import (
    compare_shapes,
    find_checkpoint,
    load_variables,
    other_architecture,
    read_meta,
    saved_shapes,
)
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.state import TrainState, with_average

CLASS_HEAD = r"class_head/.*"
"""Variables whose size and meaning depend on the classes of the data set."""


class LoadedWeights(NamedTuple):
    """What was loaded from a checkpoint, and what was not."""

    checkpoint: str
    loaded: tuple[str, ...]
    """Paths of the variables whose values come from the checkpoint."""
    random: tuple[str, ...]
    """Paths of the variables that keep their random values."""

    def __str__(self) -> str:
        modules = sorted({re.sub(r"/(kernel|bias)$", "", path) for path in self.random})
        named = ", ".join(modules[:6]) + (", …" if len(modules) > 6 else "")
        rest = f"; random weights: {named}" if modules else ""
        return f"Initial weights from {self.checkpoint}: {len(self.loaded)} arrays{rest}."


def load_initial_weights(
    path: str, state: TrainState, categories: Categories | None
) -> tuple[TrainState, LoadedWeights]:
    """The state with the variables of a checkpoint. A moving average, if one is kept, begins with them.

    The class head is not loaded if the checkpoint's has another size or other classes. Whole parts of the model may be
    missing from the checkpoint (a backbone alone will do), and the checkpoint may have parts that the model lacks.

    Args:
        path: a workdir, its checkpoints folder, or one checkpoint.
        state: the initial state. Its shardings are kept.
        categories: those of the data set to train on.

    Raises:
        UserError: there is no sound checkpoint, it is of another architecture, or it has no part of the model.
    """
    directory = find_checkpoint(path)
    meta = read_meta(directory)
    current: dict[str, Any] = {**state.params, **state.frozen}
    found = saved_shapes(directory)
    same_classes = meta.categories is None or categories is None or meta.categories.names == categories.names
    parts = _parts(current) & _parts(found)

    def comparable(shapes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: shape
            for name, shape in shapes.items()
            if name.split("/")[0] in parts and not re.fullmatch(CLASS_HEAD, name)
        }

    if differences := compare_shapes(comparable(current), comparable(found)):
        raise other_architecture(directory, differences)
    usable = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding)
        for name, value in current.items()
        if found.get(name) == tuple(value.shape) and (same_classes or not re.fullmatch(CLASS_HEAD, name))
    }
    if not usable:
        raise UserError(f"Checkpoint {directory} (init_from) has no part of this model: choose another one.")
    loaded = load_variables(directory, usable)
    report = LoadedWeights(str(directory), tuple(sorted(usable)), tuple(sorted(current.keys() - usable.keys())))
    state = dataclasses.replace(
        state,
        params={name: loaded.get(name, value) for name, value in state.params.items()},
        frozen={name: loaded.get(name, value) for name, value in state.frozen.items()},
    )
    return (with_average(state) if state.ema else state), report


def _parts(shapes: Mapping[str, Any]) -> set[str]:
    return {name.split("/")[0] for name in shapes}
