"""Starting a run from the weights of another: what fits is loaded, the class head starts anew for other classes."""

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


class StartReport(NamedTuple):
    """Paths of a model's variables by what became of them."""

    checkpoint: str
    loaded: tuple[str, ...]
    anew: tuple[str, ...]
    """Left at their initial values."""

    def __str__(self) -> str:
        anew = ", ".join(sorted({re.sub(r"/(kernel|bias)$", "", path) for path in self.anew})[:6]) or "nothing"
        more = ", …" if len(self.anew) > 12 else ""
        return f"Started from {self.checkpoint}: loaded {len(self.loaded)} arrays; started anew: {anew}{more}."


def load_start(path: str, state: TrainState, categories: Categories | None) -> tuple[TrainState, StartReport]:
    """The state with its variables (and the moving average of them, where one is kept) replaced by a checkpoint's.

    The class head is left as it is where the checkpoint's has another size or other classes. Whole parts of the model
    may be missing from the checkpoint (a backbone alone is a fine start), or be there and of no use.

    Args:
        path: a workdir, its checkpoints folder, or one checkpoint.
        state: the initial state, whose shardings are kept.
        categories: of the data set to train on.

    Raises:
        UserError: there is no sound checkpoint, or it is of another architecture, or it has nothing of use.
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
        raise UserError(f"Checkpoint {directory} (init_from) has nothing in common with the model: choose another.")
    loaded = load_variables(directory, usable)
    report = StartReport(str(directory), tuple(sorted(usable)), tuple(sorted(current.keys() - usable.keys())))
    state = dataclasses.replace(
        state,
        params={name: loaded.get(name, value) for name, value in state.params.items()},
        frozen={name: loaded.get(name, value) for name, value in state.frozen.items()},
    )
    return (with_average(state) if state.ema else state), report


def _parts(shapes: Mapping[str, Any]) -> set[str]:
    return {name.split("/")[0] for name in shapes}
