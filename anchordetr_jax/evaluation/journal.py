"""The detections of a running evaluation on disk, so that a killed evaluation continues where it stopped."""

import contextlib
import dataclasses
import hashlib
import io
import json
import re
import secrets
import time
import zipfile
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from anchordetr_jax.config import Config
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.results import DatasetDetections, joined
from anchordetr_jax.files import stored_path, write_atomically
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.version import __version__

SECONDS_BETWEEN_PARTS = 5.0
"""The shortest time between two parts. A killed evaluation loses what it found since the last part."""


def fingerprint(
    model: AnchorDETR, source: DetectionSource, config: Config, tiles: tuple[int, float] | None = None
) -> str:
    """A digest of everything that detections depend on: weights, network, images (names and sizes) and settings.

    Batches are part of it only with `model.padding="official"`: else they change nothing. The weights must be on the
    devices of this process.

    Args:
        model, source, config: those of the evaluation.
        tiles: the side of a tile in pixels, and the share that it has in common with the next one; None for whole
            images.
    """
    batches = [config.eval.batch_size, config.eval.equal_memory, config.data.num_buckets, config.data.shape_multiple]
    settings = {
        "tiles": tiles,
        "batches": batches if model.config.padding == "official" else [],
        "version": __version__,
        "model": dataclasses.asdict(model.config),
        "sizes": [config.augment.eval_size, config.augment.max_size],
        "max_detections": config.eval.max_detections,
        "categories": source.categories.to_dict(),
        "source": source.name,
        "orientation": getattr(source, "orientation", None),
        "images": [source.describe(row) for row in range(len(source))],
        "image_ids": list(source.image_ids),
        "image_sizes": source.sizes.tolist(),
    }
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(nnx.state(model)):
        values = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


class Journal:
    """A folder of parts, each with the detections of some images. A part is written in one piece and never changes.

    All processes of an evaluation can use one folder, or each process a folder of its own with the same name.
    """

    def __init__(self, folder: epath.PathLike, *, seconds: float = SECONDS_BETWEEN_PARTS):
        """Nothing is read or written yet.

        Args:
            folder: on this machine or in a bucket. It is made when there is something to keep.
            seconds: the shortest time between two parts.
        """
        self.folder = stored_path(folder)
        self.notes: list[str] = []
        """Sentences about parts that cannot be used."""
        self._seconds = seconds
        self._fingerprint = ""
        self._session = secrets.token_hex(4)  # So that processes and runs do not overwrite each other's parts.
        self._parts = 0
        self._waiting: list[DatasetDetections] = []
        self._written = time.monotonic()

    def read(self, fingerprint: str, num_images: int) -> DatasetDetections | None:
        """The detections of an evaluation with this fingerprint, each image once; None if there are none.

        After this call, `add` keeps detections of this evaluation.
        """
        self._fingerprint, self.notes = fingerprint, []
        self._written = time.monotonic()
        parts, foreign = [], 0
        for path in sorted(self._files()):
            part = _read_part(path)
            if part is None or (part[0] == fingerprint and not _are_rows(part[1].rows, num_images)):
                self.notes.append(f"{path} is damaged and is not used: its images are detected on again.")
            elif part[0] != fingerprint:
                foreign += 1
            else:
                parts.append(part[1])
        if foreign:
            self.notes.append(
                f"{self.folder} is of an evaluation with another checkpoint, data set or settings, and is not used."
            )
        if not parts:
            return None
        found = joined(parts)
        _, first = np.unique(found.rows, return_index=True)
        return jax.tree.map(lambda array: array[first], found)

    def add(self, images: DatasetDetections) -> None:
        """Keeps the detections of a finished batch, without fillers and images that could not be read.

        Raises `UserError` when nothing can be written into the folder.
        """
        kept = (images.rows >= 0) & images.readable
        if kept.any():
            self._waiting.append(jax.tree.map(lambda array: array[kept], images))
        if time.monotonic() - self._written >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Writes the detections that are not written yet. Raises like `add`."""
        if not self._waiting:
            return
        buffer = io.BytesIO()
        np.savez(buffer, fingerprint=np.array(self._fingerprint), **joined(self._waiting)._asdict())
        write_atomically(self.folder / f"{self._session}-{self._parts:06d}.npz", buffer.getvalue())
        self._parts += 1
        self._waiting = []
        self._written = time.monotonic()

    def remove(self) -> None:
        """Removes all parts, also those of other evaluations, and the folder if it is empty then."""
        for path in [*self._files(), *self._torn_files()]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError, ValueError):  # It does not exist, or has other files (ValueError of etils).
            self.folder.rmdir()

    def _files(self) -> list[epath.Path]:
        return [path for path in self._entries() if path.suffix == ".npz" and not path.name.startswith(".")]

    def _torn_files(self) -> list[epath.Path]:
        """Incomplete files of processes that were killed while they wrote a part."""
        return [path for path in self._entries() if re.fullmatch(r"\..*\.npz\..*\.partial", path.name)]

    def _entries(self) -> list[epath.Path]:
        # Not by `glob`, which would take brackets in the name of a folder for a pattern.
        return list(self.folder.iterdir()) if self.folder.is_dir() else []


def _are_rows(rows: np.ndarray, num_images: int) -> bool:
    return bool(((rows >= 0) & (rows < num_images)).all())


def _read_part(path: epath.Path) -> tuple[str, DatasetDetections] | None:
    """The fingerprint and the detections of a part; None if it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as contents:
            values: dict[str, Any] = {name: contents[name] for name in contents.files}
        name, images = str(values.pop("fingerprint")), DatasetDetections(**values)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    length, most = images.rows.size, images.labels.shape[-1] if images.labels.ndim else 0
    shapes = ((length,), (length,), (length, most), (length, most), (length, most, 4), (length,))
    return (name, images) if tuple(array.shape for array in images) == shapes else None
