"""Reads weight files of the official code, of detrex and of backbones, with the settings and classes they imply."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anchordetr_jax.config import Config
from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.sources.coco import read_categories
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.architecture import (
    ANCHORS,
    BORDERS,
    coordinates_near_border,
    read_architecture,
    read_backbone,
)
from anchordetr_jax.weights.arguments import config_with, settings_from_arguments
from anchordetr_jax.weights.class_outputs import COCO_OUTPUTS, gather_outputs, output_places
from anchordetr_jax.weights.correspondence import Form, form_of
from anchordetr_jax.weights.published import PublishedModel
from anchordetr_jax.weights.state_dict import backbone_from_state_dict, variables_from_state_dict
from anchordetr_jax.weights.state_dict_file import StateDictFile, read_state_dict

NAMES_ARGUMENT, OUTPUTS_ARGUMENT, LABELS_ARGUMENT = "categories", "class_outputs", "labels"
BORDER_ARGUMENT = "anchor_border"
"""Entries of an exported file's `args` that official files do not have. An import then gives the same detector."""
EVALUATION_ARGUMENTS = {
    "eval_size": "augment.eval_size",
    "max_size": "augment.max_size",
    "max_detections": "eval.max_detections",
}
"""More of these entries, and the settings that they keep."""
SCHEMES: Mapping[Form, LabelScheme] = {"official": "raw", "detrex": "contiguous"}
"""How class outputs are numbered (`DataConfig.labels`)."""


WAYS = {
    "model.dilation": "say it with --no-dilation (C5) or --dilation (DC5), in Python dilation=False (C5) or True (DC5)",
    "model.num_anchors": "say it with --anchors N to anchordetr convert import, and use the checkpoint that it makes",
}
"""How a person says a setting that does not follow from a weight file."""


class UntoldError(UserError):
    """A setting that neither the file's tensors nor its `args` nor the user says."""

    def __init__(self, path: str | Path, setting: str, question: str):
        super().__init__(f"{path} does not say {question}: {WAYS[setting]}.")
        self.setting, self.question = setting, question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What a weight file contains, in this project's terms."""

    variables: dict[str, np.ndarray]
    """Arrays by variable path, of a whole detector or of a backbone."""
    config: Config
    categories: Categories | None
    remarks: tuple[str, ...] = ()
    """Sentences about what was found and assumed."""


def read_weights(
    path: str | Path,
    *,
    dilation: bool | None = None,
    num_anchors: int | None = None,
    num_heads: int | None = None,
    annotations: str | Path | None = None,
    published: PublishedModel | None = None,
) -> Weights:
    """Reads a `.pth` or `.safetensors` file with weights of the official code, of detrex, or of a backbone.

    Backbones are torchvision's ResNets and EfficientNet-Lite0.

    Args:
        path: the file; FILE#ENTRY where it has several sets of weights.
        dilation: DC5 (True) or C5, where the file does not say it.
        num_anchors: number of anchors of a grid, where the file does not say it.
        num_heads: number of attention heads, where the file does not say it; by default the official one.
        annotations: a COCO-format file. Its categories are the detector's classes.
        published: the published model that this file is. It says whether it is DC5 or C5.

    Raises:
        UserError: the file cannot be read, its tensors fit no architecture of this project, or a setting is not known.
    """
    content = read_state_dict(path)
    with _named(path):
        if (backbone := read_backbone(content.state_dict)) is not None:
            if published is not None and published.dilation is not None:
                raise UserError(f"It is a backbone alone, but {published.name} is a detector.")
            weights = Weights(
                variables=backbone_from_state_dict(content.state_dict, backbone),
                config=config_with(Config(), {"model.backbone": backbone}),
                categories=None,
            )
        else:
            asked = {"dilation": dilation, "num_anchors": num_anchors, "num_heads": num_heads}
            weights = _detector(path, content, asked, annotations, published)
        if published is not None and published.backbone != weights.config.model.backbone:
            raise UserError(f"Its backbone is {weights.config.model.backbone}, but {published.name} has another one.")
    return dataclasses.replace(weights, remarks=(*content.remarks, *weights.remarks))


