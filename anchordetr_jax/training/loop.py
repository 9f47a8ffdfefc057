"""A training run from its first step, or from its newest checkpoint, to its end."""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Callable, Iterator
from typing import Any, Self

import jax
from etils import epath
from jax.sharding import Mesh

from anchordetr_jax.checkpoints.run_metrics import EVALUATION_PREFIX
from anchordetr_jax.checkpoints.scores import store_scores
from anchordetr_jax.config import Config
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.devices import check_batch_size, global_batch, make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.training.best import Best, forget_best_after, not_kept, read_best, save_best
from anchordetr_jax.training.run import Beginning, Run, TrainingData, say
from anchordetr_jax.training.run_checkpoints import CheckpointWriter
from anchordetr_jax.training.run_record import RunRecord
from anchordetr_jax.training.state import evaluated_variables
from anchordetr_jax.training.step import make_train_step
from anchordetr_jax.training.watching.metrics_file import MetricsFile
from anchordetr_jax.training.watching.progress import Progress
from anchordetr_jax.training.watching.stopping import StopRequest
from anchordetr_jax.training.watching.watchdog import Watchdog
from anchordetr_jax.training.workdir_lock import WorkdirLock

Evaluate = Callable[[AnchorDETR, int], dict[str, float]]
"""(model, steps taken) to scores by name, among them "AP". All processes call it; the scores of process 0 count."""

AfterLine = Callable[[int, dict[str, Any]], None]
"""Gets (steps taken, the numbers of a line of `metrics.jsonl`)."""

