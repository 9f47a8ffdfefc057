"""The best evaluation of a run, as `metrics.jsonl` tells it, so that stops and resumes change nothing about it."""

import dataclasses
import math

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from anchordetr_jax.checkpoints.checkpoint import BEST_FOLDER, absolute, save_variables
from anchordetr_jax.config import Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.training.state import TrainState, evaluated_variables
from anchordetr_jax.training.watching.metrics_file import read_evaluations, rounded


@dataclasses.dataclass(frozen=True)
class Best:
    """What the evaluations of a run amount to."""

    ap: float = -math.inf
    """The highest AP, as `metrics.jsonl` has it."""
    step: int = -1
    """Where it was reached first; -1 if nowhere yet."""
    since: int = 0
    """Evaluations after that."""
    newest: int = -1
    """Step of the newest evaluation; -1 if there is none."""

    def after(self, step: int, ap: float) -> "Best":
        """With one more evaluation."""
        ap = rounded(ap)
        if ap > self.ap:
            return Best(ap, step, since=0, newest=step)
        return dataclasses.replace(self, since=self.since + 1, newest=step)


def read_best(workdir: epath.PathLike, last_step: int) -> Best:
    """From the evaluations up to a step, as process 0 finds them, on all processes. All of them must call it."""
    best = Best()
    if jax.process_index() == 0:
        for step, ap in read_evaluations(workdir, last_step):
            best = best.after(step, ap)
    if jax.process_count() == 1:
        return best
    # As integers: JAX would cut float64 to float32.
    message = np.array([*np.array([best.ap]).view(np.int32), best.step, best.since, best.newest], np.int32)
    message = np.asarray(multihost_utils.broadcast_one_to_all(message))
    ap = np.ascontiguousarray(message[:2]).view(np.float64)[0]
    return Best(float(ap), *message[2:].tolist())


def save_best(
    workdir: epath.PathLike, step: int, state: TrainState, config: Config, categories: Categories | None
) -> None:
    """Writes the weights as they are evaluated to `WORKDIR/best/STEP`, and removes the best one before.

    All processes must call it. Raises `UserError` if it cannot be written; the one before is then still there.
    """
    root = absolute(workdir) / BEST_FOLDER
    save_variables(root / str(step), evaluated_variables(state), categories, config, step=step)
    if jax.process_index() == 0:
        for path in root.iterdir():
            if path.name != str(step):  # Half-written ones too.
                path.rmtree()


def forget_best_after(workdir: epath.PathLike, step: int) -> None:
    """Removes the best checkpoint if it is from after a step that the run goes on from: it may now turn out worse.

    Also removes what a save left half-written.
    """
    root = absolute(workdir) / BEST_FOLDER
    if jax.process_index() == 0 and root.is_dir():
        for path in root.iterdir():
            if not path.name.isdecimal() or int(path.name) > step:
                path.rmtree()
