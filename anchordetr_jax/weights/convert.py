"""Weight files to checkpoints and back: what `anchordetr convert` does."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anchordetr_jax.checkpoints.checkpoint import refuse_backbone_alone, save_variables
from anchordetr_jax.config import ARITHMETIC, AugmentConfig, Config, ModelConfig, config_to_dict
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.sources.coco import read_categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import path_here
from anchordetr_jax.settings.names import flat_settings
from anchordetr_jax.weights.architecture import (
    BORDERS,
    coordinates_near_border,
    is_efficientnet,
    is_resnet,
    read_backbone,
)
from anchordetr_jax.weights.arguments import architecture_arguments, arguments_from_config
from anchordetr_jax.weights.class_outputs import (
    COCO_OUTPUTS,
    OFFICIAL_OUTPUTS,
    gather_outputs,
    output_places,
    spread_outputs,
)
from anchordetr_jax.weights.correspondence import Form, backbone_correspondences, correspondences, form_of
from anchordetr_jax.weights.locating import locate
from anchordetr_jax.weights.pretrained import Pretrained, open_location, open_pretrained
from anchordetr_jax.weights.reading import (
    BORDER_ARGUMENT,
    EVALUATION_ARGUMENTS,
    LABELS_ARGUMENT,
    NAMES_ARGUMENT,
    OUTPUTS_ARGUMENT,
)
from anchordetr_jax.weights.state_dict import is_ignored, state_dict_from_variables
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import write_torch_file

DETREX_ARGUMENTS = {
    "enc_layers": "num_encoder_layers",
    "dec_layers": "num_decoder_layers",
    "nheads": "num_heads",
    "hidden_dim": "embed_dim",
}
"""Official argument: that of detrex's transformer, where the names differ."""

NAMES: Mapping[Form, str] = {"official": "The official code", "detrex": "detrex"}
"""The other codes, as the first words of a sentence."""


def import_weights(name: str | Path, out: str | Path, *, overwrite: bool = False, **options: Any) -> Pretrained:
    """Writes weights that `open_pretrained` finds (with its options) as a checkpoint into the folder `out`.

    Raises:
        UserError: like `open_pretrained`. Or `out` exists and may not be replaced, or cannot be written.
    """
    out = path_here(out)
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: give another folder, or --overwrite if it is a checkpoint to be replaced.")
    found = open_pretrained(name, **options)
    save_variables(out, found.variables(), found.categories, found.config, step=found.step)
    return found


def export_weights(
    name: str | Path,
    path: str | Path,
    *,
    form: Form = "official",
    outputs: int | None = None,
    annotations: str | Path | None = None,
) -> tuple[str, ...]:
    """Writes a detector's weights as a file that the official code or detrex loads.

    Args:
        name: everything that `open_pretrained` takes.
        path: the file.
        form: whose code is to load it.
        outputs: number of class outputs in the file. None: 91 in the official form, where an output is a category id;
            one per class in detrex's form.
        annotations: a COCO-format file with the categories, where the checkpoint does not know them.

    Returns:
        Sentences about what was done.

    Raises:
        UserError: there is no such detector, the other code does not have its network, or the file cannot be written.
    """
    found = open_pretrained(name)
    variables, categories = found.variables(), found.categories
    refuse_backbone_alone(variables, found.name)
    if annotations and categories is not None:
        raise UserError(
            f"{found.name} has the names of its classes: leave --annotations out. If they are wrong, import the weight "
            "file with --annotations first."
        )
    if annotations:
        categories = read_categories(annotations, found.config.data.labels)
    content, remarks = exported(variables, found.config, categories, outputs, form)
    write_torch_file(path, content)
    if form == "detrex":
        last = f"detrex evaluates it with: {_detrex_command(path, found.config, _outputs_in(content))}"
    else:
        flags = " ".join(f"--{name} {value}" for name, value in architecture_arguments(found.config).items())
        last = f"The official code evaluates it with: main.py --eval --resume {path} {flags}"
    return (*remarks, last)


