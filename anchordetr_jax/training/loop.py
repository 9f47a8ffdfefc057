"""A training run from its first step, or from where it was stopped, to its last."""

import contextlib
import dataclasses
import math
import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import jax
from etils import epath
from flax import nnx
from jax.sharding import Mesh

from anchordetr_jax.config import Config, config_to_dict, flat_settings
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.devices import check_batch_size, global_batch, make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import write_json
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.model.definition import ModelDefinition, count
from anchordetr_jax.training.best import Best, forget_best_after, read_best, save_best
from anchordetr_jax.training.optimizer import make_optimizer
from anchordetr_jax.training.run_checkpoints import CheckpointWriter, restore_newest
from anchordetr_jax.training.start import load_start
from anchordetr_jax.training.state import TrainState, abstract_state, evaluated_variables, initial_state
from anchordetr_jax.training.step import make_train_step
from anchordetr_jax.training.watching.metrics_file import EVALUATION_PREFIX, MetricsFile
from anchordetr_jax.training.watching.progress import Progress
from anchordetr_jax.training.watching.stopping import StopRequest
from anchordetr_jax.training.watching.watchdog import Watchdog

Evaluate = Callable[[AnchorDETR, int], dict[str, float]]
"""(model, steps taken) to scores by name, "AP" among them. Called by all processes; the scores of process 0 count."""

AfterLine = Callable[[int, dict[str, Any]], None]
"""(steps taken, the numbers written of them)."""

_SHOWN_SCORES = ("AP", "AP50", "AP75")


class TrainingData(Protocol):
    """Where batches come from. What is step k's batch depends on the settings and k alone."""

    @property
    def categories(self) -> Categories: ...

    def steps_before(self, epoch: int) -> int:
        """Number of steps before an epoch (counted from 0) begins."""

    def batches(self, first_step: int) -> Iterator[tuple[int, Batch]]:
        """(step, this process's share of its batch) from a step (counted from 0) on."""

    def describe_image(self, row: int) -> str:
        """The file of an image, for messages."""

    def describe(self) -> str:
        """Size, image shapes and padding, for a line of the log."""


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
) -> Outcome:
    """Trains until the last epoch is over or a signal asks to stop.

    If the workdir holds checkpoints the run goes on from the newest sound one, with the same batches as if it had never
    stopped; else it starts from `init_from`, or from nothing. The workdir gets `checkpoints/`, `metrics.jsonl`
    and `config.json`.

    Args:
        config: all settings. `model.num_classes` 0 becomes what the data set needs.
        workdir: folder of the run.
        data: the training images.
        evaluate: called every `train.evaluate_every` epochs, and after the last one.
        after_line: called on process 0 with each line that `metrics.jsonl` gets; the next step waits for it.
        mesh: the devices; all of them by default.
        watchdog: one that has been entered; by default one watches from here on.

    Raises:
        UserError: settings, checkpoint and data do not go together; the disk is full; too many bad steps in a row.
    """
    config = resolve_classes(config, data.categories)
    mesh = make_mesh(config.mesh) if mesh is None else mesh
    check_batch_size(config.train.batch_size, mesh, "train.batch_size", accumulate=config.train.accumulate)
    run = _Run(config, epath.Path(workdir), data, mesh)
    with contextlib.nullcontext(watchdog) if watchdog else Watchdog(config.train.timeout_seconds) as watching:
        return _train(run, watching, evaluate, after_line)


def _train(run: "_Run", watchdog: Watchdog, evaluate: Evaluate | None, after_line: AfterLine | None) -> Outcome:
    config, data, mesh, workdir = run.config, run.data, run.mesh, run.workdir
    state = run.restored_or_new()
    step = int(state.step)
    best = read_best(workdir, step)
    # A run may be killed between a step and its evaluation.
    evaluation_due = evaluate is not None and step > 0 and run.is_evaluation_step(step) and best.newest != step
    if not evaluation_due and (end := run.end(step, best)):
        _say(f"This run is finished: {end} to go on.")
        return Outcome(step, stopped_by=None)
    run.write_config()
    forget_best_after(workdir, step)
    train_step = make_train_step(run.definition, run.optimizer, config, mesh, state)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(CheckpointWriter(workdir, config, data.categories))
        metrics_file = stack.enter_context(MetricsFile(workdir, step)) if jax.process_index() == 0 else None
        progress = stack.enter_context(Progress(step, run.total_steps, max_bad_steps=config.train.max_bad_steps))
        stop = stack.enter_context(StopRequest())
        saved = step if step > 0 else -1

        def save() -> None:
            nonlocal saved
            if saved != step:
                progress.flush()
                if metrics_file is not None:
                    metrics_file.flush()
                checkpoints.save(step, state)
                saved = step

        def write(values: dict[str, Any]) -> None:
            if metrics_file is not None:
                line = {"epoch": round(run.epochs_at(step), 4), **values}
                metrics_file.write(step, line)
                if after_line is not None:
                    after_line(step, line)

        def evaluate_now() -> None:
            nonlocal best
            assert evaluate is not None
            progress.flush()
            if config.train.keep_best:
                save()  # Else a run might go on from before this step with other settings, and the best one be gone.
            watchdog.evaluating(True)
            scores = evaluate(run.definition.merge(evaluated_variables(state)), step)
            watchdog.evaluating(False)
            best = best.after(step, scores.get("AP", math.nan))
            if config.train.keep_best and best.step == step:
                checkpoints.finish()  # If that fails the run goes on from before, and still needs the best one so far.
                save_best(workdir, step, state, config, data.categories)
            # Last, as it tells that the evaluation need not be repeated.
            write({EVALUATION_PREFIX + name: value for name, value in scores.items()})
            shown = ", ".join(f"{name} {scores[name]:.3f}" for name in _SHOWN_SCORES if name in scores)
            if metrics_file is not None:
                metrics_file.flush()
            progress.say(f"Epoch {run.epochs_at(step):.4g}, step {step}: {shown}")
            progress.restart_clock()

        if evaluation_due:
            evaluate_now()
        batches = iter(()) if run.end(step, best) else data.batches(step)
        if hasattr(batches, "close"):
            stack.callback(batches.close)
        for index, batch in batches:
            progress.before_step(batch, data.describe_image)
            watchdog.begin_step(index + 1)
            state, metrics = train_step(state, global_batch(batch, mesh))
            step = index + 1
            progress.after_step(step, metrics, images=config.train.batch_size)
            if step % config.train.log_every == 0 or step == run.total_steps:
                write(progress.summarise())
            stopping = stop.after_step(step)
            # What a refused step began from may be ruined, so it takes the place of no earlier checkpoint.
            due = step % config.train.checkpoint_every == 0 and not progress.refused()
            if stopping or due or step == run.total_steps:
                save()
            if stopping:
                break
            if evaluate is not None and run.is_evaluation_step(step):
                evaluate_now()
            if run.end(step, best):
                save()
                break
        checkpoints.finish()
        if stop.received is None and step < run.total_steps:
            progress.say(f"Stopped early: {run.end(step, best)} to go on.")
    return Outcome(step, stop.received)


