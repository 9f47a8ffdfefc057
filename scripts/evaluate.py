"""Scores a checkpoint on a COCO-format data set with COCO's own code.

python scripts/evaluate.py --checkpoint runs/mine [--config configs/NAME.py] [--output results.json] [--report DIR]

The network and its classes come from the checkpoint; data paths and batch sizes from --config, or, without it, from the
settings of the run that made the checkpoint. --config.data.root=FOLDER changes one setting of either. On several
hosts every process runs this command, with the flags that train.py takes for it.
"""

import jax
from absl import flags
from etils import epath

from anchordetr_jax import cli
from anchordetr_jax.compilation import keep_compilations
from anchordetr_jax.data.coco import open_split
from anchordetr_jax.evaluation.coco_metrics import class_table, summary_line
from anchordetr_jax.evaluation.evaluate import EvaluationResult, Evaluator
from anchordetr_jax.evaluation.report import write_predictions, write_report
from anchordetr_jax.evaluation.settings import ARITHMETIC, check_categories, evaluation_config
from anchordetr_jax.files import write_json
from anchordetr_jax.training.checkpoint import find_checkpoint, load_model, read_meta
from anchordetr_jax.training.sharding import make_mesh, replicated, start_distributed

read_config = cli.define_config(required=False)
CHECKPOINT = flags.DEFINE_string("checkpoint", None, "A run's workdir, or one checkpoint.", required=True)
SPLIT = flags.DEFINE_enum("split", "val", ["val", "train"], "Images to evaluate on.")
OUTPUT = flags.DEFINE_string("output", "results.json", "File for the detections, in COCO's result format.")
SCORES = flags.DEFINE_string("scores", None, "File for the scores; by default beside --output, as NAME.scores.json.")
REPORT = flags.DEFINE_string("report", None, "Folder for precision-recall curves and a grid of the worst misses.")
PREDICTIONS = flags.DEFINE_string("predictions", None, "PNG file for a grid of predictions beside the truth.")
DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Join the other processes of a run on several hosts.")
COORDINATOR = flags.DEFINE_string("coordinator", "", "HOST:PORT of process 0, where JAX cannot find it by itself.")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Number of processes, with --coordinator.")
PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0, with --coordinator.")


def main() -> None:
    if DISTRIBUTED.value or COORDINATOR.value:
        start_distributed(COORDINATOR.value, NUM_PROCESSES.value, PROCESS_ID.value)
    keep_compilations()
    meta = read_meta(find_checkpoint(CHECKPOINT.value))
    config = evaluation_config(meta.config, read_config(meta.config))
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    mesh = make_mesh(config.mesh)
    dataset = open_split(config.data, "train" if SPLIT.value == "train" else "val")
    check_categories(meta.categories, dataset.categories, str(dataset.annotations_file))
    arithmetic = {name: getattr(config.model, name) for name in ARITHMETIC}
    model, _ = load_model(meta.path, sharding=replicated(mesh), **arithmetic)
    result = Evaluator(dataset, config, mesh).run(model)
    if jax.process_index() > 0 or result.scores is None:
        return

    write_json(OUTPUT.value, result.results)
    write_json(
        SCORES.value or epath.Path(OUTPUT.value).with_suffix(".scores.json"), scores_of(result, meta.path), indent=2
    )
    if REPORT.value:
        write_report(REPORT.value, dataset, result.results, result.scores)
    if PREDICTIONS.value:
        write_predictions(PREDICTIONS.value, dataset, result.results)
    report(result)


def scores_of(result: EvaluationResult, checkpoint: str) -> dict[str, object]:
    """The contents of the file of scores."""
    assert result.scores is not None
    return {
        **result.scores.to_dict(),
        "checkpoint": checkpoint,
        "split": SPLIT.value,
        "unreadable": list(result.unreadable),
        "images_per_second": round(result.images_per_second, 2),
        "compilations": result.compilations,
        "padding": round(result.padding, 4),
    }


def report(result: EvaluationResult) -> None:
    """Prints what was found, the summary last."""
    assert result.scores is not None
    print(
        f"{result.num_images} images in {result.seconds:.0f} s ({result.images_per_second:.1f} images/s), "
        f"{result.compilations} compilations, {result.padding:.1%} of the pixels padding; "
        f"detections are in {OUTPUT.value}"
    )
    for path in result.unreadable:
        print(f"Not readable, counted as without detections: {path}")
    for note in result.scores.notes:
        print(f"Note: {note}")
    print(f"\n{result.scores.table}\n\n{class_table(result.scores)}\n\n{summary_line(result.metrics)}")


if __name__ == "__main__":
    cli.run(main)
