"""A detector as files that run without this package: programs for JAX (`jax.export`) and ONNX models.

The programs do not hold the weights: one file, `weights.npz`, holds them for the programs of all batch sizes. Inside
the programs they would make every file large and every compilation slow. An ONNX model holds its own weights.
"""

import dataclasses
import importlib.util
import inspect
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchordetr_jax.config import ModelConfig, config_to_dict
from anchordetr_jax.data import pixels
from anchordetr_jax.detection.postprocess import TopDetections, top_detections
from anchordetr_jax.errors import UserError
from anchordetr_jax.export import onnx as export_onnx
from anchordetr_jax.export import sample as export_sample
from anchordetr_jax.export.folder import ANY, METADATA_FILE
from anchordetr_jax.files import path_here, write_atomically, write_json
from anchordetr_jax.kernels.building import ModelDefinition, definition_of, variables_of
from anchordetr_jax.prediction.detector import Detector

PLATFORMS = ("cpu", "cuda", "tpu")
WEIGHTS_FILE, SAMPLE_FILE, PIXELS_FILE = "weights.npz", "sample.py", "pixels.py"

FAR_FROM_USUAL = 2.5
"""A shape with this many times more, or fewer, pixels than the usual shape is remarked on."""

Batch = int | str
"""A number of images, or `ANY`."""


def parse_batches(texts: Sequence[str]) -> list[Batch]:
    """`["1", "8", "any"]` -> [1, 8, "any"]. Raises `UserError` for anything else."""
    batches: list[Batch] = []
    for text in texts:
        if text != ANY and not (text.isascii() and text.isdigit() and int(text)):
            raise UserError(f"A batch size is a whole number of at least 1, or {ANY!r}, not {text!r}.")
        batches.append(ANY if text == ANY else int(text))
    return list(dict.fromkeys(batches))


def export_detector(
    detector: Detector,
    output: str | os.PathLike[str],
    shape: tuple[int, int],
    batches: Sequence[Batch] = (ANY,),
    *,
    onnx: bool = False,
    float16: bool = False,
) -> list[str]:
    """Writes programs from uint8 pixels to detections, the weights, `metadata.json`, and a `sample.py` that runs them.

    Every program takes images uint8 [B,H,W,3], padded at the bottom and right, their sizes without padding int32 [B,2],
    and the sizes of the images before resizing int32 [B,2]. Sizes are (height, width). It returns scores float32 [B,D],
    labels int32 [B,D] and boxes float32 [B,D,4] (xyxy in pixels of the original image), like `top_detections`.

    Args:
        detector: what to export. Its sizes and classes go into `metadata.json`.
        output: the folder. It is made if it does not exist; an earlier export in it is replaced.
        shape: H and W, multiples of the network's stride.
        batches: batch sizes B, with one program for each; `"any"` is one program for every size.
        onnx: whether to write ONNX models too. They compute in float32.
        float16: whether to write ONNX models that compute in float16 as well. It needs `onnx`.

    Returns:
        Sentences for the user: a shape that does not suit the network's image sizes, and how much the detections of
        each ONNX model differ from the detector's.

    Raises:
        UserError: `shape` is no multiple of the stride, `output` cannot be written, or jax2onnx is missing or fails.
    """
    _check_shape(detector.model.config, shape)
    if float16 and not onnx:
        raise UserError("float16 is for ONNX models: ask for these too (--onnx).")
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("JAX needs the package flatbuffers to write programs: pip install flatbuffers.")
    if onnx:
        export_onnx.require()
    folder = path_here(output)
    _clear(folder)
    variables = variables_of(detector.model)
    write_atomically(folder / PIXELS_FILE, inspect.getsource(pixels).encode())
    write_atomically(folder / SAMPLE_FILE, _sample().encode())
    write_atomically(folder / WEIGHTS_FILE, _npz(variables))
    files: dict[str, dict[str, str]] = {"jax": {}, "onnx": {}, "onnx_float16": {}}
    for batch in batches:
        name = files["jax"][str(batch)] = f"detector_batch_{batch}.jax"
        write_atomically(folder / name, serialized(detector, shape, batch))
    write_json(folder / METADATA_FILE, _metadata(detector, shape, files), indent=1)
    remarks = _remarks_on_shape(detector, shape)
    for batch in batches if onnx else ():
        detect = _detect(_definition(detector, dtype="float32"), detector.max_detections)
        for kind, model, difference in export_onnx.convert(detect, variables, shape, batch, float16=float16):
            name = files[kind][str(batch)] = f"detector_batch_{batch}{kind.removeprefix('onnx')}.onnx"
            write_atomically(folder / name, model)
            write_json(folder / METADATA_FILE, _metadata(detector, shape, files), indent=1)
            remarks.append(f"{name}: {difference}")
    return remarks


def serialized(detector: Detector, shape: tuple[int, int], batch: Batch) -> bytes:
    """The program for `jax.export.deserialize`, whose first argument is the weights: a dict of arrays by name."""
    detect = _detect(_definition(detector), detector.max_detections)
    size = jax.export.symbolic_shape("batch")[0] if batch == ANY else batch
    weights = {
        name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in variables_of(detector.model).items()
    }
    exported = jax.export.export(jax.jit(lambda *inputs: tuple(detect(*inputs))), platforms=PLATFORMS)(
        weights, *export_onnx.input_shapes(size, shape)
    )
    return bytes(exported.serialize())