def resolve_classes(config: Config, categories: Categories) -> Config:
    """The settings with `model.num_classes` known. Raises `UserError` if it is too small for the data set."""
    needed, given = categories.num_labels, config.model.num_classes
    if 0 < given < needed:
        raise UserError(
            f"Setting 'model.num_classes'={given} is too small: the data set's labels need {needed}; 0 takes that."
        )
    return dataclasses.replace(config, model=dataclasses.replace(config.model, num_classes=given or needed))


class _Run:
    """What stays the same from the first step of a run to the last."""

    def __init__(self, config: Config, workdir: epath.Path, data: TrainingData, mesh: Mesh):
        self.config, self.workdir, self.data, self.mesh = config, workdir, data, mesh
        self.definition = ModelDefinition.abstract(self._build)
        self.total_steps = data.steps_before(config.train.epochs)
        self.optimizer = make_optimizer(config.optimizer, steps_before=data.steps_before, epochs=config.train.epochs)
        if self.total_steps == 0:
            raise UserError(
                f"The training images do not fill one batch in {config.train.epochs} epoch(s): raise train.epochs, or "
                f"lower train.batch_size={config.train.batch_size}."
            )
        every, last = config.train.evaluate_every, config.train.epochs
        epochs = [*range(every, last, every), last] if every else []
        self._evaluation_steps = frozenset(data.steps_before(epoch) for epoch in epochs)

    def _build(self) -> AnchorDETR:
        return AnchorDETR(self.config.model, rngs=nnx.Rngs(self.config.train.seed))

    def restored_or_new(self) -> TrainState:
        """The state to go on from: the workdir's own, else from `init_from`, else from nothing."""
        config, data = self.config, self.data
        freeze, ema = config.optimizer.freeze, config.train.ema_decay > 0
        abstract = abstract_state(self.definition, self.optimizer, self.mesh, freeze=freeze, ema=ema)
        _say(data.describe())
        total, trained = count({**abstract.params, **abstract.frozen}), count(abstract.params)
        _say(f"Model: {total / 1e6:.2f} M parameters, {trained / 1e6:.2f} M of them trained.")
        _say(
            f"Steps: {self.total_steps} of {config.train.batch_size} images, "
            f"{self.total_steps / config.train.epochs:.1f} an epoch; "
            f"{self.mesh.size} device(s), {jax.process_count()} process(es)."
        )
        restored = restore_newest(self.workdir, abstract, config, data.categories)
        if restored is not None:
            state, meta = restored
            _say(f"Continuing from step {meta.step} ({meta.path}).")
            for line in changed_settings(meta.config, config):
                _say(f"Changed since: {line}")
            return state
        state = initial_state(self.definition, self._build, self.optimizer, self.mesh, freeze=freeze, ema=ema)
        if config.init_from:
            state, report = load_start(config.init_from, state, data.categories)
            _say(str(report))
        return state

    def epochs_at(self, step: int) -> float:
        """How many epochs so many steps are."""
        return step * self.config.train.epochs / self.total_steps

    def is_evaluation_step(self, step: int) -> bool:
        """Whether an evaluation belongs after so many steps."""
        return step in self._evaluation_steps

    def end(self, step: int, best: Best) -> str:
        """Why the run is over after so many steps, and how to prolong it; empty if it is not."""
        train = self.config.train
        if step >= self.total_steps:
            return f"{step} steps, {train.epochs} epochs. Raise train.epochs"
        if 0 < train.patience <= best.since:
            return (
                f"no better AP than {best.ap:.3f} (step {best.step}) in {best.since} evaluations. Raise train.patience"
            )
        return ""

    def write_config(self) -> None:
        """Writes the settings and the classes where people look for them."""
        if jax.process_index() == 0:
            contents = {"config": config_to_dict(self.config), "categories": self.data.categories.to_dict()}
            write_json(self.workdir / "config.json", contents, indent=1)


def changed_settings(before: Config, now: Config) -> list[str]:
    """Settings that differ, as "name: old -> new"."""
    old, new = flat_settings(config_to_dict(before)), flat_settings(config_to_dict(now))
    return [f"{name}: {old[name]!r} -> {value!r}" for name, value in new.items() if old[name] != value]


def _say(line: str) -> None:
    if jax.process_index() == 0:
        print(line, flush=True)