def exported(
    variables: Mapping[str, np.ndarray],
    config: Config,
    categories: Categories | None,
    outputs: int | None = None,
    form: Form = "official",
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The content of an exported file, and sentences about it. Raises like `export_weights`."""
    num_classes, settings = config.model.num_classes, flat_settings(config_to_dict(config))
    remarks = (*_border_remark(variables, config.model, form), *_size_remark(config.augment, form))
    # A plain dict and not a Namespace, which `torch.load` refuses by default.
    arguments = arguments_from_config(config)
    if form == "detrex":
        if categories is not None and categories.scheme == "raw":
            places = np.array(categories.ids)
            variables = gather_outputs(variables, places)
            remarks += (
                f"Of its {num_classes} class outputs the {len(places)} that have a class were written, in the order of "
                "the category ids, as in detrex.",
            )
            categories, num_classes = dataclasses.replace(categories, scheme="contiguous"), len(places)
        if outputs not in (None, num_classes):
            raise UserError(f"In detrex's form there is one class output per class, here {num_classes}, not {outputs}.")
        outputs, labels = num_classes, "contiguous"
    else:
        outputs, labels = outputs or OFFICIAL_OUTPUTS, config.data.labels
        places = output_places(categories, num_classes, outputs)
        variables = spread_outputs(variables, places, outputs)
        if not np.array_equal(places, np.arange(outputs)):
            remarks += (
                f"Its {num_classes} class outputs were put among {outputs}, by category id; the others never detect "
                "anything.",
            )
    arguments |= {
        BORDER_ARGUMENT: config.model.anchor_border,
        **{name: settings[setting] for name, setting in EVALUATION_ARGUMENTS.items()},
        OUTPUTS_ARGUMENT: num_classes,
        LABELS_ARGUMENT: labels,
        NAMES_ARGUMENT: None if categories is None else categories.to_dict(),
    }
    wide = dataclasses.replace(config.model, num_classes=outputs)
    return {"model": state_dict_from_variables(variables, wide, form), "args": arguments}, remarks


def _detrex_command(path: str | Path, config: Config, outputs: int) -> str:
    size = {"resnet50": "r50", "resnet101": "r101"}[config.model.backbone] + ("_dc5" if config.model.dilation else "")
    words = [
        "tools/train_net.py --eval-only",
        f"--config-file projects/anchor_detr/configs/anchor_detr_{size}_50ep.py",
        f"train.init_checkpoint={path}",
    ]
    if outputs != COCO_OUTPUTS["detrex"]:
        words += [f"model.{part}.num_classes={outputs}" for part in ("transformer", "criterion")]
    for name, value in architecture_arguments(config).items():
        if name not in ("backbone", "dilation"):
            words += [f"model.transformer.{DETREX_ARGUMENTS.get(name, name)}={value}"]
            words += [f"model.embed_dim={value}"] if name == "hidden_dim" else []
    return " ".join(words)


def _outputs_in(content: Mapping[str, Any]) -> int:
    return len(content["model"]["transformer.class_embed.0.bias"])


def describe_file(name: str | Path, **options: Any) -> str:
    """What a weight file contains: its tensors and what each becomes, its args, and its network or what is wrong."""
    location = locate(name)
    if location.kind != "file":
        raise UserError(f"{name} is not a weight file: give a .pth or .safetensors file, or a published model.")
    state_dict, arguments, _ = read_state_dict(location.path)
    try:
        found, problem = open_location(location, **options), ""
    except UserError as error:
        found, problem = None, str(error)
    becomes: dict[str, str] = {}
    if found is not None:
        becomes = {source: ", ".join(row.targets) for row in _table(state_dict, found) for source in row.sources}
    lines = [("tensor", "numbers", "shape", "becomes")]
    for tensor, array in state_dict.items():
        target = becomes.get(tensor, "(ignored)" if found is not None or is_ignored(tensor) else "?")
        lines.append((tensor, str(array.dtype), "x".join(map(str, array.shape)) or "-", target))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = ["  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[3]]) for line in lines]
    count = sum(array.size for array in state_dict.values())
    text += ["", f"{len(state_dict)} tensors, {count / 1e6:.1f} M numbers, in {_form_name(state_dict)} form"]
    if arguments:
        text += ["args: " + ", ".join(f"{name}={value!r}" for name, value in sorted(arguments.items()))]
    text += [f"It would not be imported: {problem}"] if found is None else [describe_weights(found), *found.remarks]
    return "\n".join(text)


def describe_weights(found: Pretrained) -> str:
    """One line about a detector's network."""
    model = found.config.model
    if found.arrays is not None and all(path.startswith("backbone/") for path in found.arrays):
        return f"The backbone {model.backbone} alone: initial weights for training (init_from), not a detector."
    shown = {field.name: getattr(model, field.name) for field in dataclasses.fields(ModelConfig)}
    for name in (*ARITHMETIC, "initialization"):
        del shown[name]
    return "Anchor DETR with " + ", ".join(f"{name}={value!r}" for name, value in shown.items())


def _table(state_dict: Mapping[str, np.ndarray], found: Pretrained) -> tuple[Any, ...]:
    if (backbone := read_backbone(state_dict)) is not None:
        return backbone_correspondences(backbone)
    return correspondences(found.config.model, form_of(state_dict))


def _form_name(state_dict: Mapping[str, np.ndarray]) -> str:
    if is_resnet(state_dict):
        return "torchvision's"
    if is_efficientnet(state_dict):
        return "EfficientNet's"
    return "detrex's" if form_of(state_dict) == "detrex" else "the official"


def _border_remark(variables: Mapping[str, np.ndarray], model: ModelConfig, form: Form) -> tuple[str, ...]:
    """Where the other code computes the boxes of some anchors in another way than this network."""
    border = BORDERS[form]
    widest = max(border, model.anchor_border)
    count = 0 if border == model.anchor_border else coordinates_near_border(variables.get("anchors"), widest)
    if not count:
        return ()
    return (
        f"{NAMES[form]} takes anchor coordinates that are less than {border:g} from the image border as {border:g} "
        f"from it, and this network {model.anchor_border:g}: {count} coordinates differ, so boxes differ by up to "
        f"{widest:g} of the image.",
    )


def _size_remark(augment: AugmentConfig, form: Form) -> tuple[str, ...]:
    """Where the other code evaluates at other image sizes than this network: no option of its command changes them."""
    mine, theirs = (f"{sizes.eval_size} pixels, at most {sizes.max_size}" for sizes in (augment, AugmentConfig()))
    if mine == theirs:
        return ()
    return (f"{NAMES[form]} evaluates images at {theirs}, and this network at {mine}: its scores there may be lower.",)
