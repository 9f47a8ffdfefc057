"""Weight files to checkpoints and back: what `convert_weights.py` does."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anchordetr_jax.checkpoints.checkpoint import load_model, read_meta, save_variables
from anchordetr_jax.config import ARITHMETIC, Config, ModelConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.sources.coco import read_categories
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import variables_of
from anchordetr_jax.weights.architecture import is_resnet, read_architecture
from anchordetr_jax.weights.arguments import (
    architecture_arguments,
    arguments_from_config,
    config_with,
    settings_from_arguments,
)
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS, gather_outputs, output_places, spread_outputs
from anchordetr_jax.weights.correspondence import correspondences, resnet_correspondences
from anchordetr_jax.weights.state_dict import (
    backbone_from_state_dict,
    is_ignored,
    state_dict_from_variables,
    variables_from_state_dict,
)
from anchordetr_jax.weights.state_dict_file import read_state_dict
from anchordetr_jax.weights.torch_file import write_torch_file

NAMES_ARGUMENT, OUTPUTS_ARGUMENT, LABELS_ARGUMENT = "categories", "class_outputs", "labels"
"""What an exported file's `args` hold besides official arguments, so that it comes back as it was."""


class UntoldError(UserError):
    """A file's tensors and `args` leave a setting open that was not given either."""

    def __init__(self, path: str | Path, setting: str, question: str, flag: str):
        super().__init__(f"{path} does not say {question}: say it with {flag}.")
        self.setting, self.question = setting, question


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """What a weight file holds, in this project's terms."""

    variables: dict[str, np.ndarray]
    """By variable path: a whole detector's, or a backbone's."""
    config: Config
    categories: Categories | None
    remarks: tuple[str, ...] = ()
    """Sentences about what was taken from where."""


def read_weights(
    path: str | Path,
    *,
    dilation: bool | None = None,
    num_anchors: int | None = None,
    annotations: str | Path | None = None,
) -> Weights:
    """Reads official weights, or a torchvision ResNet's, from a `.pth` or `.safetensors` file.

    Args:
        path: the file.
        dilation: DC5 (True) or C5, where the file does not say.
        num_anchors: of a grid of anchors, where the file does not say.
        annotations: a COCO-format file whose categories the class outputs stand for.

    Raises:
        UserError: the file cannot be read, its tensors fit no architecture of this project, or it does not tell what
            has to be told.
    """
    state_dict, found, remarks = read_state_dict(path)
    with _named(path):
        if is_resnet(state_dict):
            weights = _backbone(state_dict)
        else:
            weights = _detector(path, state_dict, found or {}, dilation, num_anchors, annotations)
    return dataclasses.replace(weights, remarks=(*remarks, *weights.remarks))


def _detector(
    path: str | Path,
    state_dict: dict[str, np.ndarray],
    arguments: Mapping[str, Any],
    dilation: bool | None,
    num_anchors: int | None,
    annotations: str | Path | None,
) -> Weights:
    config, remarks = implied_config(path, state_dict, arguments, dilation=dilation, num_anchors=num_anchors)
    weights = Weights(
        variables=variables_from_state_dict(state_dict, config.model, consume=True),
        config=config,
        categories=None,
        remarks=remarks,
    )
    if annotations is None and NAMES_ARGUMENT in arguments:
        return _with_exported_classes(path, weights, arguments)
    return _with_official_classes(path, weights, annotations)


def implied_config(
    path: str | Path,
    state_dict: Mapping[str, np.ndarray],
    arguments: Mapping[str, Any] | None,
    *,
    dilation: bool | None,
    num_anchors: int | None,
) -> tuple[Config, tuple[str, ...]]:
    """The settings that tensors and `args` of a file imply, and sentences about it. Raises as `read_weights` does."""
    read = {f"model.{name}": value for name, value in read_architecture(state_dict).items()}
    told = settings_from_arguments(arguments or {})
    architecture = {name: value for name, value in told.items() if name.startswith("model.")}
    conflicts = [
        f"{name} is {read[name]!r} by its tensors and {value!r} by its args"
        for name, value in architecture.items()
        if name in read and read[name] != value
    ]
    if conflicts:
        raise UserError(f"{path} contradicts itself: {'; '.join(conflicts)}.")
    settings = architecture | read
    if read["model.num_feature_levels"] > 1:
        settings.setdefault("model.dilation", True)  # there is no other kind with several levels
    question, flags = "whether it is a C5 or a DC5 model", "--no-dilation (C5) or --dilation (DC5)"
    _settle(settings, "model.dilation", dilation, path, question, flags)
    if read["model.spatial_prior"] == "grid":
        _settle(settings, "model.num_anchors", num_anchors, path, "how many anchors its grid has", "--anchors N")
    config = config_with(Config(), settings)
    try:
        return config_with(config, {name: value for name, value in told.items() if name not in architecture}), ()
    except UserError as error:
        return config, (f"The training recipe in its args was left aside: {error}",)