def implied_config(
    path: str | Path,
    content: StateDictFile,
    *,
    dilation: bool | None,
    num_anchors: int | None,
    num_heads: int | None = None,
    published: PublishedModel | None = None,
) -> tuple[Config, tuple[str, ...]]:
    """The settings that follow from the tensors and `args` of a file, and sentences. Raises like `read_weights`."""
    read = {f"model.{name}": value for name, value in read_architecture(content.state_dict).items()}
    told = settings_from_arguments(content.arguments or {})
    architecture = {name: value for name, value in told.items() if name.startswith("model.")}
    conflicts = [
        f"{name} is {read[name]!r} by its tensors and {value!r} by its args"
        for name, value in architecture.items()
        if name in read and read[name] != value
    ]
    if conflicts:
        raise UserError(f"{path} contradicts itself: {'; '.join(conflicts)}.")
    settings = architecture | read
    if isinstance(border := (content.arguments or {}).get(BORDER_ARGUMENT), float):
        settings["model.anchor_border"] = border
    for name, setting in EVALUATION_ARGUMENTS.items():
        if isinstance(value := (content.arguments or {}).get(name), int):
            settings[setting] = value
    if read["model.num_feature_levels"] > 1:
        settings.setdefault("model.dilation", True)  # With several levels there is only DC5.
    if published is not None and published.dilation is not None:
        settings.setdefault("model.dilation", published.dilation)
    _settle(settings, "model.dilation", dilation, path, "whether it is a C5 or a DC5 model")
    if read["model.spatial_prior"] == "grid":
        _settle(settings, "model.num_anchors", num_anchors, path, "how many anchors its grid has")
    if num_heads is not None:
        _settle(settings, "model.num_heads", num_heads, path, "how many attention heads it has")
    config = config_with(Config(), settings)
    try:
        return config_with(config, {name: value for name, value in told.items() if name not in architecture}), ()
    except UserError as error:
        return config, (f"The training recipe in its args is not used: {error}",)


def _detector(
    path: str | Path,
    content: StateDictFile,
    asked: Mapping[str, Any],
    annotations: str | Path | None,
    published: PublishedModel | None,
) -> Weights:
    state_dict, form = content.state_dict, form_of(content.state_dict)
    config, remarks = implied_config(path, content, **asked, published=published)
    if form == "detrex":
        remarks = ("Its tensors have detrex's names.", *remarks)
    if config.model.anchor_border == BORDERS["detrex"]:
        count = coordinates_near_border(state_dict[ANCHORS], BORDERS["detrex"])
        remarks += (
            f"{count} anchor coordinates are less than 0.001 from the image border, where detrex computes boxes in its "
            "own way: model.anchor_border=0.001 keeps it.",
        )
    weights = Weights(
        variables=variables_from_state_dict(state_dict, config.model, consume=True),
        config=config,
        categories=None,
        remarks=remarks,
    )
    arguments = content.arguments or {}
    if annotations is None and NAMES_ARGUMENT in arguments:
        return _with_exported_classes(path, weights, arguments, form)
    return _with_usual_classes(path, weights, annotations, form)


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Adds the file's name to an error that does not have it."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path} cannot be used: {error}") from None


def _settle(settings: dict[str, Any], name: str, given: Any, path: str | Path, question: str) -> None:
    """Takes a setting that does not follow from the tensors from the file's args, or else from the user."""
    if name not in settings and given is None:
        raise UntoldError(path, name, question)
    if name in settings and given is not None and settings[name] != given:
        raise UserError(f"{path} says that {name} is {settings[name]!r}, not {given!r}: leave the flag out.")
    settings.setdefault(name, given)


def _with_usual_classes(path: str | Path, weights: Weights, annotations: str | Path | None, form: Form) -> Weights:
    """The classes of an annotation file, or COCO's where the number of class outputs is that of COCO."""
    outputs, scheme = weights.config.model.num_classes, SCHEMES[form]
    config, remarks = config_with(weights.config, {"data.labels": scheme}), weights.remarks
    categories: Categories | None
    if annotations:
        categories = read_categories(annotations, scheme)
        if categories.num_labels > outputs or (form == "detrex" and categories.num_labels < outputs):
            has = (
                f"category ids up to {max(categories.ids)}" if form == "official" else f"{len(categories.ids)} classes"
            )
            raise UserError(
                f"{annotations} has {has}, and {path} has {outputs} class outputs: give the annotations that it was "
                "trained with."
            )
    elif outputs == COCO_OUTPUTS[form]:
        categories = coco_categories("raw" if form == "official" else "contiguous")
        what = "COCO's category ids" if form == "official" else "COCO's classes in the order of their ids"
        remark = f"class outputs are taken to be {what}: give --annotations FILE if it was trained on other classes."
        remarks += (f"Its {outputs} {remark}",)
    else:
        categories = None
        remarks += (f"The classes of its {outputs} class outputs are not known: --annotations FILE says them.",)
    return dataclasses.replace(weights, config=config, categories=categories, remarks=remarks)


def _with_exported_classes(path: str | Path, weights: Weights, arguments: Mapping[str, Any], form: Form) -> Weights:
    """The classes that the checkpoint had before its export."""
    outputs = weights.config.model.num_classes
    try:
        names, num_classes = arguments[NAMES_ARGUMENT], int(arguments[OUTPUTS_ARGUMENT])
        categories = None if names is None else Categories.from_dict(names)
        places = output_places(categories, num_classes, outputs) if form == "official" else np.arange(num_classes)
        settings = {"model.num_classes": num_classes, "data.labels": arguments[LABELS_ARGUMENT]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"The classes in {path} have another format ({error!r}): export it again.") from None
    return dataclasses.replace(
        weights,
        variables=gather_outputs(weights.variables, places),
        config=config_with(weights.config, settings),
        categories=categories,
        remarks=(*weights.remarks, f"Its {num_classes} class outputs are those that it was exported with."),
    )
