"""What the processes of an evaluation exchange. All processes must make the same calls in the same order."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES
from anchordetr_jax.evaluation.results import DatasetDetections, joined


def agree_on_found(found: DatasetDetections | None, num_images: int) -> tuple[DatasetDetections | None, np.ndarray]:
    """Agrees on the images that are not detected on again, when each process has detections of some images (or None).

    Returns the detections that this process gives, so that each image comes from one process, and bool [num_images]:
    which images any process has.
    """
    mine = np.zeros(num_images, np.uint8)
    if found is not None:
        mine[found.rows] = 1
    if jax.process_count() == 1:
        return found, mine.astype(bool)
    everyone = np.asarray(multihost_utils.process_allgather(mine))  # [processes, images]
    if found is not None:
        own = everyone.argmax(axis=0)[found.rows] == jax.process_index()
        found = jax.tree.map(lambda array: array[own], found)
    return found, np.asarray(everyone.any(axis=0))


def gather(share: DatasetDetections | None) -> DatasetDetections:
    """The shares of all processes, on every process. Shorter shares get fillers (row -1), so that all have one size.

    None is a share without images. At least one process must have images.
    """
    if jax.process_count() == 1:
        assert share is not None
        return share
    length, most = (0, 0) if share is None else share.scores.shape
    lengths, mosts = np.asarray(multihost_utils.process_allgather(np.array([length, most], np.int32))).T
    empty = no_detections(int(lengths.max()) - length, int(mosts.max()))
    whole = empty if share is None else joined([share, empty])
    return jax.tree.map(lambda array: np.asarray(multihost_utils.process_allgather(array, tiled=True)), whole)


def no_detections(length: int, most: int) -> DatasetDetections:
    """Fillers: `length` images with `most` detections each."""
    return DatasetDetections(
        rows=np.full(length, -1, np.int32),
        readable=np.zeros(length, bool),
        scores=np.zeros((length, most), float_type()),
        labels=np.zeros((length, most), np.int32),
        boxes=np.zeros((length, most, 4), float_type()),
        left_out=np.zeros(length, np.int32),
    )


def float_type() -> type[np.floating]:
    """The widest floats that JAX sends between processes."""
    return np.float64 if jax.config.read("jax_enable_x64") else np.float32


def metrics_of_process_zero(metrics: Mapping[str, float] | None) -> dict[str, float]:
    """The scores of process 0 on every process, to the last bit; {} if it has none.

    None means that process 0 failed: then the others raise `UserError`, because they would wait for ever.
    """
    if jax.process_count() == 1:
        return dict(metrics or {})
    values = np.array([(metrics or {}).get(name, 0.0) for name in METRIC_NAMES], np.float64)
    state = 2 if metrics is None else int(bool(metrics))
    # As integers, because JAX would round float64 to float32.
    message = np.concatenate([[state], values.view(np.int32)]).astype(np.int32)
    message = np.asarray(multihost_utils.broadcast_one_to_all(message))
    if message[0] == 2 and jax.process_index() > 0:
        raise UserError("Process 0 could not score the detections. Its own message says why.")
    shared = np.ascontiguousarray(message[1:]).view(np.float64)
    return dict(zip(METRIC_NAMES, shared.tolist(), strict=True)) if message[0] == 1 else {}


def process_zero_says(yes: bool) -> bool:
    """The answer of process 0, on every process."""
    return yes if jax.process_count() == 1 else bool(multihost_utils.broadcast_one_to_all(np.int32(yes)))
