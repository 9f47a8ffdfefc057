"""Golden values: files that say how to make a case from seeds, with what the official code computes for it in float64.

An `.npz` file holds `meta`, a JSON text with the arguments of the official command line (`args`), seeds, image sizes
and named numbers. It also holds some of these arrays:

- `logits` [layers,B,Q,K] and `boxes` [layers,B,Q,4], of all decoder layers or of those that `layers_kept` names;
- `post/scores`, `post/labels`, `post/boxes`, `post/target_sizes`: the best detections of the last layer;
- `stage/NAME`: a sample of the output of a part (its shape is in `meta.stage_shapes`);
- `target_boxes_I`, `target_labels_I`: the objects of image I;
- of the first training step: `loss/NAME`, `match/layerL/imageI/query` and `…/target`, `meta.grad_norms`;
- of each step: `total_loss_per_step` and `grad_norm_per_step`;
- after the last step: `meta.param_norms_after`, `param_after/NAME`.
"""

import json
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.cases import Case, DetectionArrays, ImageTargets, Outputs, synthetic_case
from anchordetr_jax.weights.arguments import config_with, is_argument, refuse_unknown, settings_from_arguments
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS

REQUIRED = ("args", "weight_seed", "image_sizes", "image_seeds")
UNDERSTOOD = (*REQUIRED, "name", "note", "layers_kept", "stage_shapes", "grad_norms", "param_norms_after")
ARRAYS = re.compile(
    r"logits|boxes|post/(scores|labels|boxes|target_sizes)|stage/.+|target_(boxes|labels)_\d+|loss/.+"
    r"|match/layer\d+/image\d+/(query|target)|(total_loss|grad_norm)_per_step|param_after/.+"
)
LAYER_WORDS = {"first": 0, "last": -1}


class Golden(NamedTuple):
    """The content of a file of golden values."""

    case: Case
    outputs: Outputs
    unused: tuple[str, ...]
    """Unknown entries of `meta`."""


def read_golden(path: str | Path) -> Golden:
    """Reads a file of golden values and makes its weights and images.

    Raises:
        UserError: the file is missing, has another format, or needs something that this project does not have.
    """
    meta, arrays = _read(path)
    arguments = {name: value for name, value in meta.items() if is_argument(name)} | meta["args"]
    refuse_unknown(arguments, str(path))
    config = config_with(Config(), settings_from_arguments(arguments))
    classes = arrays["logits"].shape[-1] if "logits" in arrays else OFFICIAL_OUTPUTS
    config = config_with(config, {"model.num_classes": classes})
    sizes = tuple((int(height), int(width)) for height, width in meta["image_sizes"])
    outputs = _outputs(path, meta, arrays, config.model.decoder_layers)
    case = synthetic_case(
        str(meta.get("name", Path(path).stem)),
        config,
        weight_seed=int(meta["weight_seed"]),
        sizes=sizes,
        image_seeds=tuple(map(int, meta["image_seeds"])),
        targets=_targets(path, arrays, len(sizes)),
        steps=0 if outputs.step_losses is None else len(outputs.step_losses),
        target_sizes=arrays.get("post/target_sizes"),
    )
    unused = tuple(name for name in meta if name not in UNDERSTOOD and not is_argument(name))
    return Golden(case, outputs, unused)


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        meta = json.loads(str(arrays.pop("meta")))
        missing = [name for name in REQUIRED if name not in meta]
    except FileNotFoundError:
        raise UserError(f"There is no file {path}; give the path of golden values (.npz).") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        detail = " ".join(str(error).split())[:120]
        raise UserError(f"{path} is not a file of golden values ({detail}); give an .npz file with 'meta'.") from None
    if missing:
        raise UserError(f"{path} is not a file of golden values: its meta lacks {', '.join(missing)}.")
    unknown = [name for name in arrays if not ARRAYS.fullmatch(name)]
    if unknown:
        raise UserError(f"{path} has unknown arrays, so it cannot be verified: {', '.join(unknown)}.")
    return meta, arrays


def _targets(path: str | Path, arrays: dict[str, np.ndarray], images: int) -> tuple[ImageTargets, ...]:
    if "target_boxes_0" not in arrays:
        return ()
    try:
        return tuple(
            ImageTargets(arrays[f"target_boxes_{i}"].reshape(-1, 4), arrays[f"target_labels_{i}"].astype(np.int32))
            for i in range(images)
        )
    except KeyError as error:
        raise UserError(f"{path} has targets for some of its {images} images only: {error} is missing.") from None


def _outputs(path: str | Path, meta: dict[str, Any], arrays: dict[str, np.ndarray], decoder_layers: int) -> Outputs:
    kept = meta.get("layers_kept")
    layers = tuple(range(decoder_layers)) if kept is None else _layers(path, kept, decoder_layers)
    if "logits" in arrays and len(arrays["logits"]) != len(layers):
        raise UserError(f"{path} has logits of {len(arrays['logits'])} decoder layers and says they are {len(layers)}.")
    detections = None
    if "post/scores" in arrays:
        detections = DetectionArrays(*(arrays[f"post/{name}"] for name in DetectionArrays._fields))
    matches: dict[tuple[int, int], dict[int, int]] = {}
    for name, queries in arrays.items():
        if found := re.fullmatch(r"match/layer(\d+)/image(\d+)/query", name):
            targets = arrays[name.removesuffix("query") + "target"]
            matches[int(found[1]), int(found[2])] = dict(zip(targets.tolist(), queries.tolist(), strict=True))
    stages = {name.removeprefix("stage/"): value for name, value in arrays.items() if name.startswith("stage/")}
    return Outputs(
        stages=stages,
        stage_shapes={name: tuple(shape) for name, shape in meta.get("stage_shapes", {}).items()},
        layers=layers,
        logits=arrays.get("logits"),
        boxes=arrays.get("boxes"),
        detections=detections,
        losses={name.removeprefix("loss/"): float(x) for name, x in arrays.items() if name.startswith("loss/")},
        matches=matches,
        gradient_norms=meta.get("grad_norms", {}),
        step_losses=arrays.get("total_loss_per_step"),
        step_gradient_norms=arrays.get("grad_norm_per_step"),
        norms_after=meta.get("param_norms_after", {}),
        tensors_after={
            name.removeprefix("param_after/"): x for name, x in arrays.items() if name.startswith("param_after/")
        },
    )


def _layers(path: str | Path, kept: Any, decoder_layers: int) -> tuple[int, ...]:
    """The decoder layers that `layers_kept` names: "first, last", or numbers."""
    words = kept.replace(",", " ").split() if isinstance(kept, str) else list(kept)
    try:
        return tuple(range(decoder_layers)[LAYER_WORDS[word] if word in LAYER_WORDS else int(word)] for word in words)
    except (ValueError, IndexError, TypeError):
        raise UserError(f"{path} keeps the decoder layers {kept!r}, and these are unknown.") from None
