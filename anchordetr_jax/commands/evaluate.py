"""Detects objects in the images of a data set, and scores the detections with COCO's own code.

anchordetr evaluate CHECKPOINT [--config NAME] [--output results.json] [--report DIR]

The network, its classes, image sizes and number of detections come from the checkpoint. Data paths and batch sizes come
from --config or, without it, from the settings of the run that made the checkpoint. --config.data.root=FOLDER changes
one setting of either. Images come from a COCO, YOLO or Pascal VOC folder, from a prepared TFDS data set
(--config.data.source=tfds) or from any folder of images (--config.data.source=folder), which has no annotations for
scores. A stopped evaluation continues when the same command
is given again. CHECKPOINT (or --checkpoint) is a published model such as anchordetr-r50-dc5, a run's workdir, one
checkpoint, a .pth or .safetensors file, a folder of save_pretrained, or hf://ORGANISATION/NAME. It may also be a folder
of anchordetr export: each program in it is scored, beside the checkpoint that it was made from. On several hosts every
process runs this command, with the same flags as anchordetr train.
"""

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags
from etils import epath

from anchordetr_jax import cli
from anchordetr_jax.checkpoints.checkpoint import BEST_FOLDER, CHECKPOINTS_FOLDER
from anchordetr_jax.config import Config, ModelConfig
from anchordetr_jax.data.source import DetectionSource, Split
from anchordetr_jax.data.sources.opening import open_for_evaluation
from anchordetr_jax.devices import make_mesh, replicated
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import Scores, class_table, summary_line
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.journal import Journal
from anchordetr_jax.evaluation.processes import process_zero_says
from anchordetr_jax.evaluation.report import write_predictions, write_report
from anchordetr_jax.evaluation.settings import ARITHMETIC, OF_THE_RUN, check_categories, evaluation_config
from anchordetr_jax.evaluation.shares import EvaluationResult
from anchordetr_jax.export.evaluating import Outputs, evaluate_folder
from anchordetr_jax.export.folder import ExportedFolder, is_exported, read_exported
from anchordetr_jax.files import path_here, write_json
from anchordetr_jax.prediction.run_folder import better_checkpoint
from anchordetr_jax.prediction.tiled_evaluation import evaluate_in_tiles
from anchordetr_jax.weights.pretrained import open_pretrained

FLAGS = flags.FlagValues()
read_config = cli.define_config(FLAGS, required=False)
read_weights = cli.define_weights(FLAGS)
SPLIT = flags.DEFINE_enum(
    "split",
    "val",
    ["val", "train", "test", "test-dev"],
    "Images to evaluate on. test is scored if it has annotations. test-dev: the same, and the file of "
    "detections gets the name that COCO's server wants.",
    flag_values=FLAGS,
)
OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "File for the detections, in COCO's result format: results.json by default, for test-dev "
    "detections_test-dev2017_NAME_results.json.",
    flag_values=FLAGS,
)
NAME = flags.DEFINE_string(
    "name",
    None,
    "The name of the detector in the name of the test-dev file; by default the name of the run.",
    flag_values=FLAGS,
)
SCORES = flags.DEFINE_string(
    "scores", None, "File for the scores; by default beside --output, as NAME.scores.json.", flag_values=FLAGS
)
REPORT = flags.DEFINE_string(
    "report",
    None,
    "Folder for a page, index.html, with scores, curves, the confusion matrix and the worst mistakes.",
    flag_values=FLAGS,
)
PREDICTIONS = flags.DEFINE_string(
    "predictions", None, "PNG file for a grid of predictions beside the truth.", flag_values=FLAGS
)
RESTART = flags.DEFINE_bool(
    "restart",
    False,
    "Begin with the first image, also where a stopped evaluation has left detections.",
    flag_values=FLAGS,
)
COMPARE = flags.DEFINE_string(
    "compare",
    None,
    "For an exported folder: the checkpoint to compare with, which is evaluated too.",
    flag_values=FLAGS,
)
read_tiles = cli.define_tiles(FLAGS)
connect_processes = cli.define_processes(FLAGS)

