"""A detector as files that run without this package: programs for JAX (`jax.export`) and ONNX models.

The programs do not hold the weights, which lie beside them once for all batch sizes, in `weights.npz`: compiled into a
program they would make every file as large, and its compilation slow. An ONNX model holds its own.
"""

import dataclasses
import importlib.util
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from anchordetr_jax.config import ModelConfig
from anchordetr_jax.detection.postprocess import Detections, top_detections
from anchordetr_jax.errors import UserError
from anchordetr_jax.export import onnx as export_onnx
from anchordetr_jax.export import sample as export_sample
from anchordetr_jax.files import write_atomically, write_json
from anchordetr_jax.kernels.forms import with_plain_forms
from anchordetr_jax.model.anchor_detr import definition_of
from anchordetr_jax.model.definition import ModelDefinition, variables_of
from anchordetr_jax.prediction.detector import Detector

PLATFORMS = ("cpu", "cuda", "tpu")
ANY = "any"
"""In place of a batch size: the program takes batches of every size, and JAX compiles it anew for each."""
WEIGHTS_FILE, METADATA_FILE, SAMPLE_FILE = "weights.npz", "metadata.json", "sample.py"

Batch = int | str
"""A number of images, or `ANY`."""


def parse_batches(texts: Sequence[str]) -> list[Batch]:
    """`["1", "8", "any"]` -> [1, 8, "any"]. Raises `UserError` for what is no batch size."""
    batches: list[Batch] = []
    for text in texts:
        if text != ANY and not (text.isascii() and text.isdigit() and int(text)):
            raise UserError(f"A batch size is a whole number from 1, or {ANY!r}, not {text!r}.")
        batches.append(ANY if text == ANY else int(text))
    return list(dict.fromkeys(batches))


def export_detector(
    detector: Detector,
    output: str | os.PathLike[str],
    shape: tuple[int, int],
    batches: Sequence[Batch] = (ANY,),
    *,
    onnx: bool = False,
) -> list[str]:
    """Writes programs from uint8 pixels to detections, the weights, `metadata.json` and a `sample.py` that runs them.

    Every program takes images uint8 [B,H,W,3], padded at the bottom and right, their valid sizes int32 [B,2] and the
    sizes of the images before resizing int32 [B,2], both (height, width); it gives scores float32 [B,D], labels int32
    [B,D] and boxes float32 [B,D,4], xyxy in pixels of the original image, as `top_detections` does.

    Args:
        detector: what to export; its sizes and classes go into `metadata.json`.
        output: folder; made if need be. An export that is there is replaced.
        shape: H and W, multiples of the network's stride.
        batches: a program for each size B, or for every size (`"any"`).
        onnx: write ONNX models too, always in float32.

    Returns:
        Sentences about what was found on the way: how far each ONNX model's detections are from the detector's.

    Raises:
        UserError: the shape does not fit, `output` cannot be written, or jax2onnx is missing or fails.
    """
    _check_shape(detector.model.config, shape)
    if importlib.util.find_spec("flatbuffers") is None:
        raise UserError("JAX takes the package flatbuffers to write programs: pip install flatbuffers.")
    if onnx:
        export_onnx.require()
    folder = Path(output)
    _clear(folder)
    variables = variables_of(detector.model)
    write_atomically(folder / SAMPLE_FILE, Path(export_sample.__file__).read_bytes())
    write_atomically(folder / WEIGHTS_FILE, _npz(variables))
    files: dict[str, dict[str, str]] = {"jax": {}, "onnx": {}}
    for batch in batches:
        name = files["jax"][str(batch)] = f"detector_batch_{batch}.jax"
        write_atomically(folder / name, serialized(detector, shape, batch))
    write_json(folder / METADATA_FILE, _metadata(detector, shape, files), indent=1)
    remarks = []
    for batch in batches if onnx else ():
        detect = _detect(_definition(detector, dtype="float32"), detector.max_detections)
        model, difference = export_onnx.convert(detect, variables, shape, batch)
        name = files["onnx"][str(batch)] = f"detector_batch_{batch}.onnx"
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


def _definition(detector: Detector, **changes: Any) -> ModelDefinition:
    config = dataclasses.replace(with_plain_forms(detector.model.config), remat=False, **changes)
    return definition_of(config)


def _detect(definition: ModelDefinition, max_detections: int) -> export_onnx.Detect:
    def detect(
        variables: Mapping[str, Any], images: jax.Array, image_sizes: jax.Array, original_sizes: jax.Array
    ) -> Detections:
        predictions = definition.merge(variables)(images, image_sizes)
        return top_detections(predictions.logits[-1], predictions.boxes[-1], original_sizes, max_detections)

    return detect


def _check_shape(config: ModelConfig, shape: tuple[int, int]) -> None:
    stride = (8 if config.backbone == "compact" else 16) * (1 if config.dilation else 2)
    if any(side < 1 or side % stride for side in shape):
        height, width = (max(-(-side // stride), 1) * stride for side in shape)
        raise UserError(
            f"The shape {shape[0]}x{shape[1]} is no multiple of the network's stride, {stride} pixels: take "
            f"{height}x{width}."
        )


def _clear(folder: Path) -> None:
    """Takes away the programs of an earlier export, whose weights are about to be replaced."""
    try:
        for path in [*folder.glob("detector_batch_*.jax"), *folder.glob("detector_batch_*.onnx")]:
            path.unlink()
    except OSError as error:
        raise UserError(f"Cannot write into {folder} ({error.strerror}); give another folder.") from None


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
            "labels": "int32 [B,D], keys of classes",
            "boxes": "float32 [B,D,4], left, top, right, bottom in pixels of the original image; not clipped to it",
        },
        "shape": list(shape),
        "eval_size": detector.augment.eval_size,
        "max_size": detector.augment.max_size,
        "max_detections": detector.max_detections,
        "classes": {
            str(label): {"name": name, "category_id": detector.category_ids[label]}
            for label, name in detector.names.items()
        },
        **files,
        "weights": WEIGHTS_FILE,
        "platforms": list(PLATFORMS),
        "backbone": detector.model.config.backbone,
        "dtype": detector.model.config.dtype,
        "jax_version": jax.__version__,
    }
