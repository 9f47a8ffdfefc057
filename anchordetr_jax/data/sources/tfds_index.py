"""The content of a TFDS data set's records without the pixels, gathered in one pass; and its boxes in pixels.

The pass reads every record. For a large data set its result is kept on disk.
"""

import dataclasses
import hashlib
import io
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from tqdm.auto import tqdm

from anchordetr_jax.data.image_sizes import read_header
from anchordetr_jax.data.sources.tfds_records import StoredRecords
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import user_cache, write_atomically

READERS = 16
"""Threads that read records. On a network disk they wait most of the time."""
RECORDS_AT_ONCE = 32
KEPT_FROM_SECONDS = 3.0
"""An index is kept where it took this long to gather."""
FORMAT_VERSION = 1
"""The version of the kept files. To be raised when an index holds something else."""


_DTYPES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "image_ids": (np.int64, ()),
    "file_names": (np.str_, ()),
    "sizes": (np.int32, (2,)),
    "counts": (np.int64, ()),
    "boxes": (np.float32, (4,)),
    "labels": (np.int64, ()),
    "crowds": (np.bool_, ()),
    "areas": (None, ()),
    "annotation_ids": (np.int64, ()),
}


@dataclasses.dataclass(frozen=True)
class TfdsIndex:
    """n records in the order in which they are stored, with m objects."""

    image_ids: np.ndarray
    """int64 [n]; [0] where the data set has no numbers for its images."""
    file_names: np.ndarray
    """text [n]; [0] where it has none."""
    sizes: np.ndarray
    """int32 [n, 2]: (height, width) of the stored pixels in the image's header; 0 where that cannot be read."""
    counts: np.ndarray
    """int64 [n]: objects."""
    boxes: np.ndarray
    """float32 [m, 4]: (y, x, y, x) relative to the image."""
    labels: np.ndarray
    """int64 [m]"""
    crowds: np.ndarray
    """bool [m]"""
    areas: np.ndarray
    """int64 or float64 [m]: of the object's outline in pixels; [0] where the data set has none."""
    annotation_ids: np.ndarray
    """int64 [m]; [0] where it has none."""


def load_index(records: StoredRecords) -> TfdsIndex:
    """The index of a split: the kept one where the files are still the same, otherwise a new one.

    Raises `UserError` when a record cannot be read, or is not one of object detection.
    """
    file = _kept_file(records)
    index = _read_kept(file)
    if index is None:
        started = time.monotonic()
        index = gather_index(records)
        if time.monotonic() - started >= KEPT_FROM_SECONDS:
            _keep(file, index)
    return index


def gather_index(records: StoredRecords) -> TfdsIndex:
    """Reads all records of a split, with a progress bar where it takes long. No pixels are decoded."""

    def gather(start: int) -> list[dict[str, Any]]:
        return [_facts(records[i]) for i in range(start, min(start + RECORDS_AT_ONCE, len(records)))]

    facts: list[dict[str, Any]] = []
    bar = tqdm(total=len(records), desc=f"index of {records.split}", unit="image", delay=2, dynamic_ncols=True)
    with bar, ThreadPoolExecutor(READERS) as pool:
        for part in pool.map(gather, range(0, len(records), RECORDS_AT_ONCE)):
            facts += part
            bar.update(len(part))
    columns = {name: [value for fact in facts for value in fact[name]] for name in _DTYPES}
    return TfdsIndex(
        **{name: np.array(columns[name], dtype).reshape(-1, *shape) for name, (dtype, shape) in _DTYPES.items()}
    )


def pixel_boxes(relative: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """float64 [m, 4]: xywh in pixels, of boxes (y, x, y, x) relative to images of the given sizes (int [m, 2]: h, w).

    A relative coordinate in float32 has an error of about 1e-5 pixels. COCO writes coordinates with two decimals. So a
    number of two decimals within that error is taken, and IoUs are COCO's to the last bit. Any other coordinate stays
    as it is.
    """
    sides = np.asarray(sizes, np.float64)[:, [0, 1, 0, 1]]
    corners = relative.astype(np.float64) * sides
    corners = _two_decimals(corners, sides * 2.0**-23)
    spans = corners[:, 2:] - corners[:, :2]
    return np.concatenate([corners[:, 1::-1], _two_decimals(spans, 1e-9)[:, ::-1]], axis=1)


def pixel_areas(areas: np.ndarray, xywh: np.ndarray) -> np.ndarray:
    """float64 [m]: areas in pixels. TFDS's `coco` keeps only whole pixels of them (int [m]; [0]: none is known).

    The fraction that was cut off decides whether an object of 1024.3 pixels is small for COCO (it is not: small is at
    most 32 x 32). An area that agrees with the box's area gets the box's fraction. Beside a box in whole pixels, an
    area is in whole pixels. Any other area is that of a polygon: it is taken as the middle between two whole numbers.
    """
    box_areas = xywh[:, 2] * xywh[:, 3]
    if len(areas) == 0 or areas.dtype.kind == "f":
        return areas.astype(np.float64) if len(areas) else box_areas
    whole = areas.astype(np.float64)
    in_whole_pixels = (xywh == np.round(xywh)).all(axis=1)
    return np.where(np.floor(box_areas + 1e-6) == whole, box_areas, np.where(in_whole_pixels, whole, whole + 0.5))


def _two_decimals(values: np.ndarray, tolerance: np.ndarray | float) -> np.ndarray:
    rounded = np.round(values, 2)
    return np.where(np.abs(values - rounded) <= tolerance, rounded, values)


def _facts(record: Mapping[str, Any]) -> dict[str, Any]:
    objects, image_id = record["objects"], record.get("image/id")
    file_name = record.get("image/filename")
    header = read_header(io.BytesIO(record["image"]))
    return {
        "image_ids": [image_id] if isinstance(image_id, int | np.integer) else [],
        "file_names": [file_name.decode(errors="replace")] if isinstance(file_name, bytes) else [],
        "sizes": [(0, 0) if header is None else header.stored],
        "counts": [len(objects["label"])],
        "boxes": objects["bbox"],
        "labels": objects["label"],
        "crowds": objects.get("is_crowd", [False] * len(objects["label"])),
        "areas": objects.get("area", []),
        "annotation_ids": objects.get("id", []),
    }


def _kept_file(records: StoredRecords) -> Path:
    """The name follows from the files of the data set, so the index of another data set is never taken."""
    files = sorted((path.name, path.stat()) for path in records.directory.iterdir())
    facts = [[name, stat.length, stat.mtime] for name, stat in files if not stat.is_directory]
    identity = json.dumps([FORMAT_VERSION, str(records.directory.resolve()), records.split, facts])
    return user_cache() / "tfds" / f"{hashlib.sha256(identity.encode()).hexdigest()[:32]}.npz"


def _read_kept(file: Path) -> TfdsIndex | None:
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            return TfdsIndex(**arrays)
    except Exception:  # It is not there, damaged, or of another version: then it is gathered again.
        return None


def _keep(file: Path, index: TfdsIndex) -> None:
    content = io.BytesIO()
    np.savez(content, **dataclasses.asdict(index))
    try:
        write_atomically(file, content.getvalue())
    except UserError as error:
        logging.warning("The index of the TFDS data set is not kept, and will be gathered again next time: %s", error)
