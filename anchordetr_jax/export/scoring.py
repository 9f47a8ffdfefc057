"""COCO's scores of an exported detector, beside those of the checkpoint that it was made from."""

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import numpy as np
from tqdm.auto import tqdm

from anchordetr_jax.checkpoints.failures import brief
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.data.transforms import resized_sizes
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES, Scores, coco_scores
from anchordetr_jax.evaluation.results import DatasetDetections, coco_results, not_finite_sentence
from anchordetr_jax.evaluation.settings import check_categories
from anchordetr_jax.export import sample
from anchordetr_jax.export.folder import ExportedFolder, Program

READERS = 4
"""Threads that decode images."""


@dataclasses.dataclass(frozen=True)
class ProgramResult:
    """What a program detects on a data set."""

    program: Program
    results: list[dict[str, Any]]
    """COCO result entries."""
    scores: Scores | None
    """None for images without annotations."""
    unreadable: tuple[str, ...]
    """For each image that could not be read, a sentence with its file and the reason."""


def score_program(
    exported: ExportedFolder, program: Program, dataset: DetectionSource, *, batch_size: int = 8, progress: bool = True
) -> ProgramResult:
    """Runs a program on all images of a data set, as `sample.py` does, and scores its detections.

    Args:
        exported: the folder of the program.
        program: one of its programs.
        dataset: the images.
        batch_size: images at a time, for a program that takes every number.
        progress: whether to show a progress bar.

    Raises:
        UserError: the classes differ, or a package is missing that the program needs.
    """
    check_categories(exported.classes, dataset.categories, dataset.name)
    run = _loaded(exported, program)
    pictures = _Pictures(dataset)
    found = sample.detect(pictures, dict(exported.metadata), run, program.rows or batch_size)
    bar = tqdm(found, total=len(dataset), desc=program.kind, unit="image", disable=not progress)
    scores, labels, boxes = (np.stack(arrays) for arrays in zip(*bar, strict=True))
    readable = np.array([row not in pictures.problems for row in range(len(dataset))])
    rows, left_out = np.arange(len(dataset)), np.zeros(len(dataset), np.int32)
    images = DatasetDetections(rows, readable, scores, labels, boxes, left_out)
    results, not_finite = coco_results(images, dataset.image_ids, exported.classes)
    if not_finite:
        tqdm.write(f"{program.kind}: {not_finite_sentence(not_finite)}")
    truth = dataset.ground_truth()
    scored = None if truth is None else coco_scores(truth, results, dataset.image_ids, name=dataset.name)
    return ProgramResult(program, results, scored, tuple(pictures.problems[row] for row in sorted(pictures.problems)))


def shrunk_sentence(exported: ExportedFolder, dataset: DetectionSource) -> str | None:
    """What to say about images that are too large for the shape of the export; None if all fit."""
    shape = np.array(exported.metadata["shape"])
    sizes = resized_sizes(dataset.sizes, exported.metadata["eval_size"], exported.metadata["max_size"])
    count = int(np.count_nonzero((sizes > shape).any(axis=1)))
    if not count:
        return None
    height, width = shape.tolist()
    return (
        f"{count} of {len(dataset)} images do not fit the exported shape {height}x{width} at the size of the "
        "checkpoint's evaluation. They are made smaller, which changes their detections: export another shape for them."
    )


def same_data(scores: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two evaluations (`Scores.to_dict`) have the same number of images, and of objects of each class."""

    def counts(contents: Mapping[str, Any]) -> Any:
        return contents.get("num_images"), [
            (entry["category_id"], entry["objects"]) for entry in contents.get("per_class", [])
        ]

    return counts(scores) == counts(other)


def comparison_table(reference: Mapping[str, float] | None, found: Mapping[str, Mapping[str, float]]) -> str:
    """COCO's 12 numbers as aligned text: of the checkpoint, and of each program with its difference.

    Args:
        reference: the numbers of the checkpoint by `METRIC_NAMES`; None if nobody knows them.
        found: those of each program, by its name.
    """
    header = f" {'':<6}" + (f"  {'checkpoint':>10}" if reference is not None else "")
    for name in found:
        header += f"  {name:>12}" + (f"  {'difference':>10}" if reference is not None else "")
    lines = [header]
    for metric in METRIC_NAMES:
        line = f" {metric:<6}"
        if reference is not None:
            line += f"  {_figure(reference[metric]):>10}"
        for metrics in found.values():
            line += f"  {_figure(metrics[metric]):>12}"
            if reference is not None:
                line += f"  {_difference(metrics[metric], reference[metric]):>10}"
        lines.append(line)
    return "\n".join(lines)


def largest_difference(reference: Mapping[str, float], metrics: Mapping[str, float]) -> float:
    """The largest difference of a number from the checkpoint's."""
    return max(abs(metrics[name] - reference[name]) for name in METRIC_NAMES)


def _figure(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"


def _difference(value: float, other: float) -> str:
    return "-" if value < 0 and other < 0 else f"{value - other:+.4f}"


def _loaded(exported: ExportedFolder, program: Program) -> sample.Run:
    package = "flatbuffers" if program.kind == "jax" else "onnxruntime"
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{program.file} needs the package {package} to run: pip install {package}.")
    weights = exported.metadata["weights"]
    try:
        if program.kind == "jax":
            return sample.load_jax(program.file, weights, exported.path)
        return sample.load_onnx(program.file, exported.path)
    except Exception as error:  # Each reader raises exceptions of its own for a file that is cut off.
        files = f"{program.file} or {weights}" if program.kind == "jax" else program.file
        raise UserError(
            f"{files} in {exported.path} cannot be loaded ({brief(error)}): export the detector again."
        ) from error


class _Pictures(Sequence[np.ndarray]):
    """The images of a data set, which threads read when they are asked for.

    An image that cannot be read is a black pixel, and `problems` has the reason by its row.
    """

    def __init__(self, dataset: DetectionSource):
        self._dataset = dataset
        self.problems: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._dataset)

    @overload
    def __getitem__(self, place: int) -> np.ndarray: ...

    @overload
    def __getitem__(self, place: slice) -> list[np.ndarray]: ...

    def __getitem__(self, place: int | slice) -> np.ndarray | list[np.ndarray]:
        if isinstance(place, int):
            return self._read(place)
        with ThreadPoolExecutor(READERS) as pool:
            return list(pool.map(self._read, range(len(self))[place]))

    def _read(self, row: int) -> np.ndarray:
        try:
            return self._dataset.open_image(row)
        except UserError as error:
            self.problems[row] = str(error)
            return np.zeros((1, 1, 3), np.uint8)
