"""Pictures of a run while it trains: curves, grids of predictions, a page with all of it; and its loggers."""

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

from absl import logging
from etils import epath

from anchordetr_jax.checkpoints.run_metrics import EVALUATION_PREFIX, METRICS_FILE, is_evaluation, read_metrics
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.coco_metrics import Scores
from anchordetr_jax.evaluation.report import PAGE, report_sections, write_predictions
from anchordetr_jax.files import write_atomically
from anchordetr_jax.pictures.curves import curve_pngs, plot_curves
from anchordetr_jax.pictures.html import Html, page, picture, pictures, section
from anchordetr_jax.training.watching.loggers import Logger
from anchordetr_jax.training.watching.training_images import TRAINING_IMAGES_FILE, write_training_images

CURVES_FILE = "curves.png"
PREDICTIONS_FILE = "predictions.png"
"""The newest grid."""
PREDICTIONS_FOLDER = "predictions"
"""One grid per evaluation."""
REPORT_FOLDER = "report"
"""Has the page of the run."""
SECONDS_BETWEEN_CURVES = 30.0


class RunWatch:
    """Draws the pictures of a run, and gives numbers and pictures to loggers. A context manager; use it on process 0.

    A thread of its own draws the curves and the page, so that the devices do not wait.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        loggers: Sequence[Logger] = (),
        *,
        seconds_between_curves: float = SECONDS_BETWEEN_CURVES,
    ):
        self._workdir = epath.Path(workdir)
        self._between = seconds_between_curves
        self._drawn = time.monotonic()
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._drawing: Future[None] | None = None
        self._sections: Future[tuple[Html, ...]] | None = None
        self._loggers = loggers

    def training_images(self, data: TrainingBatches) -> None:
        """Draws the first images that the run trains on, as training sees them."""
        self._thread.submit(write_training_images, self._workdir / TRAINING_IMAGES_FILE, data)

    def line(self, step: int, values: Mapping[str, Any]) -> None:
        """Takes a line of `metrics.jsonl`. Draws the curves after evaluations, and at most twice a minute otherwise."""
        numbers = {
            name if name.startswith(EVALUATION_PREFIX) else f"train/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value) and name != "epoch"
        }
        for logger in self._loggers:
            logger.scalars(step, numbers)
        with_page = is_evaluation(values)
        if with_page or time.monotonic() - self._drawn >= self._between:
            self._draw_curves(with_page=with_page)

    def predictions(self, step: int, dataset: DetectionSource, results: Sequence[Mapping[str, Any]]) -> None:
        """Draws predictions beside the ground truth, always of the same images.

        An error in drawing does not end the run: it is logged.
        """
        path = self._workdir / PREDICTIONS_FOLDER / f"step_{step:06d}.png"
        try:
            write_predictions(path, dataset, results)
            write_atomically(self._workdir / PREDICTIONS_FILE, path.read_bytes())
        except Exception as error:
            logging.warning("The picture of predictions could not be drawn: %s", error)
            return
        for logger in self._loggers:
            logger.images(step, {"val/predictions": path})

    def report(self, step: int, dataset: DetectionSource, results: Sequence[Mapping[str, Any]], scores: Scores) -> None:
        """Takes an evaluation for the page of the run, which is written with the next curves."""
        if self._sections is not None:
            self._sections.cancel()  # It would show an older evaluation.
        self._sections = self._thread.submit(
            report_sections, dataset, results, scores, facts=[("steps", str(step)), ("data", dataset.name)]
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        failed = kind is not None
        self._finish_drawing(failed=failed)
        if (self._workdir / METRICS_FILE).exists():
            self._draw_curves(with_page=True)
            self._finish_drawing(failed=failed)
        self._thread.shutdown()
        for logger in self._loggers:
            logger.close(failed=failed)

    def _draw_curves(self, *, with_page: bool) -> None:
        if self._drawing is None or self._drawing.done():
            self._finish_drawing()
            self._drawn = time.monotonic()
            self._drawing = self._thread.submit(self._draw, self._sections if with_page else None)

    def _draw(self, sections: Future[tuple[Html, ...]] | None) -> None:
        lines = read_metrics(self._workdir / METRICS_FILE)
        plot_curves(lines, self._workdir / CURVES_FILE)
        if sections is None or sections.cancelled():  # No evaluation yet, or a newer one comes.
            return
        panels = curve_pngs(lines).items()
        curves = section("The run", pictures([picture(image, title) for title, image in panels], wide=True))
        contents = page(f"Training: {self._workdir.name}", curves, *sections.result())
        write_atomically(self._workdir / REPORT_FOLDER / PAGE, contents.encode())

    def _finish_drawing(self, *, failed: bool = False) -> None:
        """Waits for the curves. An error in drawing does not end the run: it is logged.

        `failed`: the run itself has failed, most likely for the same reason, so the error is not logged.
        """
        drawing, self._drawing = self._drawing, None
        if drawing is not None and (error := drawing.exception()) and not failed:
            logging.warning("The pictures of the run could not be drawn: %s", error)
