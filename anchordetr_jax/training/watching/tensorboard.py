"""The numbers and pictures of a run for TensorBoard, written without TensorFlow."""

import contextlib
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from etils import epath
from PIL import Image

from anchordetr_jax.checkpoints.run_metrics import METRICS_FILE, read_metrics
from anchordetr_jax.errors import UserError

# Where PyTorch is installed, tensorboardX loads it when it is imported: four seconds in every process that trains or
# reads images, for nothing that is used here. So PyTorch is hidden from it.
_torch = sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
try:
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog
finally:
    if _torch is None:
        del sys.modules["torch"]

TENSORBOARD_FOLDER = "tensorboard"
MAX_WIDTH = 1600
"""Pixels. Wider pictures are reduced to it, as every one makes the event files larger."""


class TensorBoard:
    """Writes event files into a workdir's `tensorboard`; use it on process 0, with a local workdir.

    It has the members of `loggers.Logger`. When a run continues from a step,
    the earlier numbers of later steps are hidden, because those steps are taken again. If a file cannot be written,
    nothing more is written, and the run continues.
    """

    def __init__(self, workdir: epath.PathLike):
        self._workdir = Path(workdir)
        # SummaryWriter of tensorboardX writes in a thread; if the disk is full, the run would wait for it for ever.
        self._writer: EventsWriter | None = None
        self._settings: Mapping[str, Any] = {}
        self._failed = False

    def config(self, settings: Mapping[str, Any]) -> None:
        """Takes the settings. They are written with the first numbers, as a text."""
        self._settings = settings

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes numbers by tag."""
        for tag, value in values.items():
            self._write(Event(step=step, wall_time=time.time(), summary=summary.scalar(tag, value)))
        self._flush()

    def images(self, step: int, files: Mapping[str, epath.PathLike]) -> None:
        """Takes image files by tag."""
        for tag, file in files.items():
            with Image.open(file) as image:
                image.thumbnail((MAX_WIDTH, 16 * MAX_WIDTH))
                pixels = np.asarray(image.convert("RGB"))
            value = summary.image(tag, pixels, dataformats="HWC")
            self._write(Event(step=step, wall_time=time.time(), summary=value))
        self._flush()

    def close(self, *, failed: bool = False) -> None:
        """Closes the file."""
        del failed
        if self._writer is not None and not self._failed:
            self._writer.close()

    def _write(self, event: Event) -> None:
        if self._failed:
            return
        try:
            if self._writer is None:
                self._writer = self._opened(event.step)
            self._writer.write_event(event)
        except (OSError, UserError) as error:
            self._give_up(error)

    def _flush(self) -> None:
        if self._writer is not None and not self._failed:
            try:
                self._writer.flush()
            except OSError as error:
                self._give_up(error)

    def _opened(self, step: int) -> EventsWriter:
        folder = self._workdir / TENSORBOARD_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        earlier = len(list(folder.iterdir()))
        writer = EventsWriter(str(folder / "events"), f".{earlier}")
        if earlier:
            log = SessionLog(status=SessionLog.START)
            writer.write_event(Event(step=self._first_step_taken_again(step), wall_time=time.time(), session_log=log))
        if self._settings:
            lines = ["| setting | value |", "|---|---|", *(f"| {name} | {v!r} |" for name, v in self._settings.items())]
            text = summary.text("settings", "\n".join(lines))
            writer.write_event(Event(step=step, wall_time=time.time(), summary=text))
        return writer

    def _first_step_taken_again(self, step: int) -> int:
        """The step after the last one before `step` in `metrics.jsonl`, which has lost its later lines by now."""
        path = self._workdir / METRICS_FILE
        kept = [line["step"] for line in read_metrics(path)] if path.exists() else []
        return max((number for number in kept if number < step), default=-1) + 1

    def _give_up(self, error: Exception) -> None:
        self._failed = True
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        folder = self._workdir / TENSORBOARD_FOLDER
        logging.warning(
            "The TensorBoard files in %s cannot be written (%s): the run continues without them.", folder, error
        )
