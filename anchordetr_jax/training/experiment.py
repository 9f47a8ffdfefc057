"""A whole training run, from the settings of an experiment to its end: what the command and Python do alike."""

import contextlib
import dataclasses
import os
from collections.abc import Callable

import jax
from etils import epath

from anchordetr_jax.checkpoints.checkpoint import CHECKPOINTS_FOLDER, find_checkpoint, read_meta, saved_steps
from anchordetr_jax.checkpoints.scores import EVALUATION_FILE
from anchordetr_jax.config import Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.sources.opening import open_source, with_validation_images
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.settings import check_categories
from anchordetr_jax.experiments import Experiment, change_values
from anchordetr_jax.files import stored_path, write_json
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.training.fitted_settings import fitted_settings
from anchordetr_jax.training.initial_checkpoint import INITIAL_WEIGHTS_FOLDER, prepare_initial_weights
from anchordetr_jax.training.loop import Evaluate, Outcome, train
from anchordetr_jax.training.run import say
from anchordetr_jax.training.watching.loggers import open_loggers
from anchordetr_jax.training.watching.pictures import RunWatch
from anchordetr_jax.training.watching.watchdog import Watchdog
from anchordetr_jax.training.workdir_lock import WorkdirLock

InitialWeights = Callable[[epath.Path], None]
"""Writes weights as a checkpoint into a folder."""

FINE_TUNING, FINE_TUNING_ON_CPUS = "finetune", "finetune-cpu"
"""Presets for a data set of one's own."""
USUAL_WEIGHTS = "anchordetr-r50-dc5"
"""What `FINE_TUNING` begins with if nobody names other weights."""


def fine_tuning_preset() -> tuple[str, str]:
    """The preset for a data set of one's own on this machine, and why, in a sentence. It starts JAX's devices."""
    platform = jax.default_backend()
    if platform == "cpu":
        return FINE_TUNING_ON_CPUS, (
            f"Preset: {FINE_TUNING_ON_CPUS} (small images), because JAX computes on a CPU here. For another one, name "
            f"it: --config {FINE_TUNING}."
        )
    return FINE_TUNING, f"Preset: {FINE_TUNING}, because JAX computes on {platform.upper()}s here."


def usual_weights(config: Config) -> tuple[str, str]:
    """Initial weights for a preset of which nobody changed them, and a sentence about them.

    Both are empty if the preset names its own.
    """
    if config.init_from:
        return "", ""
    return USUAL_WEIGHTS, f"Initial weights: {USUAL_WEIGHTS}; --config.init_from=NAME takes others."


def run_experiment(
    experiment: Experiment, workdir: str | os.PathLike[str], initial: InitialWeights | None = None
) -> Outcome:
    """Prepares the initial weights and the data, and trains; or continues the run of the workdir.

    Other runs are kept out of the workdir meanwhile. All processes of a run call this.

    Args:
        experiment: the settings. A float64 network puts JAX into its 64-bit mode.
        workdir: folder of the run.
        initial: the weights to begin with, instead of those that `init_from` names.

    Raises:
        UserError: settings, weights, data and workdir do not fit together.
    """
    config, folder = experiment.config, stored_path(workdir)
    # Not in `TrainConfig`: an older version chose negatives alone, and its checkpoints must load.
    if config.train.denoising_negatives and not config.train.denoising_groups:
        raise UserError(
            "train.denoising_negatives has no effect without train.denoising_groups: set the groups to 1 or more "
            "(4 is usual), or the negatives to False."
        )
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        watchdog = stack.enter_context(Watchdog(config.train.timeout_seconds))
        lock = stack.enter_context(WorkdirLock(folder)) if first else None
        if initial is not None and not saved_steps(folder / CHECKPOINTS_FOLDER):
            initial(folder / INITIAL_WEIGHTS_FOLDER)
            config = dataclasses.replace(config, init_from=str(folder / INITIAL_WEIGHTS_FOLDER))
        config, remarks = prepare_initial_weights(config, experiment.given, folder)
        for remark in remarks:
            say(remark)
        if config.train.evaluate_every:
            settings, line = with_validation_images(config.data)
            config = dataclasses.replace(config, data=settings)
            if line:
                say(line)
        dataset = open_source(config.data, "train")
        before = settings_before(folder) if config.fit != "off" else None
        config, remarks = fitted_settings(config, dataset, experiment.given, before)
        for remark in remarks:
            say(remark)
        data = TrainingBatches(dataset, config, process_index=jax.process_index(), process_count=jax.process_count())
        config = change_values(config, {"augment.shown_ratios": data.shown_ratios()})
        mesh = make_mesh(config.mesh)
        watch = stack.enter_context(RunWatch(folder, open_loggers(config, folder))) if first else None
        if watch is not None:
            watch.training_images(data)
        evaluate = None
        if config.train.evaluate_every:
            evaluate = make_evaluate(config, folder, mesh, dataset.categories, watch)
        return train(
            config,
            folder,
            data,
            evaluate=evaluate,
            after_line=None if watch is None else watch.line,
            mesh=mesh,
            watchdog=watchdog,
            lock=lock,
        )


def settings_before(workdir: epath.Path) -> Config | None:
    """The settings of the run that the workdir holds; None: there is none."""
    if not saved_steps(workdir / CHECKPOINTS_FOLDER):
        return None
    return read_meta(find_checkpoint(workdir)).config


def make_evaluate(
    config: Config, workdir: epath.Path, mesh: jax.sharding.Mesh, categories: Categories, watch: RunWatch | None
) -> Evaluate:
    """A function that scores a model on the validation images and writes scores and pictures into the workdir."""
    validation = open_source(config.data, "val", categories)
    check_categories(categories, validation.categories, validation.name)
    if not validation.box_counts.any():
        say(
            f"Warning: the validation images ({len(validation)}) have no object, so AP cannot be measured, and the "
            "newest weights count as the best. Add validation images with objects."
        )
    evaluator = Evaluator(validation, config, mesh)

    def evaluate(model: AnchorDETR, step: int) -> dict[str, float]:
        result = evaluator.run(model)
        if watch is not None and result.scores is not None:
            write_json(workdir / EVALUATION_FILE, {"step": step, **result.scores.to_dict()}, indent=2)
            watch.predictions(step, validation, result.results)
            watch.report(step, validation, result.results, result.scores)
        return result.metrics

    return evaluate