SPLITS: dict[str, Split] = {"val": "val", "train": "train", "test": "test", "test-dev": "test"}

FIXED_IN_PROGRAMS = (
    *OF_THE_RUN,
    "data.labels",
    *(f"model.{field.name}" for field in dataclasses.fields(ModelConfig)),
)
"""Settings of an evaluation that an export fixes."""


def main(arguments: list[str]) -> None:
    connect_processes()
    cli.prepare_computation()
    name, options = read_weights(arguments)
    tiles, overlap = read_tiles()
    if is_exported(name):
        if tiles is not None:
            raise UserError("--tiles is for checkpoints: an exported program has one shape for whole images.")
        refuse_settings_of_programs(options)
        evaluate_exported(read_exported(name))
        return
    if NAME.value and SPLIT.value != "test-dev":
        raise UserError("--name is for the file of --split test-dev: leave it out.")
    if COMPARE.value is not None:
        raise UserError(f"--compare is for an exported folder, and {name} is none: leave it out.")
    found = open_pretrained(name, **options)
    if jax.process_index() == 0:
        cli.say(found.remarks)
    chosen = [setting for setting in OF_THE_RUN if read_config.changes(setting)]
    config, remarks = evaluation_config(found.config, read_config(found.config), chosen)
    if jax.process_index() == 0:
        cli.say(remarks)
    if config.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    mesh = make_mesh(config.mesh)
    dataset = open_for_evaluation(config.data, SPLITS[SPLIT.value], found.categories, trained=found.config.data)
    check_categories(found.categories, dataset.categories, dataset.name)
    if REPORT.value and dataset.ground_truth() is None:
        raise UserError(f"{dataset.name} has no annotations to report on: leave --report out.")
    if jax.process_index() == 0 and found.checkpoint is not None and (remark := better_checkpoint(name)):
        print(f"Note: {remark}", file=sys.stderr)
    arithmetic = {name: getattr(config.model, name) for name in ARITHMETIC}
    checkpoint = found.checkpoint or found.name
    output = OUTPUT.value or default_output(checkpoint)
    model = found.model(sharding=replicated(mesh), **arithmetic)
    journal = Journal(f"{output}.partial")
    if RESTART.value:
        journal.remove()
        process_zero_says(True)  # All wait: none writes a new part while another one still removes.
    if tiles is None:
        evaluator = Evaluator(dataset, config, mesh)
        if jax.process_index() == 0:
            print(evaluator.describe(), file=sys.stderr)
        result = evaluator.run(model, journal=journal)
    else:
        result = evaluate_in_tiles(model, config, dataset, tiles, overlap=overlap, journal=journal)
    failure = None
    if jax.process_index() == 0:
        try:
            write(output, dataset, result, checkpoint)
        except Exception as error:  # It is raised after the other processes know.
            failure = error
    if process_zero_says(failure is None):
        journal.remove()
    if failure is not None:
        raise failure
    if jax.process_index() == 0:
        report(output, dataset, result)


def refuse_settings_of_programs(options: Mapping[str, Any]) -> None:
    """Raises `UserError` if the command line changes what an exported program has fixed.

    Args:
        options: those of `open_pretrained`.
    """
    given = [f"--{name}" for name, value in options.items() if value is not None]
    given += [f"--config.{setting}" for setting in FIXED_IN_PROGRAMS if read_config.changes(setting)]
    if given:
        raise UserError(
            f"{given[0]} cannot change an exported program, which has its network, classes and image sizes: leave it "
            "out, or export the checkpoint again."
        )


