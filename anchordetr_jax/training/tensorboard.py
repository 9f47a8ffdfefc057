"""A run's numbers and pictures for TensorBoard, written without TensorFlow."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from etils import epath
from PIL import Image
from tensorboardX import SummaryWriter

from anchordetr_jax.training.metrics_file import EVALUATION_PREFIX, METRICS_FILE

TENSORBOARD_FOLDER = "tensorboard"
MAX_WIDTH = 1600
"""Pixels; wider pictures are made smaller, as event files grow with every one."""


class TensorBoard:
    """Writes event files into a workdir's `tensorboard`. A context manager; use it on process 0, with a local workdir.

    Numbers of training are shown under `train/`, those of evaluations under `val/`. When a run goes on from a step,
    what the files say of later steps is hidden, as those are taken again.
    """

    def __init__(self, workdir: epath.PathLike):
        self._workdir = Path(workdir)
        self._writer: SummaryWriter | None = None

    def line(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes a line that was written to `metrics.jsonl`."""
        writer = self._opened(step)
        for name, value in values.items():
            if isinstance(value, int | float) and np.isfinite(value) and name != "epoch":
                tag = name if name.startswith(EVALUATION_PREFIX) else f"train/{name}"
                writer.add_scalar(tag, value, step)
        writer.flush()

    def picture(self, step: int, name: str, file: epath.PathLike) -> None:
        """Takes an image file that belongs to a step."""
        with Image.open(file) as image:
            image.thumbnail((MAX_WIDTH, 16 * MAX_WIDTH))
            pixels = np.asarray(image.convert("RGB"))
        writer = self._opened(step)
        writer.add_image(name, pixels, step, dataformats="HWC")
        writer.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def _opened(self, step: int) -> SummaryWriter:
        if self._writer is None:
            folder = self._workdir / TENSORBOARD_FOLDER
            earlier = folder.is_dir() and any(folder.iterdir())
            purge_step = self._first_step_taken_again(step) if earlier else None
            self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)
        return self._writer

    def _first_step_taken_again(self, step: int) -> int:
        """One more than the last step before `step` that the metrics, cut where the run goes on, have kept."""
        path = self._workdir / METRICS_FILE
        kept = [json.loads(line)["step"] for line in path.read_text().splitlines()] if path.exists() else []
        return max((number for number in kept if number < step), default=-1) + 1
