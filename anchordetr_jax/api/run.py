"""The run of a workdir, to look at: numbers, pictures, and the detector that came of it."""

import functools
import io
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from etils import epath
from PIL import Image

from anchordetr_jax.api.table import Table
from anchordetr_jax.checkpoints.checkpoint import BEST_FOLDER, CHECKPOINTS_FOLDER, saved_steps
from anchordetr_jax.checkpoints.run_metrics import (
    EVALUATION_PREFIX,
    METRICS_FILE,
    is_evaluation,
    read_evaluations,
    read_metrics,
)
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path
from anchordetr_jax.pictures.curves import plot_curves
from anchordetr_jax.training.watching.pictures import PREDICTIONS_FILE

if TYPE_CHECKING:
    from anchordetr_jax.api.detector import Detector

COLUMNS = ("step", "epoch", "loss", "AP", "AP50", "AP75", "APs", "APm", "APl")
"""What a table of metrics shows."""


class TrainingRun:
    """A run, while it trains or later: `TrainingRun("runs/mine")` opens any workdir."""

    def __init__(self, workdir: str | os.PathLike[str]):
        """`workdir`: the folder of a run. Raises `UserError` if it holds no run."""
        self.workdir: epath.Path = stored_path(workdir)
        if not (self.workdir / METRICS_FILE).exists() and not self.step:
            raise UserError(f"{self.workdir} is no workdir of a run: give the folder that was given as workdir.")

    @property
    def step(self) -> int:
        """The step of the newest checkpoint; 0 if there is none."""
        return max(saved_steps(self.workdir / CHECKPOINTS_FOLDER), default=0)

    @property
    def metrics(self) -> Table:
        """One row for each evaluation: {"step", "epoch", "loss", "AP", "AP50", …}. The loss is that before it.

        A run without evaluations has a row for each line of its log.
        """
        if not (self.workdir / METRICS_FILE).exists():
            return Table((), COLUMNS)
        lines = read_metrics(self.workdir / METRICS_FILE)
        rows, loss = [], {}
        for line in lines:
            if not is_evaluation(line):
                loss = line
            else:
                scores = {name.removeprefix(EVALUATION_PREFIX): value for name, value in line.items()}
                rows.append({**{name: value for name, value in loss.items() if name.startswith("loss")}, **scores})
        return Table(rows or lines, COLUMNS)

    def curves(self) -> Image.Image:
        """The losses, the AP, the class error and the learning rate over the epochs."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "curves.png"
            plot_curves(read_metrics(self.workdir / METRICS_FILE), path)
            return _picture(path.read_bytes())

    def predictions(self) -> Image.Image:
        """Detections beside the truth, on the same images after each evaluation; these are those of the newest one.

        Raises:
            UserError: the run has not evaluated yet.
        """
        path = self.workdir / PREDICTIONS_FILE
        if not path.exists():
            raise UserError(f"{self.workdir} has no predictions yet: they are drawn after each evaluation.")
        return _picture(path.read_bytes())

    @functools.cached_property
    def detector(self) -> "Detector":
        """The detector of the best evaluation if the run keeps it (`train.keep_best`), else of the newest checkpoint.

        If the run stopped keeping it, and the newest checkpoint has a higher AP, it is that of the newest one.

        Raises:
            UserError: the run has no checkpoint yet.
        """
        from anchordetr_jax.api.detector import Detector  # It imports this module.

        best = self.workdir / BEST_FOLDER
        kept, aps = saved_steps(best), dict(read_evaluations(self.workdir))
        outdated = kept and aps.get(self.step, -math.inf) > aps.get(kept[-1], -math.inf)
        return Detector.from_pretrained(best if kept and not outdated else self.workdir)

    def __repr__(self) -> str:
        return f"<TrainingRun in {self.workdir}, {self.step} steps>\n{self.metrics}"

    def _repr_html_(self) -> str:
        return self.metrics._repr_html_()


def _picture(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture
