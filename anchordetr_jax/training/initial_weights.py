"""A new run takes over the weights of a checkpoint that fit. Classes of the same name keep their weights."""

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
from anchordetr_jax.config import ModelConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.state import TrainState, with_average
from anchordetr_jax.weights.class_rows import ClassRows, load_rows, rows_to_keep

CLASS_HEAD = r"class_head/.*"
"""Variables whose size and meaning depend on the classes of the data set."""
UNSEEN = ("dilation", "anchor_border", "spatial_prior", "num_anchors")
"""Model settings that change what weights detect, while shapes do not always tell them. Training can adapt to them."""


class LoadedWeights(NamedTuple):
    """What was loaded from a checkpoint, and what was not."""

    checkpoint: str
    loaded: tuple[str, ...]
    """Paths of the variables whose values come from the checkpoint."""
    random: tuple[str, ...]
    """Paths of the variables that keep their random values."""
    classes: ClassRows | None = None
    """Which classes keep their weights. None: the whole class head was loaded, or nobody knows the classes."""
    differences: tuple[str, ...] = ()
    """Settings of the network that the checkpoint had otherwise, a few words each."""

    def __str__(self) -> str:
        modules = sorted({re.sub(r"/(kernel|bias)$", "", path) for path in self.random})
        named = ", ".join(modules[:6]) + (", …" if len(modules) > 6 else "")
        rest = f"; random weights: {named}" if modules else ""
        sentence = f"Initial weights from {self.checkpoint}: {len(self.loaded)} arrays{rest}."
        if self.differences:
            sentence += f" They were trained with {', '.join(self.differences)}: they have to adapt to this."
        return sentence if self.classes is None else f"{sentence} {self.classes}"


def load_initial_weights(
    path: str,
    state: TrainState,
    model: ModelConfig,
    categories: Categories | None,
    renamed: Mapping[str, str] | None = None,
) -> tuple[TrainState, LoadedWeights]:
    """The state with the variables of a checkpoint. A moving average, if one is kept, begins with them.

    Of the class head, the rows of the classes that both know are loaded. The whole head is loaded where the classes are
    the same, or where they are not known and the sizes are the same. Whole parts of the model may be
    missing from the checkpoint (a backbone alone will do), and the checkpoint may have parts that the model lacks.

    Args:
        path: a workdir, its checkpoints folder, or one checkpoint.
        state: the initial state. Its shardings are kept.
        model: the network of the state.
        categories: those of the data set to train on.
        renamed: class of the data set: class of the checkpoint, where the names differ (`ClassesConfig.renamed`).

    Raises:
        UserError: there is no sound checkpoint, it is of another architecture, or it has no part of the model.
    """
    directory = find_checkpoint(path)
    meta = read_meta(directory)
    current: dict[str, Any] = {**state.params, **state.frozen}
    found = saved_shapes(directory)
    head = {name: value for name, value in current.items() if re.fullmatch(CLASS_HEAD, name)}
    same_size = all(found.get(name) == tuple(value.shape) for name, value in head.items())
    rows = rows_to_keep(meta.categories, categories, renamed or {}, same_size=same_size)
    parts = _parts(current) & _parts(found)

    def comparable(shapes: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: shape
            for name, shape in shapes.items()
            if name.split("/")[0] in parts and not re.fullmatch(CLASS_HEAD, name)
        }

    if differences := compare_shapes(comparable(current), comparable(found)):
        raise other_architecture(directory, differences)
    detects = parts != {"backbone"}  # A backbone alone is the same for all these settings.
    if detects and meta.config.model.num_heads != model.num_heads:
        raise other_architecture(
            directory, [f"model.num_heads is {meta.config.model.num_heads} and not {model.num_heads}"]
        )
    usable = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype, sharding=value.sharding)
        for name, value in current.items()
        if found.get(name) == tuple(value.shape) and (rows is None or name not in head)
    }
    if not usable:
        raise UserError(f"Checkpoint {directory} (init_from) has no part of this model: choose another one.")
    loaded = load_variables(directory, usable)
    if rows is not None:
        loaded |= load_rows(directory, head, found, rows)
    random = tuple(sorted(current.keys() - loaded.keys()))
    report = LoadedWeights(
        str(directory), tuple(sorted(loaded)), random, rows, _differences(meta.config.model, model) if detects else ()
    )
    state = dataclasses.replace(
        state,
        params={name: loaded.get(name, value) for name, value in state.params.items()},
        frozen={name: loaded.get(name, value) for name, value in state.frozen.items()},
    )
    return (with_average(state) if state.ema else state), report


def _differences(before: ModelConfig, now: ModelConfig) -> tuple[str, ...]:
    """The settings that shapes do not tell and that differ. Learned anchors have shapes, a grid's have none."""
    return tuple(
        f"model.{name}={getattr(before, name)} (here {getattr(now, name)})"
        for name in UNSEEN
        if getattr(before, name) != getattr(now, name)
        and (name != "num_anchors" or before.spatial_prior == now.spatial_prior)
    )


def _parts(shapes: Mapping[str, Any]) -> set[str]:
    return {name.split("/")[0] for name in shapes}
