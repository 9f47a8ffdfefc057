"""Looks a COCO-format data set over before it is trained on: what is in it, how it looks, and everything that is wrong.

python scripts/inspect_dataset.py ROOT [--output DIR] [--decode] [--config FILE] [--config.data.SETTING=VALUE]

Images and annotations are found as train.py finds them, in the layouts of COCO, Roboflow, CVAT and others. DIR
(inspection by default) gets report.json (with all problems, each with its file and ids), objects.png and a grid of
samples a split. Pixels are decoded with --decode only; without it a damaged image is found where its header tells.

Exits with 0 if training can start, also where there are warnings, which are dealt with (boxes without area are left
out, say), and with 1 if there are errors.
"""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm
from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.config import Config, config_from_dict, config_to_dict
from anchordetr_jax.data.inspection.problems import SplitInspection, find_overlap, inspect_split
from anchordetr_jax.data.inspection.report import (
    class_counts,
    describe_problems,
    describe_split,
    draw_samples,
    size_arrays,
    to_dict,
)
from anchordetr_jax.data.source import Split
from anchordetr_jax.data.sources.layouts import split_files
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path, write_json
from anchordetr_jax.pictures.objects import plot_objects

read_config = cli.define_config(required=False)
OUTPUT = flags.DEFINE_string("output", "inspection", "Folder for the report and the pictures.")
DECODE = flags.DEFINE_bool("decode", False, "Decode all pixels, so that images damaged behind their header are found.")
SAMPLES = flags.DEFINE_integer("samples", 12, "Images drawn of each split.", lower_bound=0)

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def main(arguments: list[str]) -> None:
    config = read_config(Config())
    if len(arguments) > 1 or not (arguments or config.data.root):
        raise UserError("Give one folder: python scripts/inspect_dataset.py ROOT.")
    if arguments:
        nested = config_to_dict(config)
        nested["data"]["root"] = arguments[0]
        config = config_from_dict(nested)
    if config.data.source != "coco":
        raise UserError(f"Only COCO-format folders can be inspected, not data.source={config.data.source!r}.")
    inspections, remarks = inspect(config)
    output = stored_path(OUTPUT.value)
    problems = [problem for found in inspections for problem in found.problems] + find_overlap(inspections)
    for found in inspections:
        print(describe_split(found), end="\n\n")
        if SAMPLES.value:
            draw_samples(found, output / f"samples_{found.split}.png", count=SAMPLES.value)
    write_json(output / "report.json", to_dict(inspections, problems), indent=1)
    plot_objects(
        {found.split: size_arrays(found) for found in inspections},
        {found.split: class_counts(found) for found in inspections},
        output / "objects.png",
    )
    print(describe_problems(problems, output / "report.json"))
    print(*(f"NOTE    {remark}" for remark in remarks), f"\nReport and pictures are in {output}.", sep="\n")
    errors = sum(problem.severity == "error" for problem in problems)
    if errors:
        raise UserError(f"{errors} errors are to be mended before training; see above and {output / 'report.json'}.")


def inspect(config: Config) -> tuple[list[SplitInspection], list[str]]:
    """Looks at every split that can be found; sentences say why others cannot. Raises `UserError` if none can."""
    inspections: list[SplitInspection] = []
    remarks: list[str] = []
    for split in SPLITS:
        if split == "val" and config.data.val_fraction > 0:
            continue  # These are training images.
        try:
            files = split_files(config.data, split)
            if not files.annotations.is_file():
                raise UserError(f"There is no annotation file {files.annotations}.")
        except UserError as error:
            if split == "train":
                raise
            if split == "val":
                remarks.append(str(error))
            continue

        def ask(images: Iterable[Any], total: int, split: str = split) -> Iterable[Any]:
            return tqdm.tqdm(images, split, total, unit="image", file=sys.stderr, delay=0.5)

        inspections.append(inspect_split(split, files, decode=DECODE.value, ask=ask))
    return inspections, remarks


if __name__ == "__main__":
    cli.run(main, takes_arguments=True)
