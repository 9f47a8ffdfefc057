"""An evaluation of an exported folder: each of its programs, beside the checkpoint that it was made from."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from anchordetr_jax.config import Config
from anchordetr_jax.data.image_shapes import shape_remark
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.coco_metrics import Scores, summary_line
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.evaluation.report import write_report
from anchordetr_jax.evaluation.settings import ARITHMETIC, check_categories, evaluation_config
from anchordetr_jax.export.folder import KINDS, ExportedFolder
from anchordetr_jax.export.scoring import (
    ProgramResult,
    comparison_table,
    largest_difference,
    same_data,
    score_program,
    shrunk_sentence,
)
from anchordetr_jax.files import write_json
from anchordetr_jax.weights.pretrained import open_pretrained


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where an evaluation writes."""

    results: Path
    """`results.json` gives `results.jax.json`, `results.onnx.json`, …: one file for each program."""
    scores: Path
    """The scores of all programs, and of the checkpoint."""
    report: Path | None = None
    """A folder for pages, in one folder for each program."""


def evaluate_folder(
    exported: ExportedFolder,
    dataset: DetectionSource,
    config: Config,
    outputs: Outputs,
    *,
    compare: str | os.PathLike[str] | None = None,
) -> list[str]:
    """Scores each program of an exported folder, and writes results and scores.

    Args:
        exported: the folder.
        dataset: the images.
        config: its `eval.batch_size` is used.
        outputs: where results and scores go.
        compare: the checkpoint to compare with, which is evaluated too. By default the scores that were exported with
            the detector are compared with, if they are of the same data.

    Returns:
        Lines for the person; the last one has AP and AP50 of the first program.

    Raises:
        UserError: the classes differ, a package or a file is missing, or nothing can be written.
    """
    found = [
        score_program(exported, program, dataset, batch_size=config.eval.batch_size) for program in exported.programs()
    ]
    for each in found:
        write_json(outputs.results.with_suffix(f".{each.program.kind}.json"), each.results)
    lines = [f"Not readable, counted as an image without detections: {problem}" for problem in found[0].unreadable]
    lines += [sentence] if (sentence := shrunk_sentence(exported, dataset)) else []
    lines += [remark] if (remark := shape_remark(dataset.sizes, exported.metadata.get("shown_ratios", ()))) else []
    scored = {each.program.kind: each.scores for each in found if each.scores is not None}
    if not scored:
        return [*lines, f"No scores, because {dataset.name} has no annotations."]
    if outputs.report is not None:
        _write_reports(outputs.report, exported, dataset, found)
    reference, origin = _reference(exported, dataset, config, next(iter(scored.values())), compare)
    contents = {
        "checkpoint": reference,
        **{kind: {**scores.to_dict(), "exported": str(exported.path)} for kind, scores in scored.items()},
    }
    write_json(outputs.scores, contents, indent=2)
    metrics = {kind: scores.metrics for kind, scores in scored.items()}
    lines += ["", origin, "", comparison_table(reference, metrics), ""]
    if reference is not None:
        for kind, values in metrics.items():
            lines.append(
                f"{KINDS[kind]}: no number differs from the checkpoint's by more than "
                f"{largest_difference(reference, values):.1e}."
            )
    return [*lines, summary_line(next(iter(metrics.values())))]


def _write_reports(
    folder: Path, exported: ExportedFolder, dataset: DetectionSource, found: list[ProgramResult]
) -> None:
    for each in found:
        if each.scores is not None:
            facts = [("exported", str(exported.path)), ("program", each.program.file), ("data", dataset.name)]
            facts += [("not readable", problem) for problem in each.unreadable]
            write_report(folder / each.program.kind, dataset, each.results, each.scores, facts=facts)


def _reference(
    exported: ExportedFolder,
    dataset: DetectionSource,
    config: Config,
    scores: Scores,
    compare: str | os.PathLike[str] | None,
) -> tuple[Mapping[str, Any] | None, str]:
    """The scores to compare with, and a sentence about where they come from."""
    if compare is not None:
        return checkpoint_scores(compare, dataset, config).metrics, f"The checkpoint is {compare}, evaluated now."
    known = exported.scores
    if known is None:
        return None, "The export does not know the scores of its checkpoint; --compare CHECKPOINT evaluates it."
    if not same_data(known, scores.to_dict()):
        return None, (
            "The scores that were exported with the detector are of other images; --compare CHECKPOINT evaluates the "
            "checkpoint on these."
        )
    return known, "The numbers of the checkpoint were exported with it."


def checkpoint_scores(name: str | os.PathLike[str], dataset: DetectionSource, config: Config) -> Scores:
    """COCO's scores of a checkpoint on a data set with annotations."""
    found = open_pretrained(name)
    settings, _ = evaluation_config(found.config, dataclasses.replace(config, model=found.config.model))
    check_categories(found.categories, dataset.categories, dataset.name)
    if settings.model.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    model = found.model(**{name: getattr(settings.model, name) for name in ARITHMETIC})
    scores = Evaluator(dataset, settings).run(model).scores
    assert scores is not None
    return scores
