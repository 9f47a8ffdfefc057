"""The scores of a checkpoint, kept in its folder: whoever takes the folder takes them along."""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from anchordetr_jax.checkpoints.checkpoint import BEST_FOLDER, CHECKPOINTS_FOLDER, absolute, is_checkpoint
from anchordetr_jax.files import write_json

EVALUATION_FILE = "evaluation.json"
"""In a workdir: the scores of the newest evaluation, with the step that they are of. In a checkpoint: its own."""


def store_scores(workdir: epath.PathLike, step: int) -> None:
    """Writes the newest evaluation of a run into its checkpoints of the same step, if there are any.

    Call it on one process only, when these checkpoints are finished. Raises `UserError` if a file cannot be written.
    """
    root = absolute(workdir)
    scores = _read(root / EVALUATION_FILE)
    if scores is None or scores.get("step") != step:
        return
    for folder in (CHECKPOINTS_FOLDER, BEST_FOLDER):
        checkpoint = root / folder / str(step)
        if is_checkpoint(checkpoint):
            write_json(checkpoint / EVALUATION_FILE, scores, indent=2)


def scores_of_checkpoint(checkpoint: epath.PathLike, step: int) -> Mapping[str, Any] | None:
    """The scores of one checkpoint, whose step is `step`; None if nobody knows them.

    They are in its own folder or, in runs of older versions, in the workdir, if its newest evaluation was at this step.
    """
    folder = absolute(checkpoint)
    if (own := _read(folder / EVALUATION_FILE)) is not None:
        return own
    newest = newest_scores(folder)
    return newest if newest is not None and step > 0 and newest.get("step") == step else None


def newest_scores(checkpoint: epath.PathLike) -> Mapping[str, Any] | None:
    """The scores of the newest evaluation of the run that a checkpoint is of; None if there are none.

    A checkpoint is of a run if it lies in one of the run's two folders for checkpoints.
    """
    folder = absolute(checkpoint).parent
    return _read(folder.parent / EVALUATION_FILE) if folder.name in (CHECKPOINTS_FOLDER, BEST_FOLDER) else None


def _read(file: epath.Path) -> Mapping[str, Any] | None:
    try:
        contents = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return contents if isinstance(contents, dict) else None