def import_weights(path: str | Path, out: str | Path, *, overwrite: bool = False, **options: Any) -> Weights:
    """Writes what `read_weights` reads (with its options) as a checkpoint into the folder `out`.

    Raises:
        UserError: as `read_weights`; or `out` exists (but for a checkpoint, with `overwrite`) or cannot be written.
    """
    out = Path(out)
    if out.exists() and not overwrite and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists: give another folder, or --overwrite if it is a checkpoint to be replaced.")
    weights = read_weights(path, **options)
    save_variables(out, weights.variables, weights.categories, weights.config)
    return weights


def export_weights(
    checkpoint: str | Path, path: str | Path, *, outputs: int = OFFICIAL_OUTPUTS, annotations: str | Path | None = None
) -> tuple[str, ...]:
    """Writes the weights of a checkpoint as a file that the official code loads with `strict=True`.

    Args:
        checkpoint: a workdir, its checkpoints folder, or one checkpoint.
        path: the file.
        outputs: class outputs in the file; the official code has 91, which are category ids.
        annotations: a COCO-format file with the categories, where the checkpoint does not know them.

    Returns:
        Sentences about what was done.

    Raises:
        UserError: there is no checkpoint, it has no counterpart in the official code, or the file cannot be written.
    """
    variables, config, categories = read_checkpoint(checkpoint)
    if categories is None and annotations:
        categories = read_categories(annotations, config.data.labels)
    content, places = exported(variables, config, categories, outputs)
    write_torch_file(path, content)
    flags = " ".join(f"--{name} {value}" for name, value in architecture_arguments(config).items())
    remarks = [f"The official code evaluates it with: main.py --eval --resume {path} {flags}"]
    if len(places) < outputs or not np.array_equal(places, np.arange(outputs)):
        remarks.insert(
            0, f"Its {len(places)} class outputs were put among {outputs} by category id; the rest never fire."
        )
    return tuple(remarks)


def read_checkpoint(checkpoint: str | Path) -> tuple[dict[str, np.ndarray], Config, Categories | None]:
    """All variables of a checkpoint, its settings and its classes. Raises `UserError` if it holds no whole detector."""
    model, meta = load_model(checkpoint, dtype="float32")  # parameters then are float32, in which they are kept
    variables = {path: np.asarray(value) for path, value in variables_of(model).items()}
    return variables, read_meta(meta.path).config, meta.categories


def exported(
    variables: Mapping[str, np.ndarray], config: Config, categories: Categories | None, outputs: int
) -> tuple[dict[str, Any], np.ndarray]:
    """The content of an exported file, and the output there of each class output here."""
    num_classes = config.model.num_classes
    places = output_places(categories, num_classes, outputs)
    spread = spread_outputs(variables, places, outputs)
    wide = dataclasses.replace(config.model, num_classes=outputs)
    # A plain dict and not a Namespace, which `torch.load` refuses by default.
    arguments = arguments_from_config(config) | {OUTPUTS_ARGUMENT: num_classes}
    arguments[LABELS_ARGUMENT] = config.data.labels
    arguments[NAMES_ARGUMENT] = None if categories is None else categories.to_dict()
    return {"model": state_dict_from_variables(spread, wide), "args": arguments}, places


