"""A detector in one folder, by Hugging Face's conventions: `save_pretrained` writes it, `from_pretrained` reads it.

- `model.safetensors`: the weights by variable path, such as `encoder/spatial/0/attention/query_row/kernel`;
- `config.json`: the network, its classes (`id2label`, `label2id`) and the image sizes;
- `preprocessor_config.json`: how an image is prepared, for tools that read this file;
- `README.md`: the model card.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors.numpy

from anchordetr_jax.checkpoints.checkpoint import compare_shapes
from anchordetr_jax.checkpoints.thresholds import Thresholds
from anchordetr_jax.config import Config, config_from_dict
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import path_here, write_atomically, write_json
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.model.anchor_detr import PIXEL_MEAN, PIXEL_STD
from anchordetr_jax.weights.torch_file import read_safetensors

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
PREPROCESSOR_FILE, CARD_FILE = "preprocessor_config.json", "README.md"
LIBRARY = "anchordetr_jax"
FORMAT = 1
"""Version of `config.json`. A reader refuses a newer one."""
ARCHITECTURE = "AnchorDETR"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SavedDetector:
    """What such a folder contains."""

    variables: Mapping[str, np.ndarray]
    """All arrays of the model by variable path."""
    config: Config
    """Of the settings, only those that the detector needs are kept: no paths, and no recipe."""
    categories: Categories | None
    thresholds: Thresholds | None = None
    """The score thresholds with the best F1 score in its evaluation; None where nobody knows them."""
    names: Mapping[int, str] | None = None
    """The names of the class outputs that it uses, where it does not use all that stand for a class."""


def is_saved_folder(path: str | os.PathLike[str]) -> bool:
    """True if a folder was written by `write_folder`, as far as its file names tell."""
    return all(os.path.isfile(os.path.join(path, name)) for name in (WEIGHTS_FILE, CONFIG_FILE))


def write_folder(folder: str | os.PathLike[str], detector: SavedDetector, card: str) -> None:
    """Writes a detector into a folder; files of an earlier one are replaced.

    Args:
        folder: it is made if need be.
        detector: the weights and what they need.
        card: content of the model card.

    Raises:
        UserError: the folder cannot be written, or it has a README.md that is not such a card.
    """
    folder = path_here(folder)
    old_card = folder / CARD_FILE
    arrays = {path: np.ascontiguousarray(value) for path, value in detector.variables.items()}
    try:
        if old_card.exists() and f"library_name: {LIBRARY}" not in old_card.read_text(errors="replace"):
            raise UserError(f"{old_card} is not a model card of {LIBRARY}, so it is not replaced: give another folder.")
        # The settings come last: a folder without them is not taken for a detector.
        (folder / CONFIG_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write into {folder} ({error.strerror}): give another folder.") from None
    write_atomically(folder / WEIGHTS_FILE, safetensors.numpy.save(arrays, metadata={"format": LIBRARY}))
    write_json(folder / PREPROCESSOR_FILE, _preprocessor(detector.config), indent=2)
    write_atomically(folder / CARD_FILE, card.encode())
    write_json(folder / CONFIG_FILE, _config(detector), indent=2)


def read_folder(folder: str | os.PathLike[str], *, origin: str = "") -> SavedDetector:
    """Reads what `write_folder` wrote; every number is the same to the bit.

    Args:
        folder: the folder.
        origin: what the person called it, for errors.

    Raises:
        UserError: a file is missing, damaged or of a newer format, or the weights do not fit the settings.
    """
    folder = Path(folder)
    name = origin or str(folder)
    settings = _read_json(folder / CONFIG_FILE, name)
    if settings.get("architectures") != [ARCHITECTURE] or "model" not in settings:
        raise UserError(f"{name} is not a detector of {LIBRARY}: its {CONFIG_FILE} describes something else.")
    if not isinstance(settings.get("format"), int) or settings["format"] > FORMAT:
        raise UserError(
            f"{name} has format {settings.get('format')}, and this version reads up to {FORMAT}: update it."
        )
    try:
        sizes = settings["image_size"]
        config = config_from_dict(
            {
                "model": settings["model"],
                "augment": {
                    "eval_size": sizes["shortest_edge"],
                    "max_size": sizes["longest_edge"],
                    "shown_ratios": settings.get("shown_ratios", []),
                },
                "eval": {"max_detections": settings["max_detections"]},
                "data": {"labels": settings["labels"]},
            }
        )
        categories = _categories(settings)
        names = _used_names(settings)
        known = settings.get("score_thresholds")
        thresholds = None if known is None else Thresholds.from_dict(known)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{name} cannot be read: its {CONFIG_FILE} is damaged ({error!r}).") from None
    _check_preprocessor(folder, config, name)
    variables, _ = read_safetensors(folder / WEIGHTS_FILE)
    expected = definition_of(config.model).shapes
    differences = compare_shapes(expected, {path: value.shape for path, value in variables.items()})
    differences += [
        f"{path} has numbers of type {value.dtype} instead of {expected[path].dtype}"
        for path, value in variables.items()
        if path in expected and value.dtype != expected[path].dtype
    ]
    differences += [
        f"{path} has numbers that are not finite" for path, value in variables.items() if not _finite(value)
    ]
    if differences:
        raise UserError(
            f"{name} cannot be used: its {WEIGHTS_FILE} does not fit its {CONFIG_FILE}: {'; '.join(differences)}."
        )
    return SavedDetector(variables=variables, config=config, categories=categories, thresholds=thresholds, names=names)


def to_numpy(variables: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """The arrays of a model on the host."""
    return {path: np.asarray(value) for path, value in variables.items()}


def _config(detector: SavedDetector) -> dict[str, Any]:
    config, categories = detector.config, detector.categories
    names = (
        {}
        if categories is None
        else {categories.label_of(i): n for i, n in zip(categories.ids, categories.names, strict=True)}
    )
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "anchor_detr",
        "library_name": LIBRARY,
        "format": FORMAT,
        "id2label": {str(label): name for label, name in names.items()},
        "label2id": {name: label for label, name in names.items()},
        "used_outputs": None if detector.names is None else sorted(detector.names),
        "category_ids": None if categories is None else list(categories.ids),
        "labels": config.data.labels if categories is None else categories.scheme,
        "image_size": _image_size(config),
        "shown_ratios": list(config.augment.shown_ratios),
        "max_detections": config.eval.max_detections,
        "score_thresholds": None if detector.thresholds is None else detector.thresholds.to_dict(),
        "model": dataclasses.asdict(config.model),
    }


def _used_names(settings: Mapping[str, Any]) -> dict[int, str] | None:
    """`SavedDetector.names`. Raises `TypeError` or `KeyError` for outputs that do not make sense."""
    used = settings.get("used_outputs")
    if used is None:
        return None
    if not (isinstance(used, list) and all(type(label) is int for label in used)):
        raise TypeError("used_outputs is no list of whole numbers")
    return {label: str(settings["id2label"][str(label)]) for label in used}


def _categories(settings: Mapping[str, Any]) -> Categories | None:
    """The classes; their names are those of `id2label`, where a person may have changed them."""
    if settings["category_ids"] is None:
        return None
    categories = Categories.from_dict(
        {"ids": settings["category_ids"], "names": [""] * len(settings["category_ids"]), "scheme": settings["labels"]}
    )
    names = [str(settings["id2label"][str(categories.label_of(i))]) for i in categories.ids]
    return dataclasses.replace(categories, names=tuple(names))


def _image_size(config: Config) -> dict[str, int]:
    return {"shortest_edge": config.augment.eval_size, "longest_edge": config.augment.max_size}


def _preprocessor(config: Config) -> dict[str, Any]:
    return {
        "image_processor_type": "DetrImageProcessor",
        "format": "coco_detection",
        "do_resize": True,
        "size": _image_size(config),
        "resample": 2,  # Bilinear, in Pillow's numbering.
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(PIXEL_MEAN),
        "image_std": list(PIXEL_STD),
        "do_pad": True,
    }


def _check_preprocessor(folder: Path, config: Config, name: str) -> None:
    """Both files have the image sizes. Where a person changed only one, nobody knows which is meant."""
    if (folder / PREPROCESSOR_FILE).exists():
        size = _read_json(folder / PREPROCESSOR_FILE, name).get("size")
        if size != _image_size(config):
            raise UserError(
                f"{name} contradicts itself: the image size is {_image_size(config)} in {CONFIG_FILE} and {size} in "
                f"{PREPROCESSOR_FILE}."
            )


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{name} cannot be read: its {path.name} is missing or damaged ({error}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{name} cannot be read: its {path.name} is not a JSON object.")
    return content


def _finite(array: np.ndarray) -> bool:
    return array.dtype.kind != "f" or bool(np.isfinite(array).all())
