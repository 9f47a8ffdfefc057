"""Trains a detector on a COCO-format data set, or continues a training that was stopped.

python scripts/train.py --config configs/NAME.py --workdir DIR [--config.data.root=FOLDER]

DIR gets checkpoints/, metrics.jsonl, tensorboard/, curves.png, config.json, the newest evaluation.json, a picture of
the first training images (training_images.png) and of predictions after each evaluation (predictions.png, and all of
them in predictions/), and a page with all of it (report/index.html). Give the same command again to continue from the
newest checkpoint. --config.SETTING=VALUE changes a setting.

On several hosts every process runs this command with --distributed. JAX finds the other processes on TPU pods, SLURM
and Kubernetes; elsewhere give --coordinator, --num_processes and --process_id too.
"""

import contextlib
import dataclasses
import signal
import sys

import jax
from absl import flags
from etils import epath

from anchordetr_jax import cli
from anchordetr_jax.config import Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.sources.opening import open_source, with_validation_images
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.settings import check_categories
from anchordetr_jax.files import stored_path, write_json
from anchordetr_jax.model.anchor_detr import AnchorDETR
from anchordetr_jax.training.initial_checkpoint import prepare_initial_weights
from anchordetr_jax.training.loop import Evaluate, Outcome, train
from anchordetr_jax.training.watching.pictures import RunWatch
from anchordetr_jax.training.watching.watchdog import Watchdog
from anchordetr_jax.training.workdir_lock import WorkdirLock

read_config = cli.define_config()
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run. If it holds a run, that run is continued.", required=True
)
connect_processes = cli.define_processes()


def main() -> None:
    config = read_config()
    connect_processes(timeout_seconds=config.train.timeout_seconds)
    cli.prepare_computation()
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    workdir = stored_path(WORKDIR.value)
    with Watchdog(config.train.timeout_seconds) as watchdog:
        outcome = run(config, workdir, watchdog)
    if outcome.stopped_by is not None:
        name = signal.Signals(outcome.stopped_by).name
        print(f"Stopped by {name} after step {outcome.step}, which is saved: the same command goes on from there.")
        sys.exit(128 + outcome.stopped_by)


def run(config: Config, workdir: epath.Path, watchdog: Watchdog) -> Outcome:
    """Prepares the initial weights and the data, and trains. Other runs are kept out of the workdir meanwhile."""
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(WorkdirLock(workdir)) if first else None
        config, remarks = prepare_initial_weights(config, read_config.given(), workdir)
        if first:
            print(*remarks, sep="\n", end="\n" if remarks else "", flush=True)
        if config.train.evaluate_every:
            settings, line = with_validation_images(config.data)
            config = dataclasses.replace(config, data=settings)
            if line and first:
                print(line, flush=True)
        dataset = open_source(config.data, "train")
        data = TrainingBatches(dataset, config, process_index=jax.process_index(), process_count=jax.process_count())
        mesh = make_mesh(config.mesh)
        watch = stack.enter_context(RunWatch(workdir, tensorboard=config.train.tensorboard)) if first else None
        if watch is not None:
            watch.training_images(data)
        evaluate = None
        if config.train.evaluate_every:
            evaluate = make_evaluate(config, workdir, mesh, dataset.categories, watch)
        return train(
            config,
            workdir,
            data,
            evaluate=evaluate,
            after_line=None if watch is None else watch.line,
            mesh=mesh,
            watchdog=watchdog,
            lock=lock,
        )


def make_evaluate(
    config: Config, workdir: epath.Path, mesh: jax.sharding.Mesh, categories: Categories, watch: RunWatch | None
) -> Evaluate:
    """A function that scores a model on the validation images and writes scores and pictures into the workdir."""
    validation = open_source(config.data, "val", categories)
    check_categories(categories, validation.categories, validation.name)
    evaluator = Evaluator(validation, config, mesh)

    def evaluate(model: AnchorDETR, step: int) -> dict[str, float]:
        result = evaluator.run(model)
        if watch is not None and result.scores is not None:
            write_json(workdir / "evaluation.json", {"step": step, **result.scores.to_dict()}, indent=2)
            watch.predictions(step, validation, result.results)
            watch.report(step, validation, result.results, result.scores)
        return result.metrics

    return evaluate


if __name__ == "__main__":
    cli.run(main)