def evaluate_exported(exported: ExportedFolder) -> None:
    """Scores the programs of an exported folder, and prints their numbers beside those of the checkpoint."""
    unused = [f"--{flag}" for flag, given in (("restart", RESTART.value), ("name", NAME.value)) if given]
    if unused:
        raise UserError(f"{unused[0]} is for checkpoints, and not for an exported folder: leave it out.")
    if jax.process_count() > 1:
        raise UserError("One process evaluates an exported folder: leave --distributed and --coordinator out.")
    trained = exported.config or Config()
    config = read_config(trained)
    # Its classes say which class output stands for which category.
    data = dataclasses.replace(config.data, labels=exported.classes.scheme)
    dataset = open_for_evaluation(data, SPLITS[SPLIT.value], exported.classes, trained=trained.data)
    if PREDICTIONS.value:
        raise UserError("--predictions is for checkpoints: leave it out, or give --report.")
    if REPORT.value and dataset.ground_truth() is None:
        raise UserError(f"{dataset.name} has no annotations to report on: leave --report out.")
    results = path_here(OUTPUT.value or "results.json")
    scores = path_here(SCORES.value) if SCORES.value else results.with_suffix(".scores.json")
    outputs = Outputs(results, scores, path_here(REPORT.value) if REPORT.value else None)
    print(*evaluate_folder(exported, dataset, config, outputs, compare=COMPARE.value), sep="\n")


def default_output(checkpoint: str) -> str:
    """`results.json`, or for test-dev the name that COCO's server wants."""
    if SPLIT.value != "test-dev":
        return "results.json"
    inside = (CHECKPOINTS_FOLDER, BEST_FOLDER)
    folders = [part for part in epath.Path(checkpoint).parts if part not in inside and not part.isdecimal()]
    name = NAME.value or (folders[-1] if folders else "")
    return f"detections_test-dev2017_{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-') or 'anchordetr'}_results.json"


def write(output: str, dataset: DetectionSource, result: EvaluationResult, checkpoint: str) -> None:
    """Writes the results, the scores and the pictures that the flags name."""
    write_json(output, result.results)
    if result.scores is not None:
        scores = SCORES.value or epath.Path(output).with_suffix(".scores.json")
        write_json(scores, scores_of(result, result.scores, checkpoint), indent=2)
        if REPORT.value:
            facts = [("checkpoint", checkpoint), ("data", dataset.name), ("split", SPLIT.value)]
            facts += [("not readable", problem) for problem in result.unreadable]
            write_report(REPORT.value, dataset, result.results, result.scores, facts=facts)
    if PREDICTIONS.value:
        write_predictions(PREDICTIONS.value, dataset, result.results)


def scores_of(result: EvaluationResult, scores: Scores, checkpoint: str) -> dict[str, object]:
    """The contents of the file with the scores."""
    return {
        **scores.to_dict(),
        "checkpoint": checkpoint,
        "split": SPLIT.value,
        "unreadable": list(result.unreadable),
        "images_per_second": round(result.images_per_second, 2),
        "compilations": result.compilations,
        "cached_compilations": result.cached_compilations,
        "padding": round(result.padding, 4),
    }


def report(output: str, dataset: DetectionSource, result: EvaluationResult) -> None:
    """Prints the scores, the summary last."""
    detected = result.num_images - result.kept_images
    print(
        f"{detected} images in {result.seconds:.0f} s ({result.images_per_second:.1f} images/s), "
        f"{result.compilations} compilations, {result.cached_compilations} of them loaded from JAX's cache, "
        f"{result.padding:.1%} padding; the detections are in {output}"
    )
    if result.kept_images:
        print(f"The detections of {result.kept_images} more images are from the stopped evaluation.")
    for problem in result.unreadable:
        print(f"Not readable, counted as an image without detections: {problem}")
    if result.scores is None:
        print(
            f"No scores, because {dataset.name} has no annotations: "
            f"{len(result.results)} detections of {result.num_images} images are in {output}"
        )
        return
    print(f"\n{result.scores.table}\n\n{class_table(result.scores)}\n")
    if (best := result.scores.threshold) is not None:
        print(
            f"The score threshold with the best F1 score is {best.score:g}: F1 {best.f1:.3f}, precision "
            f"{best.precision:.3f}, recall {best.recall:.3f} (IoU 0.50)\n"
        )
    print(summary_line(result.metrics))


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, text=__doc__)