_SHOWN_SCORES = ("AP", "AP50", "AP75")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended."""

    step: int
    """Steps taken since the run began."""
    stopped_by: signal.Signals | None
    """None if the run is finished."""


def train(
    config: Config,
    workdir: epath.PathLike,
    data: TrainingData,
    *,
    evaluate: Evaluate | None = None,
    after_line: AfterLine | None = None,
    mesh: Mesh | None = None,
    watchdog: Watchdog | None = None,
    lock: WorkdirLock | None = None,
) -> Outcome:
    """Trains until the last epoch is over or a signal asks to stop.

    If the workdir has checkpoints, the run continues from the newest sound one, with the same batches as a run without
    a stop. Otherwise it begins with the weights of `init_from`, or with random weights. The workdir gets
    `checkpoints/`, `metrics.jsonl` and `config.json`.

    Args:
        config: all settings. `model.num_classes=0` becomes the number that the data set needs.
        workdir: folder of the run.
        data: the training images.
        evaluate: called every `train.evaluate_every` epochs, and after the last one.
        after_line: called on process 0 with each line of `metrics.jsonl`. The next step waits for it.
        mesh: the devices; all of them by default.
        watchdog: one that has been entered; by default a new one watches from here on.
        lock: one of this workdir that has been entered; by default the workdir is locked from here on.

    Raises:
        UserError: settings, checkpoint and data do not fit together; another run trains in the workdir; the disk is
            full; too many bad steps in a row.
    """
    config = resolve_classes(config, data.categories)
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    check_batch_size(config.train.batch_size, mesh, "train.batch_size", accumulate=config.train.accumulate)
    run = Run(config, epath.Path(workdir), data, mesh)
    with contextlib.ExitStack() as stack:
        watching = watchdog or stack.enter_context(Watchdog(config.train.timeout_seconds))
        if lock is None and jax.process_index() == 0:
            stack.enter_context(WorkdirLock(workdir))
        run.check_data()
        beginning = run.begin()
        step = int(beginning.state.step)
        best = read_best(run.workdir, step)
        # A run may be killed between a step and its evaluation.
        missing = evaluate is not None and step > 0 and run.is_evaluation_step(step) and best.newest != step
        if not missing and (end := run.end(step, best)):
            say(f"This run is finished: {end} to continue it.")
            return Outcome(step, stopped_by=None)
        run.write_config()
        if config.train.keep_best and (sentence := not_kept(run.workdir, best)):
            say(sentence)
        forget_best_after(run.workdir, step)
        with _Loop(run, beginning, best, watching, evaluate, after_line) as loop:
            if missing:
                loop.evaluate_model()
            return loop.take_steps()


def resolve_classes(config: Config, categories: Categories) -> Config:
    """The settings with `model.num_classes` known. Raises `UserError` if it is too small for the data set."""
    needed, given = categories.num_labels, config.model.num_classes
    if 0 < given < needed:
        raise UserError(
            f"Setting 'model.num_classes'={given} is too small: the labels of the data set need {needed}; 0 takes that."
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=given or needed))


class _Loop:
    """Takes the steps of a run. After each step it does what is due: log, save, evaluate, stop. A context manager."""

    def __init__(
        self,
        run: Run,
        beginning: Beginning,
        best: Best,
        watchdog: Watchdog,
        evaluate: Evaluate | None,
        after_line: AfterLine | None,
    ):
        self.run, self.best, self.watchdog = run, best, watchdog
        self.state, self.step = beginning.state, int(beginning.state.step)
        self._saved_step = self.step if self.step > 0 else -1
        self._evaluate, self._after_line = evaluate, after_line
        self._train_step = make_train_step(run.definition, run.optimizer, run.config, run.mesh, beginning.state)
        self._stack = contextlib.ExitStack()
        self._begin_with = beginning.record

    def __enter__(self) -> Self:
        run, record = self.run, self._begin_with
        with contextlib.ExitStack() as stack:
            self._checkpoints = stack.enter_context(CheckpointWriter(run.workdir, run.config, run.data.categories))
            first = jax.process_index() == 0
            self._metrics = stack.enter_context(MetricsFile(run.workdir, self.step)) if first else None
            self._progress = stack.enter_context(
                Progress(
                    self.step,
                    run.total_steps,
                    max_bad_steps=run.config.train.max_bad_steps,
                    interval=record.interval,
                    unreadable=record.unreadable if first else (),
                )
            )
            self._stop = stack.enter_context(StopRequest())
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> bool | None:
        return self._stack.__exit__(*exception)

    def take_steps(self) -> Outcome:
        """From the current step to the end of the run, or until a signal asks to stop."""
        for batch in self._batches():
            self._take_step(batch)
            if self._log_is_due():
                self._write_line(self._progress.summarise())
            stopping = self._stop.after_step(self.step)
            if stopping or self._save_is_due():
                self._save()
            if stopping:
                break
            if self._evaluate is not None and self.run.is_evaluation_step(self.step):
                self.evaluate_model()
            if self.run.end(self.step, self.best):
                self._save()
                if self.best.newest == self.step:  # The evaluation came before this checkpoint.
                    self._store_scores()
                break
        self._checkpoints.finish()
        if self._stop.received is None and self.step < self.run.total_steps:
            self._progress.say(f"Stopped early: {self.run.end(self.step, self.best)} to continue.")
        return Outcome(self.step, self._stop.received)

    def _batches(self) -> Iterator[Batch]:
        if self.run.end(self.step, self.best):  # The evaluation that was missing has ended the run.
            return
        batches = self.run.data.batches(self.step)
        if hasattr(batches, "close"):
            self._stack.callback(batches.close)
        for step, batch in batches:
            assert step == self.step
            yield batch

    def _take_step(self, batch: Batch) -> None:
        self._progress.before_step(batch, self.run.data.describe_image, self.run.data.reading_problem)
        self.watchdog.begin_step(self.step + 1)
        self.state, metrics = self._train_step(self.state, global_batch(batch, self.run.mesh))
        self.step += 1
        self._progress.after_step(self.step, metrics, images=self.run.config.train.batch_size)

    def _log_is_due(self) -> bool:
        return self.step % self.run.config.train.log_every == 0 or self.step == self.run.total_steps

    def _save_is_due(self) -> bool:
        if self.step == self.run.total_steps:
            return True
        # The state before a refused step may be broken, so it must not replace an earlier checkpoint.
        return self.step % self.run.config.train.checkpoint_every == 0 and not self._progress.refused()

    def _write_line(self, values: dict[str, Any]) -> None:
        if self._metrics is None:
            return
        line = {"epoch": round(self.run.data.epochs.at(self.step), 4), **values}
        self._metrics.write(self.step, line)
        if self._after_line is not None:
            self._after_line(self.step, line)

    def _save(self) -> None:
        """Saves the state, unless the newest checkpoint is already of this step."""
        if self._saved_step == self.step:
            return
        self._progress.flush()
        if self._metrics is not None:
            self._metrics.flush()
        record = RunRecord(self.run.data.epochs, self._progress.interval, tuple(sorted(self._progress.unreadable)))
        self._checkpoints.save(self.step, self.state, record)
        self._saved_step = self.step

    def evaluate_model(self) -> None:
        """Evaluates the model, and keeps it if it is the best one so far and `train.keep_best` is set."""
        assert self._evaluate is not None
        run, step = self.run, self.step
        self._progress.flush()
        if run.config.train.keep_best:
            # Otherwise a run could continue from before this step with other settings, and its best model would be
            # that of steps that it never took.
            self._save()
        self.watchdog.evaluating(True)
        scores = self._evaluate(run.definition.merge(evaluated_variables(self.state)), step)
        self.watchdog.evaluating(False)
        self.best = self.best.after(step, scores.get("AP", math.nan))
        if run.config.train.keep_best and self.best.step == step:
            # If this save fails, the run continues from before this step and still needs the best model so far.
            self._checkpoints.finish()
            save_best(run.workdir, step, self.state, run.config, run.data.categories)
        self._store_scores()
        # This line comes last: it says that the evaluation need not be repeated.
        self._write_line({EVALUATION_PREFIX + name: value for name, value in scores.items()})
        if self._metrics is not None:
            self._metrics.flush()
        shown = ", ".join(f"{name} {scores[name]:.3f}" for name in _SHOWN_SCORES if name in scores)
        self._progress.say(f"Epoch {run.data.epochs.at(step):.4g}, step {step}: {shown}")
        self._progress.restart_clock()

    def _store_scores(self) -> None:
        """Puts the scores of this evaluation into the checkpoints of this step."""
        if self._saved_step == self.step:
            self._checkpoints.finish()
        if jax.process_index() == 0:
            store_scores(self.run.workdir, self.step)
