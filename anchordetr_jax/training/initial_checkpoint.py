"""`init_from` as a checkpoint: a weight file is converted into one, and its architecture can be taken over."""

import dataclasses
import re
from collections.abc import Collection
from typing import Any

from etils import epath

from anchordetr_jax.checkpoints.checkpoint import (
    CHECKPOINTS_FOLDER,
    find_checkpoint,
    read_meta,
    save_variables,
    saved_shapes,
    saved_steps,
)
from anchordetr_jax.config import ARITHMETIC, Config, ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.convert import describe_weights
from anchordetr_jax.weights.locating import Location, locate
from anchordetr_jax.weights.pretrained import open_location
from anchordetr_jax.weights.reading import UntoldError

INITIAL_WEIGHTS_FOLDER = "initial_weights"
"""Folder in a workdir: the checkpoint that a weight file was converted into."""
OWN_SETTINGS = (*ARITHMETIC, "num_classes")
"""Model settings that are never taken over: how the run computes, and the number of its classes."""


def prepare_initial_weights(
    config: Config, given: Collection[str], workdir: epath.PathLike
) -> tuple[Config, tuple[str, ...]]:
    """The settings with a checkpoint as `init_from` and, with `architecture="init_from"`, with its architecture.

    A weight file is converted into `WORKDIR/initial_weights`. A run that has checkpoints continues with those and with
    their architecture: it no longer needs what `init_from` names. Every process of a run calls this.

    Args:
        config: the settings as read.
        given: names of the settings that the experiment file and the command line set ("model.dilation"); they stay.
        workdir: folder of the run.

    Returns:
        The settings, and sentences about what was done.

    Raises:
        UserError: there is nothing at `init_from`, it is neither a checkpoint nor a weight file, or the file does not
            say something that must be known; or `classes.map` is set and `init_from` is not.
    """
    follows = config.architecture == "init_from"
    kept = given if follows else ()
    if saved_steps(epath.Path(workdir) / CHECKPOINTS_FOLDER):
        before = read_meta(find_checkpoint(workdir)).config
        config = dataclasses.replace(config, init_from=before.init_from)
        if config.architecture == "detector" and before.model.backbone != config.model.backbone:
            config = _with_freeze(config, before.optimizer.freeze)
        if config.architecture == "config":
            return config, ()
        continued = _with_architecture(config, before.model, kept)
        return continued, _replaced(config, continued, given)
    if not config.init_from:
        if follows:
            raise UserError(
                "Setting 'init_from' is empty: name the weights to fine-tune, such as "
                "--config.init_from=anchordetr-r50-dc5 (a published model), a run's workdir, or a weight file."
            )
        if config.classes.map:
            raise UserError(
                "Setting 'classes.map' has no effect without initial weights: name them in 'init_from', or remove it."
            )
        return config, ()
    remarks: tuple[str, ...] = ()
    location = locate(config.init_from, setting="init_from")
    if location.kind == "checkpoint":
        model = read_meta(find_checkpoint(location.path)).config.model
        config = dataclasses.replace(config, init_from=location.path)
    else:
        checkpoint = epath.Path(workdir) / INITIAL_WEIGHTS_FOLDER
        model, remarks = _convert(location, config.model, given, checkpoint)
        config = dataclasses.replace(config, init_from=str(checkpoint))
    if config.architecture == "detector" and _is_detector(config.init_from):
        config = dataclasses.replace(config, architecture="init_from")
        remarks += (f"The network is that of {location.name}: settings in model are not used.",)
        if model.backbone != config.model.backbone:
            config, more = _without_foreign_freeze(config)
            remarks += more
    return (_with_architecture(config, model, kept) if config.architecture == "init_from" else config), remarks


def _replaced(asked: Config, continued: Config, given: Collection[str]) -> tuple[str, ...]:
    """A sentence about settings of the network that a person gave, and that a run which continues does not take."""
    names = [field.name for field in dataclasses.fields(ModelConfig) if f"model.{field.name}" in given]
    changed = [name for name in names if getattr(asked.model, name) != getattr(continued.model, name)]
    if not changed:
        return ()
    shown = ", ".join(f"model.{name}={getattr(continued.model, name)!r}" for name in changed)
    return (f"The run continues with its own network: {shown}. What the settings say of these is not used.",)


def _without_foreign_freeze(config: Config) -> tuple[Config, tuple[str, ...]]:
    """The settings without patterns of `optimizer.freeze` that are meant for the backbone in the settings."""
    paths = saved_shapes(find_checkpoint(config.init_from))
    before = config.optimizer.freeze
    kept = tuple(pattern for pattern in before if any(re.fullmatch(pattern, path) for path in paths))
    foreign = [pattern for pattern in before if pattern not in kept]
    if not foreign:
        return config, ()
    line = f"optimizer.freeze is for {config.model.backbone}: {', '.join(foreign)} match nothing here and are left out."
    return _with_freeze(config, kept), (line,)


def _with_freeze(config: Config, freeze: tuple[str, ...]) -> Config:
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, freeze=freeze))


def _is_detector(checkpoint: str) -> bool:
    """Whether a checkpoint has more than a backbone."""
    return any(not path.startswith("backbone/") for path in saved_shapes(find_checkpoint(checkpoint)))


def _convert(
    location: Location, model: ModelConfig, given: Collection[str], checkpoint: epath.Path
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Converts weights into a checkpoint. Returns the architecture, and sentences about it."""

    def said(name: str) -> Any:
        return getattr(model, name) if f"model.{name}" in given and location.kind == "file" else None

    try:
        asked = {name: said(name) for name in ("dilation", "num_anchors", "num_heads")}
        found = open_location(location, **asked)
    except UntoldError as error:
        ways = {
            "model.dilation": "--config.model.dilation=True (DC5) or --config.model.dilation=False (C5)",
            "model.num_anchors": "--config.model.num_anchors=N",
        }
        raise UserError(f"{location.name} does not say {error.question}: say it by {ways[error.setting]}.") from None
    save_variables(checkpoint, found.variables(), found.categories, found.config)
    first = f"Converted {location.name} into {checkpoint}: {describe_weights(found)}"
    return found.config.model, (first, *found.remarks)


def _with_architecture(config: Config, model: ModelConfig, given: Collection[str]) -> Config:
    kept = {
        field.name: getattr(config.model, field.name)
        for field in dataclasses.fields(ModelConfig)
        if field.name in OWN_SETTINGS or f"model.{field.name}" in given
    }
    return dataclasses.replace(config, model=dataclasses.replace(model, **kept))
