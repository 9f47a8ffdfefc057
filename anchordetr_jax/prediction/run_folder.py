"""What the folder of a run tells about its checkpoints: whether another one is better."""

import os

from etils import epath

from anchordetr_jax.checkpoints.checkpoint import (
    BEST_FOLDER,
    CHECKPOINTS_FOLDER,
    absolute,
    find_checkpoint,
    is_checkpoint,
    saved_steps,
)
from anchordetr_jax.checkpoints.run_metrics import read_evaluations


def better_checkpoint(path: str | os.PathLike[str]) -> str | None:
    """A sentence if a run has a checkpoint with a better AP than the one that `path` leads to; else None.

    `path` is a workdir or its checkpoints folder, which lead to the newest checkpoint. For one checkpoint, which
    somebody has chosen, the answer is None.
    """
    given = _folder(path)
    if given is None or is_checkpoint(given):
        return None
    workdir = given.parent if given.name == CHECKPOINTS_FOLDER else given
    if not (workdir / CHECKPOINTS_FOLDER).is_dir():
        return None
    used = int(find_checkpoint(given).name)
    aps = dict(read_evaluations(workdir))
    kept = {step: workdir / CHECKPOINTS_FOLDER / str(step) for step in saved_steps(workdir / CHECKPOINTS_FOLDER)}
    kept |= {step: workdir / BEST_FOLDER / str(step) for step in saved_steps(workdir / BEST_FOLDER)}
    scored = {step: aps[step] for step in kept if step in aps}
    if not scored:
        return None
    best = max(scored, key=lambda step: scored[step])
    if used == best or aps.get(used, -1.0) >= scored[best]:
        return None
    own = f", with AP {aps[used]:.3f}" if used in aps else ""
    return (
        f"The newest checkpoint of this run is used (step {used}{own}). The checkpoint of step {best} has a better AP, "
        f"{scored[best]:.3f}. To use that one, give {kept[best]}."
    )


def _folder(path: str | os.PathLike[str]) -> epath.Path | None:
    """The folder at a path; None for a file."""
    text = os.path.expanduser(os.fspath(path))
    return absolute(text) if "://" in text or os.path.isdir(text) else None
