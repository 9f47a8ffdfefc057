"""A detector's model and classes from wherever its weights lie: a run, a checkpoint, or an official weight file."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax

from anchordetr_jax.checkpoints.checkpoint import load_model, refuse_backbone_alone
from anchordetr_jax.config import Config, ModelConfig, choices
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.weights.convert import UntoldError, read_weights

OFFICIAL_WEIGHTS = "https://github.com/megvii-research/AnchorDETR"


class Pretrained(NamedTuple):
    """A model with its weights, the settings of the run that made it, and its classes (None: nobody knows them)."""

    model: AnchorDETR
    config: Config
    categories: Categories | None


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    dilation: bool | None = None,
    annotations: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> Pretrained:
    """Loads a detector.

    Args:
        path: a workdir, its checkpoints folder, one checkpoint, or a `.pth` or `.safetensors` file with official
            weights.
        dilation: for a weight file that does not say, and for nothing else: DC5 (True) or C5 (False).
        annotations: for a weight file alone: a COCO-format file whose categories its class outputs stand for. The
            default for 91 outputs is COCO's.
        overrides: `ModelConfig` settings that differ from the checkpoint's, such as `dtype="bfloat16"`.

    Raises:
        UserError: there are no weights of a whole detector at `path`, they are damaged, or something has to be told.
    """
    text = os.path.expanduser(os.fspath(path))
    for setting in ("dtype", "padding"):
        allowed = choices(ModelConfig, setting)
        if overrides.get(setting, allowed[0]) not in allowed:
            raise UserError(f"{setting} must be one of {', '.join(allowed)}, not {overrides[setting]!r}.")
    if "://" in text or os.path.isdir(text):
        for setting, value in (("dilation", dilation), ("annotations", annotations)):
            if value is not None:
                raise UserError(f"{text} is a checkpoint, which knows its {setting}: leave that out.")
        model, meta = load_model(text, **overrides)
        return Pretrained(model, meta.config, meta.categories)
    if not os.path.exists(text):
        raise UserError(
            f"There is nothing at {text}: give a run's workdir, a checkpoint, or a .pth or .safetensors file (the "
            f"official ones: {OFFICIAL_WEIGHTS})."
        )
    return _from_file(Path(text), dilation, annotations, overrides)


def _from_file(
    path: Path, dilation: bool | None, annotations: str | os.PathLike[str] | None, overrides: dict[str, Any]
) -> Pretrained:
    named = None if annotations is None else os.fspath(annotations)
    try:
        weights = read_weights(path, dilation=dilation, annotations=named)
    except UntoldError as error:
        if error.setting != "model.dilation":
            raise UserError(
                f"{path} does not say {error.question}: make a checkpoint of it first, with convert_weights.py import."
            ) from None
        raise UserError(
            f"{path} does not say {error.question}: say dilation=False (C5) or True (DC5), on the command line by "
            "--nodilation or --dilation."
        ) from None
    refuse_backbone_alone(weights.variables, str(path))
    config = dataclasses.replace(weights.config, model=dataclasses.replace(weights.config.model, **overrides))
    definition = definition_of(config.model)
    device = jax.local_devices()[0]
    variables = {
        name: jax.device_put(weights.variables[name].astype(shape.dtype), device)
        for name, shape in definition.shapes.items()
    }
    return Pretrained(definition.merge(variables), config, weights.categories)
