"""Detections of an evaluation under way, kept on disk so that one that was killed goes on where it was."""

import contextlib
import dataclasses
import hashlib
import io
import json
import secrets
import time
import zipfile
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import nnx

from anchordetr_jax import __version__
from anchordetr_jax.config import Config
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.results import DatasetDetections, joined
from anchordetr_jax.files import write_atomically
from anchordetr_jax.model.anchor_detr import AnchorDETR

SECONDS_BETWEEN_PARTS = 5.0
"""So long detections wait before they are written: what a killed evaluation may lose."""


def fingerprint(model: AnchorDETR, source: DetectionSource, config: Config) -> str:
    """Names all that detections follow from: weights, network, images (by name and size, not by pixel) and settings.

    How images are batched is not part of it, as it changes nothing. The weights must lie on this process's devices.
    """
    settings = {
        "version": __version__,
        "model": dataclasses.asdict(model.config),
        "sizes": [config.augment.eval_size, config.augment.max_size],
        "max_detections": config.eval.max_detections,
        "categories": source.categories.to_dict(),
        "source": source.name,
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
    """A folder of parts, each with the detections of some images; a part is written in one piece and never changed.

    All processes of an evaluation may use the same folder, or each one of its own under the same name.
    """

    def __init__(self, folder: epath.PathLike, *, seconds: float = SECONDS_BETWEEN_PARTS):
        """Nothing is read or written yet.

        Args:
            folder: local, or one that `etils.epath` knows; made when there is something to keep.
            seconds: least time between two parts.
        """
        self.folder = epath.Path(folder)
        self.notes: list[str] = []
        """Sentences about parts that were found and are of no use."""
        self._seconds = seconds
        self._fingerprint = ""
        self._session = secrets.token_hex(4)  # parts of processes and of runs do not overwrite one another
        self._parts = 0
        self._waiting: list[DatasetDetections] = []
        self._written = time.monotonic()

    def read(self, fingerprint: str, num_images: int) -> DatasetDetections | None:
        """What was kept of an evaluation with this fingerprint, each image once; None if nothing was.

        From here on, `add` keeps detections of this evaluation.
        """
        self._fingerprint, self.notes = fingerprint, []
        self._written = time.monotonic()
        parts, foreign = [], 0
        for path in sorted(self._files()):
            part = _read_part(path)
            if part is None or (part[0] == fingerprint and not _are_rows(part[1].rows, num_images)):
                self.notes.append(f"{path} is damaged, and is ignored: its images are detected on again.")
            elif part[0] != fingerprint:
                foreign += 1
            else:
                parts.append(part[1])
        if foreign:
            self.notes.append(
                f"{self.folder} is of an evaluation with another checkpoint, data set or settings, and is ignored."
            )
        if not parts:
            return None
        found = joined(parts)
        _, first = np.unique(found.rows, return_index=True)
        return jax.tree.map(lambda array: array[first], found)

    def add(self, images: DatasetDetections) -> None:
        """Keeps the detections of a finished batch, without fillers. Images that could not be read get another chance.

        Raises `UserError` when the folder cannot be written to.
        """
        kept = (images.rows >= 0) & images.readable
        if kept.any():
            self._waiting.append(jax.tree.map(lambda array: array[kept], images))
        if time.monotonic() - self._written >= self._seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what waits to be written. Raises like `add`."""
        if not self._waiting:
            return
        buffer = io.BytesIO()
        np.savez(buffer, fingerprint=np.array(self._fingerprint), **joined(self._waiting)._asdict())
        write_atomically(self.folder / f"{self._session}-{self._parts:06d}.npz", buffer.getvalue())
        self._parts += 1
        self._waiting = []
        self._written = time.monotonic()

    def remove(self) -> None:
        """Removes all parts, also those of other evaluations, and the folder if nothing else is in it."""
        for path in [*self._files(), *self._torn_files()]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError, ValueError):  # absent, or not ours alone (etils says it so)
            self.folder.rmdir()

    def _files(self) -> list[epath.Path]:
        return list(self.folder.glob("*.npz")) if self.folder.is_dir() else []

    def _torn_files(self) -> list[epath.Path]:
        """What a process that was killed while writing a part has left."""
        return list(self.folder.glob(".*.npz.*.partial")) if self.folder.is_dir() else []


def _are_rows(rows: np.ndarray, num_images: int) -> bool:
    return bool(((rows >= 0) & (rows < num_images)).all())


def _read_part(path: epath.Path) -> tuple[str, DatasetDetections] | None:
    """A part's fingerprint and detections; None if it is damaged."""
    try:
        with np.load(io.BytesIO(path.read_bytes())) as contents:
            values: dict[str, Any] = {name: contents[name] for name in contents.files}
        name, images = str(values.pop("fingerprint")), DatasetDetections(**values)
    except (OSError, ValueError, EOFError, KeyError, TypeError, zipfile.BadZipFile):
        return None
    length, most = images.rows.size, images.labels.shape[-1] if images.labels.ndim else 0
    shapes = ((length,), (length,), (length, most), (length, most), (length, most, 4))
    return (name, images) if tuple(array.shape for array in images) == shapes else None
