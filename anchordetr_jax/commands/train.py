"""Trains a detector on a data set, or continues a training that was stopped.

anchordetr train MY_DATA --workdir DIR                 fine-tunes: preset finetune, on a CPU finetune-cpu
anchordetr train --config NAME --workdir DIR [--config.data.root=MY_DATA]

MY_DATA is a COCO, YOLO or Pascal VOC folder. NAME is a preset, such as anchordetr-r50-dc5, or an experiment file.

DIR gets checkpoints/, metrics.jsonl, tensorboard/, curves.png, config.json, the newest evaluation.json, a picture of
the first training images (training_images.png) and of predictions after each evaluation (predictions.png, and all of
them in predictions/), and a page with all of it (report/index.html). Give the same command again to continue from the
newest checkpoint. --config.SETTING=VALUE changes a setting.

On several hosts every process runs this command with --distributed. JAX finds the other processes on TPU pods, SLURM
and Kubernetes; elsewhere give --coordinator, --num_processes and --process_id too.
"""

import signal
import sys
from collections.abc import Sequence

import jax
from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import Experiment
from anchordetr_jax.files import stored_path
from anchordetr_jax.training.experiment import FINE_TUNING, fine_tuning_preset, run_experiment, usual_weights

FLAGS = flags.FlagValues()
read_config = cli.define_config(FLAGS, required=False)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. If it holds a run, that run is continued.", FLAGS, required=True
)
connect_processes = cli.define_processes(FLAGS)


def main(arguments: list[str]) -> None:
    changes = changes_by_arguments(arguments)
    workdir = stored_path(WORKDIR.value)
    experiment = read_config.experiment(FINE_TUNING, changes)
    connect_processes(timeout_seconds=experiment.config.train.timeout_seconds)
    cli.prepare_computation()
    if not read_config.is_named:
        experiment = fine_tuning(changes)
    outcome = run_experiment(experiment, workdir)
    if outcome.stopped_by is not None:
        name = signal.Signals(outcome.stopped_by).name
        print(f"Stopped by {name} after step {outcome.step}, which is saved: the same command goes on from there.")
        sys.exit(128 + outcome.stopped_by)


def changes_by_arguments(arguments: Sequence[str]) -> list[str]:
    """The data set that is named without a flag, as a change of the settings."""
    if not arguments:
        if not read_config.is_named and not read_config.changes("data.root"):
            raise UserError("Say what to train on: anchordetr train MY_DATA --workdir DIR, or --config NAME.")
        return []
    if len(arguments) > 1 or read_config.changes("data.root"):
        raise UserError(f"Give one data set, not {arguments[-1]!r} too: anchordetr train MY_DATA --workdir DIR.")
    return [f"data.root={arguments[0]}"]


def fine_tuning(changes: list[str]) -> Experiment:
    """The preset for this machine."""
    preset, why = fine_tuning_preset()
    if jax.process_index() == 0:
        print(why, flush=True)
    experiment = read_config.experiment(preset, changes)
    if read_config.changes("init_from"):
        return experiment
    weights, line = usual_weights(experiment.config)
    if not weights:
        return experiment
    if jax.process_index() == 0:
        print(line, flush=True)
    return read_config.experiment(preset, [*changes, f"init_from={weights}"])


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, text=__doc__)
