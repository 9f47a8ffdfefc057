"""Conversion to ONNX by jax2onnx, and a comparison in onnxruntime, because a converter can be wrong without a word."""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from anchordetr_jax.detection.postprocess import TopDetections
from anchordetr_jax.errors import UserError
from anchordetr_jax.export.onnx_float16 import in_float16

OPSET = 21
INPUTS = ("images", "image_sizes", "original_sizes")
OUTPUTS = TopDetections._fields
PACKAGES = ("onnx", "onnxruntime", "jax2onnx")
INSTALL = "pip install 'anchordetr_jax[onnx]', then pip install --no-deps 'jax2onnx>=0.17.1,<0.18'"


class Closeness(NamedTuple):
    """How much detections may differ."""

    score: float
    box: float
    """Relative to the longer side of the image."""


FLOAT32 = Closeness(1e-4, 1e-3)
"""Rounding in float32 makes a hundredth of both differences, a wrong conversion much more than either."""
FLOAT16 = Closeness(0.1, 0.1)
"""Rounding in float16 made 0.03 and 0.015 with large random weights; that of trained ones is less."""

Detect = Callable[[Mapping[str, Any], jax.Array, jax.Array, jax.Array], TopDetections]
"""(weights by name, images, image sizes, original sizes) -> detections."""


def require() -> None:
    """Raises `UserError` if a package that the conversion needs is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"Export to ONNX needs {', '.join(missing)}: {INSTALL}.")


def input_shapes(batch: Any, shape: tuple[int, int]) -> list[jax.ShapeDtypeStruct]:
    """Shapes and dtypes of `INPUTS` for a batch size (or a symbolic one) and an image shape (H, W)."""
    sizes = jax.ShapeDtypeStruct((batch, 2), jnp.int32)
    return [jax.ShapeDtypeStruct((batch, *shape, 3), jnp.uint8), sizes, sizes]


class Converted(NamedTuple):
    """An ONNX model that was checked."""

    kind: str
    """`onnx` (float32) or `onnx_float16`."""
    model: bytes
    difference: str
    """A sentence on how much its detections differ from the detector's."""


def convert(
    detect: Detect,
    variables: Mapping[str, jax.Array],
    shape: tuple[int, int],
    batch: int | str,
    *,
    float16: bool = False,
) -> list[Converted]:
    """A checked ONNX model of `detect` with the weights in it, and one in float16 if asked for.

    `batch` is a number; a string stands for every batch size. Raises `UserError` if the conversion fails, or the
    detections of a model differ too much.
    """
    import jax2onnx
    import onnx

    size = batch if isinstance(batch, int) else jax.export.symbolic_shape("batch")[0]
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
    try:
        model = jax2onnx.to_onnx(
            lambda *inputs: tuple(detect(variables, *inputs)),
            inputs=input_shapes(size, shape),
            model_name="anchor_detr",
            opset=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
        )
        _drop_unused(model.graph)
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # The converter raises exceptions of every kind.
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"This detector cannot be converted to ONNX by jax2onnx {importlib.metadata.version('jax2onnx')}: {first}"
        ) from error
    data = model.SerializeToString()
    inputs = example_inputs(batch if isinstance(batch, int) else 2, shape)
    expected = jax.jit(detect)(variables, *inputs)
    converted = [Converted("onnx", data, compare(data, expected, inputs))]
    if float16:
        half = in_float16(model)
        converted.append(Converted("onnx_float16", half, compare(half, expected, inputs, FLOAT16)))
    return converted


def example_inputs(batch: int, shape: tuple[int, int]) -> list[np.ndarray]:
    """Images of noise with borders of padding."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, *shape, 3), dtype=np.uint8)
    image_sizes = np.stack([rng.integers(side * 3 // 4, side + 1, batch) for side in shape], axis=1).astype(np.int32)
    return [images, image_sizes, image_sizes]


def compare(model: bytes, expected: TopDetections, inputs: Sequence[np.ndarray], closeness: Closeness = FLOAT32) -> str:
    """A sentence on how much the detections of an ONNX model, in onnxruntime on the CPU, differ from those expected.

    Raises `UserError` if they differ too much.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    found = TopDetections(*session.run(list(OUTPUTS), dict(zip(INPUTS, inputs, strict=True))))
    return differences(found, expected, max(inputs[0].shape[1:3]), closeness)


def differences(found: TopDetections, expected: TopDetections, longer_side: int, closeness: Closeness) -> str:
    """A sentence on how much detections differ from those expected. `longer_side`: that of the images, in pixels.

    Raises `UserError` if they differ too much. Detections with nearly equal scores can change their order, so each box
    is compared with the nearest box of its class.
    """
    scores, labels, boxes = (np.asarray(output, np.float64) for output in found)
    other_scores, other_labels, other_boxes = (np.asarray(output, np.float64) for output in expected)
    distances = np.abs(boxes[:, :, None] - other_boxes[:, None]).max(axis=-1)
    distances = np.where(labels[:, :, None] == other_labels[:, None], distances, np.inf).min(axis=-1)
    # Detections that score nearly as the last one may have changed places with others that are not reported. An error
    # of the network changes low scores in proportion to them: the slope of the sigmoid is 1/4 at most, and at low
    # scores it is the score.
    last = scores[:, -1:]
    clear = scores > last + closeness.score * np.minimum(1, 4 * last)
    score, box = float(np.abs(scores - other_scores).max()), float(distances.max(where=clear, initial=0))
    if not (score < closeness.score and box < closeness.box * longer_side):
        raise UserError(
            f"The detections of the ONNX model differ from the detector's (scores by up to {score:.2g}, boxes by up to "
            f"{box:.2g} pixels): use the program for JAX."
        )
    sentence = f"scores differ from the detector's by at most {score:.1e}"
    if not clear.any():
        return f"{sentence} (on noise). No box was compared, because all scores on noise are nearly equal"
    return f"{sentence}, the {clear.sum()} best boxes by {box:.1e} pixels (on noise)"


def _drop_unused(graph: Any) -> None:
    """Removes constants that nothing uses: onnxruntime warns of each of them."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    for node in graph.node:
        for attribute in node.attribute:
            used |= {name for inner in attribute.g.node for name in inner.input}
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
