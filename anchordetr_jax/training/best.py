"""The best evaluation of a run. It is read from `metrics.jsonl`, so a stopped and resumed run has the same one."""

import dataclasses
import math

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from anchordetr_jax.checkpoints.checkpoint import BEST_FOLDER, absolute, remove_old, save_variables, saved_steps
from anchordetr_jax.checkpoints.run_metrics import read_evaluations
from anchordetr_jax.config import Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.training.state import TrainState, evaluated_variables
from anchordetr_jax.training.watching.metrics_file import rounded


@dataclasses.dataclass(frozen=True)
class Best:
    """A summary of the evaluations of a run."""

    ap: float = -math.inf
    """The highest AP, rounded as in `metrics.jsonl`."""
    step: int = -1
    """The first step with this AP; -1 if there is none yet. While AP is zero or not measured (-1), the newest step,
    because it has trained longest."""
    since: int = 0
    """The number of evaluations that measured no higher AP, since there was one."""
    newest: int = -1
    """The step of the newest evaluation; -1 if there is none yet."""

    def after(self, step: int, ap: float) -> "Best":
        """The summary with one more evaluation."""
        ap = rounded(ap)
        if ap > self.ap or ap == self.ap < 0:
            return Best(ap, step, since=0, newest=step)
        if ap == self.ap == 0:
            return Best(ap, step, since=self.since + 1, newest=step)
        return dataclasses.replace(self, since=self.since + 1, newest=step)


def read_best(workdir: epath.PathLike, last_step: int) -> Best:
    """The summary of the evaluations up to a step, read by process 0 for all processes. All processes must call it."""
    best = Best()
    if jax.process_index() == 0:
        for step, ap in read_evaluations(workdir, last_step):
            best = best.after(step, ap)
    if jax.process_count() == 1:
        return best
    # As integers, because JAX would round float64 to float32.
    message = np.array([*np.array([best.ap]).view(np.int32), best.step, best.since, best.newest], np.int32)
    message = np.asarray(multihost_utils.broadcast_one_to_all(message))
    ap = np.ascontiguousarray(message[:2]).view(np.float64)[0]
    return Best(float(ap), *message[2:].tolist())


def save_best(
    workdir: epath.PathLike, step: int, state: TrainState, config: Config, categories: Categories | None
) -> None:
    """Writes the evaluated weights to `WORKDIR/best/STEP`, then removes the checkpoint that was the best before.

    All processes must call it. Raises `UserError` if it cannot be written; the earlier one is then still there.
    """
    root = absolute(workdir) / BEST_FOLDER
    save_variables(root / str(step), evaluated_variables(state), categories, config, step=step)
    if jax.process_index() == 0:
        for path in root.iterdir():
            if path.name != str(step):  # Half-written ones too.
                remove_old(path)


def not_kept(workdir: epath.PathLike, best: Best) -> str:
    """A sentence if there was an evaluation, and the weights of the best one are not in `best/`; else empty."""
    if best.step < 0 or best.step in saved_steps(absolute(workdir) / BEST_FOLDER):
        return ""
    return (
        f"The weights with the highest AP so far ({best.ap:.3f}, step {best.step}) were not kept: {BEST_FOLDER}/ gets "
        "those of the first evaluation with a higher AP."
    )


def forget_best_after(workdir: epath.PathLike, step: int) -> None:
    """Removes the best checkpoint if its step is later than the one that the run continues from.

    The run takes those steps again, perhaps with other settings. Also removes half-written checkpoints.
    """
    root = absolute(workdir) / BEST_FOLDER
    if jax.process_index() == 0 and root.is_dir():
        for path in root.iterdir():
            if not path.name.isdecimal() or int(path.name) > step:
                path.rmtree()
