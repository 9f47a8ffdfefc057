"""Evaluates one detector twice on the same photographs: with the official command, and with this project."""

import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from anchordetr_jax.config import Config, DataConfig, EvalConfig, ModelConfig
from anchordetr_jax.data.sources.opening import open_split
from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.verification.agreement import compare_detections
from anchordetr_jax.verification.cases import DetectionArrays
from anchordetr_jax.verification.comparison import Table
from anchordetr_jax.verification.official import OfficialCode
from anchordetr_jax.verification.tolerances import FLOAT32, SCORES
from anchordetr_jax.weights.convert import exported
from anchordetr_jax.weights.locating import locate
from anchordetr_jax.weights.pretrained import open_location
from anchordetr_jax.weights.state_dict_file import is_official_file
from anchordetr_jax.weights.torch_file import write_torch_file

IMAGES, ANNOTATIONS = "{}2017", "annotations/instances_{}2017.json"
"""The official code looks for the images and annotations of a split here."""

VAL2017_IMAGES = 5000

Results = Sequence[Mapping[str, Any]]
"""Entries of COCO's result format."""


def verify_evaluation(
    repo: str | Path, weights: str | Path, data: str | Path, *, count: int = 0, dilation: bool | None = None
) -> Table:
    """Compares COCO's 12 numbers and all detections of the official code and of this project, both in float32.

    Args:
        repo: a checkout of the official code.
        weights: everything that `open_pretrained` takes. The official code gets a file that it can load as it is; other
            weights are exported for it.
        data: a folder with val2017/ and annotations/instances_val2017.json.
        count: the number of images, the first ones by id. 0: all.
        dilation: DC5 (True) or C5, where a weight file does not say it.

    Raises:
        UserError: something is missing or cannot be read.
    """
    code, root = OfficialCode(repo), Path(data).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = _link_first_images(root, folder, count)
        location = locate(weights)
        classes = root / ANNOTATIONS.format("val") if location.kind == "file" else None
        found = open_location(location, dilation=dilation, annotations=classes)
        config, file = found.config, folder / "exported.pth"
        if location.kind == "file" and is_official_file(location.path):
            file = Path(location.path)
        else:
            content, _ = exported(found.variables(), config, found.categories)
            write_torch_file(file, content)
        # As the official code computes it, also where the weights are detrex's.
        model = found.model(dtype="float32", padding="invariant", anchor_border=ModelConfig.anchor_border)
        numbers, theirs = code.evaluate(config, file, folder, folder)
        settings = Config(data=DataConfig(root=str(folder), labels=config.data.labels), eval=EvalConfig(batch_size=1))
        dataset = open_split(settings.data, "val")
        result = Evaluator(dataset, settings).run(model, progress=False)
    table = Table(f"{weights}: {len(images)} images of {root}, with the official main.py --eval and with this project")
    for name, official in zip(METRIC_NAMES, numbers, strict=True):
        ours = result.metrics[name]
        table.compare(name, ours, official, SCORES, note=f"official {official:.4f}, here {ours:.4f}")
    compare_results(table, result.results, theirs, images, dataset.categories.ids)
    if location.published is not None and location.published.ap is not None:
        table.note(published_remark(location.published.ap, result.metrics["AP"], len(images)))
    return table


def published_remark(published: float, found: float, images: int) -> str:
    """How far an AP (between 0 and 1) is from the published one (in percent)."""
    sentence = f"The published AP is {published:.1f}; here it is {100 * found:.1f} ({100 * found - published:+.1f})."
    if images == VAL2017_IMAGES:
        return sentence
    return f"{sentence} The published one is of val2017's {VAL2017_IMAGES} images, and these are {images}."


def compare_results(
    table: Table, ours: Results, official: Results, images: Mapping[int, tuple[int, int]], categories: Collection[int]
) -> None:
    """Adds rows for two lists of entries in COCO's result format.

    Args:
        table: the rows are added to it.
        ours: entries of `categories` only.
        official: may have entries of other categories: the official code has more class outputs than there are classes.
        images: (height, width) of each image in pixels, by id.
        categories: the category ids of the data set.
    """
    limit = FLOAT32.predictions
    sizes = np.array(list(images.values()))
    compare_detections(
        table, _by_image(ours, images), _by_image(official, images), sizes, limit, limit, labels=categories
    )


def _link_first_images(root: Path, folder: Path, count: int) -> dict[int, tuple[int, int]]:
    """Makes `folder` a data set with the first images of `root`. Returns their (height, width) by id."""
    try:
        content = json.loads((root / ANNOTATIONS.format("val")).read_text())
        images = sorted(content["images"], key=lambda image: image["id"])[: count or None]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{root} has no readable {ANNOTATIONS.format('val')} ({error}): give a folder in COCO's format."
        ) from None
    ids = {image["id"] for image in images}
    kept = [annotation for annotation in content["annotations"] if annotation["image_id"] in ids]
    (folder / "annotations").mkdir()
    for split in ("train", "val"):  # The official command also opens the training images.
        (folder / IMAGES.format(split)).symlink_to(root / IMAGES.format("val"), target_is_directory=True)
        (folder / ANNOTATIONS.format(split)).write_text(json.dumps({**content, "images": images, "annotations": kept}))
    return {image["id"]: (image["height"], image["width"]) for image in images}


def _by_image(results: Results, images: Mapping[int, Any]) -> list[DetectionArrays]:
    """The detections of each image, in the order of `images`, best first."""
    entries: dict[int, list[Mapping[str, Any]]] = {image: [] for image in images}
    for entry in results:
        entries[entry["image_id"]].append(entry)
    found = []
    for of_image in entries.values():
        best_first = sorted(of_image, key=lambda entry: -entry["score"])
        boxes = np.array([entry["bbox"] for entry in best_first], np.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = np.array([entry["category_id"] for entry in best_first], np.int64)
        found.append(DetectionArrays(np.array([entry["score"] for entry in best_first], np.float64), labels, boxes))
    return found