def describe_file(path: str | Path, **options: Any) -> str:
    """What a weight file holds: its tensors, what each becomes, its args, and the architecture or what is wrong."""
    state_dict, arguments, _ = read_state_dict(path)
    try:
        weights, problem = read_weights(path, **options), ""
    except UserError as error:
        weights, problem = None, str(error)
    becomes: dict[str, str] = {}
    if weights is not None:
        model = weights.config.model
        table = resnet_correspondences(model.backbone) if is_resnet(state_dict) else correspondences(model)
        becomes = {source: ", ".join(row.targets) for row in table for source in row.sources}
    lines = [("tensor", "numbers", "shape", "becomes")]
    for name, array in state_dict.items():
        target = becomes.get(name, "(ignored)" if weights is not None or is_ignored(name) else "?")
        lines.append((name, str(array.dtype), "x".join(map(str, array.shape)) or "-", target))
    widths = [max(len(line[column]) for line in lines) for column in range(3)]
    text = ["  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[3]]) for line in lines]
    count = sum(array.size for array in state_dict.values())
    text += ["", f"{len(state_dict)} tensors, {count / 1e6:.1f} M numbers"]
    if arguments:
        text += ["args: " + ", ".join(f"{name}={value!r}" for name, value in sorted(arguments.items()))]
    text += (
        [f"It would not be imported: {problem}"] if weights is None else [describe_weights(weights), *weights.remarks]
    )
    return "\n".join(text)


def describe_weights(weights: Weights) -> str:
    """A line on what the weights are."""
    model = weights.config.model
    if all(path.startswith("backbone/") for path in weights.variables):
        return f"A {model.backbone} backbone alone: a start for training (init_from), no detector yet."
    shown = {field.name: getattr(model, field.name) for field in dataclasses.fields(ModelConfig)}
    for name in (*ARITHMETIC, "initialization"):
        del shown[name]
    return "Anchor DETR with " + ", ".join(f"{name}={value!r}" for name, value in shown.items())


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
    """Puts the file's name before an error that does not have it."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path} cannot be used: {error}") from None


def _backbone(state_dict: Mapping[str, np.ndarray]) -> Weights:
    depth, variables = backbone_from_state_dict(state_dict)
    return Weights(variables=variables, config=config_with(Config(), {"model.backbone": depth}), categories=None)


def _settle(settings: dict[str, Any], name: str, given: Any, path: str | Path, question: str, flag: str) -> None:
    """Takes a setting that tensors do not tell from the file's args, or else as given."""
    if name not in settings and given is None:
        raise UntoldError(path, name, question, flag)
    if name in settings and given is not None and settings[name] != given:
        raise UserError(f"{path} says that {name} is {settings[name]!r}, not {given!r}: leave the flag out.")
    settings.setdefault(name, given)


def _with_official_classes(path: str | Path, weights: Weights, annotations: str | Path | None) -> Weights:
    """Class outputs are category ids: those of an annotation file, or COCO's where there are as many as those take."""
    outputs = weights.config.model.num_classes
    config, remarks = config_with(weights.config, {"data.labels": "raw"}), weights.remarks
    categories: Categories | None
    if annotations:
        categories = read_categories(annotations, "raw")
        if categories.num_labels > outputs:
            raise UserError(
                f"{annotations} has category ids up to {max(categories.ids)}, and {path} has {outputs} class outputs: "
                "give the annotations that it was trained with."
            )
    elif outputs == OFFICIAL_OUTPUTS:
        categories = coco_categories("raw")
        remark = "class outputs are taken to be COCO's category ids: --annotations FILE, if it was trained on others."
        remarks += (f"Its {outputs} {remark}",)
    else:
        categories = None
        remarks += (f"What its {outputs} class outputs stand for is not known: --annotations FILE says it.",)
    return dataclasses.replace(weights, config=config, categories=categories, remarks=remarks)


def _with_exported_classes(path: str | Path, weights: Weights, arguments: Mapping[str, Any]) -> Weights:
    """Class outputs are those that the checkpoint had before it was exported."""
    outputs = weights.config.model.num_classes
    try:
        names, num_classes = arguments[NAMES_ARGUMENT], int(arguments[OUTPUTS_ARGUMENT])
        categories = None if names is None else Categories.from_dict(names)
        places = output_places(categories, num_classes, outputs)
        settings = {"model.num_classes": num_classes, "data.labels": arguments[LABELS_ARGUMENT]}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"What {path} says about its classes is of another form ({error!r}): export it again."
        ) from None
    return dataclasses.replace(
        weights,
        variables=gather_outputs(weights.variables, places),
        config=config_with(weights.config, settings),
        categories=categories,
        remarks=(*weights.remarks, f"Its {num_classes} class outputs are those that it was exported with."),
    )
