"""`train`: a run in this process, from Python."""

import os
from collections.abc import Mapping
from typing import Any

import ml_collections

from anchordetr_jax.api.run import TrainingRun
from anchordetr_jax.compilation import keep_compilations
from anchordetr_jax.config import Config, config_to_dict
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import Experiment, read_experiment
from anchordetr_jax.kernels.cpu.process import keep_host_memory, set_up_xla
from anchordetr_jax.settings.names import flat_settings, setting_named
from anchordetr_jax.training.experiment import InitialWeights, run_experiment

# As the command does before JAX starts: XLA reads its flags once, and with other flags a run has other bits.
set_up_xla()


def train(
    config: str | os.PathLike[str] | Config | ml_collections.ConfigDict,
    *,
    workdir: str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    epochs: int | None = None,
    **settings: Any,
) -> TrainingRun:
    """Trains, or continues the run of the workdir, like `anchordetr train --config CONFIG --workdir WORKDIR`.

    Ctrl-C, or a notebook's button to interrupt, saves and returns.

    Args:
        config: a preset, the path of an experiment file, or settings: a changed `default_config()`, or a `Config`.
        workdir: folder of the run.
        data: folder of the data set, if it is not that of the config.
        epochs: how often each image is seen.
        settings: further settings by name, such as `batch_size=8` or `**{"eval.batch_size": 4}`.

    Raises:
        UserError: a setting is wrong, or settings, data and workdir do not fit together.
    """
    values = without_ambiguity(settings)
    add_argument(values, "epochs", "train.epochs", epochs)
    add_argument(values, "data", "data.root", data)
    given = config if isinstance(config, Config | ml_collections.ConfigDict) else os.fspath(config)
    return run_here(read_experiment(given, values=values), workdir)


def run_here(
    experiment: Experiment, workdir: str | os.PathLike[str], initial: InitialWeights | None = None
) -> TrainingRun:
    """Runs an experiment in this process. See `run_experiment`."""
    keep_host_memory()
    keep_compilations()
    outcome = run_experiment(experiment, workdir, initial=initial)
    if outcome.stopped_by is not None:
        print(f"Stopped after step {outcome.step}, which is saved: the same call goes on from there.", flush=True)
    return TrainingRun(workdir)


def add_argument(values: dict[str, Any], name: str, setting: str, value: Any) -> None:
    """Adds a setting that has an argument of its own to others, if it is given. Raises `UserError` if it is there."""
    if value is None:
        return
    if setting in values:
        raise UserError(f"The setting {setting!r} is there twice, also as {name}: keep one.")
    values[setting] = os.fspath(value) if isinstance(value, os.PathLike) else value


def without_ambiguity(settings: Mapping[str, Any], group: str = "train") -> dict[str, Any]:
    """Settings by their full names: {"batch_size": 8} -> {"train.batch_size": 8}. See `setting_named`.

    Raises:
        UserError: there is no such setting.
    """
    known = flat_settings(config_to_dict(Config()))
    named: dict[str, Any] = {}
    for name, value in settings.items():
        setting = setting_named(name, known, group)
        if setting in named:
            raise UserError(f"The setting {setting!r} is there twice: keep one.")
        named[setting] = value
    return named
