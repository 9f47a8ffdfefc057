"""What a run starts from, made ready: a weight file becomes a checkpoint, and the network follows it where it may."""

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import Any

from etils import epath

from anchordetr_jax.checkpoints.checkpoint import (
    CHECKPOINTS_FOLDER,
    find_checkpoint,
    read_meta,
    save_variables,
    saved_steps,
)
from anchordetr_jax.config import ARITHMETIC, Config, ModelConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path
from anchordetr_jax.weights.convert import UntoldError, describe_weights, read_weights

START_FOLDER = "start"
"""In a workdir: the checkpoint that was made of a weight file."""
NOT_FOLLOWED = (*ARITHMETIC, "num_classes")
"""Model settings that belong to the run: how it computes, and its data set's classes."""


def prepare_start(config: Config, given: Collection[str], workdir: epath.PathLike) -> tuple[Config, tuple[str, ...]]:
    """The settings with a checkpoint as `init_from` and, with `architecture="start"`, with its network.

    A run that has checkpoints goes on with them and their network; what it once started from may be gone. Else a weight
    file is converted into `WORKDIR/start`. Every process of a run calls this.

    Args:
        config: the settings as read.
        given: names of the settings that the experiment file and the command line set ("model.dilation"); they stay.
        workdir: folder of the run.

    Returns:
        The settings, and sentences about what was done.

    Raises:
        UserError: there is nothing at `init_from`, or it is neither checkpoint nor weights, or does not say what has to
            be told.
    """
    follows = config.architecture == "start"
    if saved_steps(epath.Path(workdir) / CHECKPOINTS_FOLDER):
        before = read_meta(find_checkpoint(workdir)).config
        config = dataclasses.replace(config, init_from=before.init_from)
        return (_following(config, before.model, given) if follows else config), ()
    if not config.init_from:
        if not follows:
            return config, ()
        raise UserError(
            "Setting 'init_from' is empty: set it to what is to be fine-tuned, by --config.init_from=PATH (a run's "
            "workdir, a checkpoint, or a .pth or .safetensors file)."
        )
    remarks: tuple[str, ...] = ()
    path = stored_path(config.init_from)
    if not path.exists():
        raise UserError(
            f"There is nothing at init_from={config.init_from}: give a run's workdir, a checkpoint, or a .pth or "
            ".safetensors file."
        )
    if path.is_dir():
        model = read_meta(find_checkpoint(path)).config.model
    else:
        start = epath.Path(workdir) / START_FOLDER
        model, remarks = _convert(Path(path), config.model, given, start)
        config = dataclasses.replace(config, init_from=str(start))
    return (_following(config, model, given) if follows else config), remarks


def _convert(
    file: Path, model: ModelConfig, given: Collection[str], start: epath.Path
) -> tuple[ModelConfig, tuple[str, ...]]:
    """Writes the weights of a file as the checkpoint `start`; returns their network, and sentences about them."""

    def said(name: str) -> Any:
        return getattr(model, name) if f"model.{name}" in given else None

    try:
        weights = read_weights(file, dilation=said("dilation"), num_anchors=said("num_anchors"))
    except UntoldError as error:
        ways = {
            "model.dilation": "--config.model.dilation=True (DC5) or --config.model.dilation=False (C5)",
            "model.num_anchors": "--config.model.num_anchors=N",
        }
        raise UserError(f"{file} does not say {error.question}: say it by {ways[error.setting]}.") from None
    save_variables(start, weights.variables, weights.categories, weights.config)
    # Its remarks are about classes, which start anew where they differ, and about its recipe, which is not followed.
    return weights.config.model, (f"Converted {file} into {start}: {describe_weights(weights)}",)


def _following(config: Config, model: ModelConfig, given: Collection[str]) -> Config:
    kept = {
        field.name: getattr(config.model, field.name)
        for field in dataclasses.fields(ModelConfig)
        if field.name in NOT_FOLLOWED or f"model.{field.name}" in given
    }
    return dataclasses.replace(config, model=dataclasses.replace(model, **kept))