def _sample() -> str:
    """The text of `sample.py`, which imports `pixels.py` from its own folder instead of this package."""
    text, imported = inspect.getsource(export_sample), f"from {pixels.__name__} import "
    assert text.count(imported) == 1
    return text.replace(imported, "from pixels import ")


def _definition(detector: Detector, **changes: Any) -> ModelDefinition:
    # One program for all platforms takes the plain functions.
    return definition_of(dataclasses.replace(detector.model.config, kernels="none", remat=False, **changes))


def _detect(definition: ModelDefinition, max_detections: int) -> export_onnx.Detect:
    def detect(
        variables: Mapping[str, Any], images: jax.Array, image_sizes: jax.Array, original_sizes: jax.Array
    ) -> TopDetections:
        predictions = definition.merge(variables)(images, image_sizes)
        return top_detections(predictions.logits[-1], predictions.boxes[-1], original_sizes, max_detections)

    return detect


def _check_shape(config: ModelConfig, shape: tuple[int, int]) -> None:
    stride = config.stride
    if any(side < 1 or side % stride for side in shape):
        height, width = (max(-(-side // stride), 1) * stride for side in shape)
        raise UserError(
            f"The shape {shape[0]}x{shape[1]} is no multiple of the network's stride, {stride} pixels: take "
            f"{height}x{width}."
        )


def _remarks_on_shape(detector: Detector, shape: tuple[int, int]) -> list[str]:
    """A sentence about a shape that is much larger or much smaller than the images that the detector is made for."""
    usual = detector.shapes.usual()
    ratio = math.prod(shape) / math.prod(usual)
    if 1 / FAR_FROM_USUAL <= ratio <= FAR_FROM_USUAL:
        return []
    given, better = f"{shape[0]}x{shape[1]}", f"{usual[0]}x{usual[1]}"
    sizes = f"eval_size={detector.augment.eval_size} and max_size={detector.augment.max_size}"
    if ratio > 1:
        return [
            f"The shape {given} has {ratio:.1f} times the pixels of {better}, which suits this detector ({sizes}): "
            "most of each image is padding, which costs time and improves nothing."
        ]
    return [
        f"The shape {given} has {ratio:.0%} of the pixels of {better}, which suits this detector ({sizes}): images are "
        "made smaller than in evaluation, so that its scores do not hold for this export."
    ]


def _clear(folder: Path) -> None:
    """Removes the metadata and programs of an earlier export, because its weights are replaced next.

    The metadata go first: a folder without them is no export, however far this one comes.
    """
    try:
        (folder / METADATA_FILE).unlink(missing_ok=True)
        for path in [*folder.glob("detector_batch_*.jax"), *folder.glob("detector_batch_*.onnx")]:
            path.unlink()
    except OSError as error:
        raise UserError(f"Cannot write into {folder} ({error.strerror}): give another folder.") from None


def _npz(variables: Mapping[str, jax.Array]) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: np.asarray(value) for name, value in variables.items()})  # type: ignore[arg-type]
    return file.getvalue()


def _metadata(detector: Detector, shape: tuple[int, int], files: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    return {
        "inputs": {
            "images": "uint8 [B,H,W,3], RGB, padded at the bottom and right",
            "image_sizes": "int32 [B,2], (height, width) of each image without its padding",
            "original_sizes": "int32 [B,2], (height, width) of each image before it was resized",
        },
        "outputs": {
            "scores": "float32 [B,D], best first",
            "labels": "int32 [B,D], class outputs; those with a class are the keys of 'classes'",
            "boxes": "float32 [B,D,4], left, top, right, bottom in pixels of the original image; not clipped to it",
        },
        "shape": list(shape),
        "eval_size": detector.augment.eval_size,
        "max_size": detector.augment.max_size,
        "shown_ratios": list(detector.augment.shown_ratios),
        "max_detections": detector.max_detections,
        "classes": {str(label): _class(detector, label) for label in detector.names},
        **files,
        "weights": WEIGHTS_FILE,
        "platforms": list(PLATFORMS),
        "backbone": detector.model.config.backbone,
        "dtype": detector.model.config.dtype,
        "jax_version": jax.__version__,
        "trained": _trained(detector),
    }


def _class(detector: Detector, label: int) -> dict[str, Any]:
    known = {"name": detector.names[label], "category_id": detector.category_ids[label]}
    return known if detector.thresholds is None else {**known, "threshold": detector.threshold_of(label)}


def _trained(detector: Detector) -> dict[str, Any] | None:
    """What an evaluation of the export needs of its run: the data, and the scores to compare with."""
    if detector.trained is None:
        return None
    settings = config_to_dict(detector.trained)
    return {
        "settings": {name: settings[name] for name in ("data", "augment", "eval")},
        "scores": None if detector.scores is None else dict(detector.scores),
    }
