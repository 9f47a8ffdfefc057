"""The numbers and pictures of a run for Weights & Biases.

Its own environment variables hold: WANDB_MODE=offline writes to the workdir alone, WANDB_PROJECT and WANDB_ENTITY name
the place.
"""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

PROJECT = "anchordetr"
FOLDER = "wandb"
ID_FILE = "run_id.txt"
"""A run that continues is the same run there."""


class WeightsAndBiases:
    """Writes into a workdir's `wandb`, and sends it where W&B is told to."""

    def __init__(self, workdir: epath.PathLike):
        import wandb

        self._wandb = wandb
        folder = Path(workdir).resolve()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.name,
            id=stored_id(folder / FOLDER / ID_FILE, lambda: uuid.uuid4().hex[:12]),
            resume="allow",
            dir=str(folder),
            settings=wandb.Settings(console="off"),
        )
        # W&B drops numbers of a step that is lower than the last one, as after a resume. So the step is a number too.
        self._run.define_metric("*", step_metric="step")

    def config(self, settings: Mapping[str, Any]) -> None:
        self._run.config.update(dict(settings), allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def images(self, step: int, files: Mapping[str, epath.PathLike]) -> None:
        self._run.log({"step": step, **{name: self._wandb.Image(str(file)) for name, file in files.items()}})

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))


def stored_id(file: Path, make: Any) -> str:
    """What is in the file; else what `make` gives, which is then stored."""
    if file.exists() and (known := file.read_text().strip()):
        return known
    made: str = make()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(made + "\n")
    return made
