"""The network as prediction uses it: batches of pixels in, detections of each image out."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from anchordetr_jax.detection.postprocess import TopDetections, top_detections
from anchordetr_jax.kernels import compiler_options

READERS = 8
"""Threads that decode and resize images."""

Compute = Callable[[np.ndarray, np.ndarray, np.ndarray], TopDetections]
"""(pixels uint8 [B,H,W,3], image sizes int32 [B,2], original sizes int32 [B,2]) -> detections."""


class ImageDetections(NamedTuple):
    """All detections of the network for an image, in descending order of their scores."""

    size: tuple[int, int]
    """(height, width) of the image in pixels."""
    scores: np.ndarray
    """float [N]."""
    labels: np.ndarray
    """int32 [N]: class outputs."""
    boxes: np.ndarray
    """float [N, 4], xyxy in pixels of the image; not clipped to it."""


class Seen(NamedTuple):
    """An image, or a part of one, as the network sees it."""

    pixels: np.ndarray
    """uint8 [h, w, 3], resized."""
    original_size: tuple[int, int]
    """(height, width) before it was resized."""


def padded(images: Sequence[Seen], shape: tuple[int, int], rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What `Compute` gets of images, padded to `shape` (H, W), with fillers after the images.

    Returns pixels uint8 [rows,H,W,3], and the sizes after and before the resize, int32 [rows,2] each.
    """
    pixels = np.zeros((rows, *shape, 3), np.uint8)
    image_sizes = np.tile(np.array(shape, np.int32), (rows, 1))
    original_sizes = image_sizes.copy()
    for row, image in enumerate(images):
        height, width = image.pixels.shape[:2]
        pixels[row, :height, :width] = image.pixels
        image_sizes[row], original_sizes[row] = (height, width), image.original_size
    return pixels, image_sizes, original_sizes


@functools.cache
def compiled_detection() -> Any:
    """The function `(graphdef, max_detections, state, pixels, image_sizes, original_sizes) -> TopDetections`.

    It compiles once for each shape, for all models of the same architecture.
    """
    return jax.jit(_detect, static_argnums=(0, 1), compiler_options=compiler_options(jax.default_backend()))


def _detect(
    graphdef: Any,
    max_detections: int,
    state: Any,
    images: jax.Array,
    image_sizes: jax.Array,
    original_sizes: jax.Array,
) -> TopDetections:
    predictions = nnx.merge(graphdef, state)(images, image_sizes)
    return top_detections(predictions.logits[-1], predictions.boxes[-1], original_sizes, max_detections)


@contextlib.contextmanager
def reading_threads() -> Iterator[Executor]:
    """Threads that decode and resize images. What waits at the end is not read any more."""
    with ThreadPoolExecutor(READERS) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)
