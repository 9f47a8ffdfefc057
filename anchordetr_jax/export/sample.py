"""Detects objects on images with the exported detector in this file's folder. The package anchordetr_jax is not needed.

python sample.py IMAGE... [--threshold 0.5] [--batch 8]    needs: pip install jax flatbuffers numpy pillow
python sample.py --onnx [--float16] IMAGE...               needs: pip install onnxruntime numpy pillow

Without --threshold each class has the one with the best F1 score in the evaluation of the detector, if there was one,
or 0.5.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from anchordetr_jax.data.pixels import upright_rgb

FOLDER = Path(__file__).resolve().parent
ROWS = 8  # Images per batch, where the program takes batches of every size.

Run = Callable[[np.ndarray, np.ndarray, np.ndarray], Sequence[Any]]
"""(images uint8 [B,H,W,3], image sizes int32 [B,2], original sizes int32 [B,2]) -> (scores [B,D], labels [B,D], boxes
[B,D,4]). Sizes are (height, width). Boxes are left, top, right, bottom in pixels of the original image."""


class Detection(NamedTuple):
    """One object."""

    name: str
    score: float
    box: list[float]
    """Left, top, right, bottom in pixels."""


def read_metadata() -> dict[str, Any]:
    """The contents of metadata.json: the files of this folder, the classes and the sizes of images."""
    return json.loads((FOLDER / "metadata.json").read_text())


def load_jax(file: str, weights_file: str, folder: Path = FOLDER) -> Run:
    """The detector as a program for JAX. It runs on the default device of JAX."""
    import jax
    from jax import export

    program = jax.jit(export.deserialize(bytearray((folder / file).read_bytes())).call)
    with open(folder / weights_file, "rb") as stream, np.load(stream) as arrays:
        weights = jax.device_put({name: arrays[name] for name in arrays.files})
    return lambda *inputs: program(weights, *inputs)


def load_onnx(file: str, folder: Path = FOLDER) -> Run:
    """The detector as an ONNX model, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # Errors. It would warn of each float16 operation that CPUs do not have.
    session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
    names = ("images", "image_sizes", "original_sizes")
    return lambda *inputs: session.run(["scores", "labels", "boxes"], dict(zip(names, inputs, strict=True)))


def resized_size(size: tuple[int, int], eval_size: int, max_size: int, shape: tuple[int, int]) -> tuple[int, int]:
    """The (height, width) that an image is resized to: the size in evaluation, or less if that does not fit `shape`."""
    short, long = min(size), max(size)
    target = eval_size
    if long / short * eval_size > max_size:
        target = max(round(max_size * short / long), 1)
    other = target * long // short
    height, width = (other, target) if size[0] >= size[1] else (target, other)
    scale = min(shape[0] / height, shape[1] / width)
    if scale < 1:
        height, width = (
            max(min(int(side * scale + 1e-6), most), 1) for side, most in zip((height, width), shape, strict=True)
        )
    return height, width


def detect(pictures: Sequence[np.ndarray], metadata: dict[str, Any], run: Run, rows: int) -> Iterator[Sequence[Any]]:
    """Scores [D], labels [D] and boxes [D,4] of each picture, best first.

    Pictures are uint8 RGB [h,w,3]; `rows` of them make a batch.
    """
    shape = tuple(metadata["shape"])
    for start in range(0, len(pictures), rows):
        batch = pictures[start : start + rows]
        images = np.zeros((rows, *shape, 3), np.uint8)  # The network ignores the pixels beyond an image.
        image_sizes, original_sizes = np.tile(np.array(shape, np.int32), (2, rows, 1))
        for row, picture in enumerate(batch):
            size = picture.shape[:2]
            height, width = resized_size(size, metadata["eval_size"], metadata["max_size"], shape)
            small = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
            images[row, :height, :width] = np.asarray(small)
            image_sizes[row], original_sizes[row] = (height, width), size
        outputs = [np.asarray(output) for output in run(images, image_sizes, original_sizes)]
        for row in range(len(batch)):
            yield [output[row] for output in outputs]


def named(
    result: Sequence[Any], size: tuple[int, int], classes: dict[str, Any], threshold: float | None
) -> Iterator[Detection]:
    """The detections that score at least `threshold`, with boxes clipped to an image of `size` (height, width).

    With None each class has its own threshold.
    """
    height, width = size
    for score, label, box in zip(*result, strict=True):
        known = classes.get(str(label))
        if known is None:  # Some class outputs may stand for no class.
            continue
        if score >= (known.get("threshold", 0.5) if threshold is None else threshold):
            left, top, right, bottom = box.clip(0, [width, height, width, height]).tolist()
            yield Detection(known["name"], float(score), [left, top, right, bottom])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="+", type=Path)
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--batch", help="one of the exported batch sizes; the first by default")
    parser.add_argument("--onnx", action="store_true")
    parser.add_argument("--float16", action="store_true", help="with --onnx: the model in float16")
    arguments = parser.parse_args()
    if arguments.threshold is not None and not 0 <= arguments.threshold <= 1:
        parser.error(f"--threshold must be a score between 0 and 1, not {arguments.threshold:g}")
    metadata = read_metadata()
    if arguments.float16 and not arguments.onnx:
        parser.error("--float16 is for ONNX models: give --onnx too")
    files = metadata[("onnx_float16" if arguments.float16 else "onnx") if arguments.onnx else "jax"]
    if not files:
        parser.error(f"this folder has no such model: export with --onnx{' --float16' if arguments.float16 else ''}")
    batch = arguments.batch or next(iter(files))
    if batch not in files:
        parser.error(f"--batch must be one of {', '.join(files)}")
    run = load_onnx(files[batch]) if arguments.onnx else load_jax(files[batch], metadata["weights"])
    pictures = []
    for path in arguments.images:
        try:
            pictures.append(upright_rgb(Image.open(path)))
        except Exception as error:  # Pillow's readers raise many kinds of exceptions for damaged files.
            parser.error(f"{path} cannot be read: {error}")
    rows = min(ROWS, len(pictures)) if batch == "any" else int(batch)
    results = detect(pictures, metadata, run, rows)
    for path, picture, result in zip(arguments.images, pictures, results, strict=True):
        print(path)
        for detection in named(result, picture.shape[:2], metadata["classes"], arguments.threshold):
            print(f"  {detection.score:.3f}  {detection.name:20s}", *(f"{side:8.1f}" for side in detection.box))


if __name__ == "__main__":
    main()
