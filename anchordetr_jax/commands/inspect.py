"""Inspects a data set before training: what is in it, how it looks, and everything that is wrong with it.

anchordetr inspect ROOT [--output DIR] [--decode] [--config FILE] [--config.data.SETTING=VALUE]

Images and annotations are found and read as in training: COCO, YOLO and Pascal VOC, as Roboflow and others write
them. DIR (the default is `inspection`) gets report.json with all findings (each with its file and ids), objects.png,
and a grid of samples of each split. Only with --decode all pixels are decoded. Without it, damage behind the header of
an image is not found.

The exit code is 1 where there are errors: they stop training, or they make a score wrong. Otherwise it is 0. Warnings
are about what is dealt with: boxes without area are left out, for example.
"""

import contextlib
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from absl import flags
from tqdm.auto import tqdm

from anchordetr_jax import cli
from anchordetr_jax.config import Config
from anchordetr_jax.data.inspection.inspecting import inspect_dataset
from anchordetr_jax.data.inspection.report import (
    counts_by_name,
    describe_findings,
    describe_split,
    draw_samples,
    size_arrays,
    to_dict,
)
from anchordetr_jax.data.mosaic import PIECES
from anchordetr_jax.data.sources.opening import SPLITS
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path, write_json
from anchordetr_jax.pictures.objects import plot_objects

FLAGS = flags.FlagValues()
read_config = cli.define_config(FLAGS, required=False)
OUTPUT = flags.DEFINE_string("output", "inspection", "Folder for the report and the pictures.", flag_values=FLAGS)
DECODE = flags.DEFINE_bool("decode", False, "Decode all pixels, to find all damaged images.", flag_values=FLAGS)
SAMPLES = flags.DEFINE_integer(
    "samples", 12, "Number of images of each split that are drawn.", lower_bound=0, flag_values=FLAGS
)


def main(arguments: list[str]) -> None:
    config = read_config(Config())
    if len(arguments) > 1 or not (arguments or config.data.root):
        raise UserError("Give one folder: anchordetr inspect ROOT.")
    if arguments:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=arguments[0]))
    if config.data.source in ("tfds", "folder"):
        raise UserError(f"Only data sets in files can be inspected, not data.source={config.data.source!r}.")
    inspection = inspect_dataset(
        config.data,
        decode=DECODE.value,
        evaluated=config.train.evaluate_every > 0,
        ask=show_progress,
        pieces=PIECES if config.augment.mosaic_probability else 1,
    )
    output = stored_path(OUTPUT.value)
    for split in SPLITS:
        with contextlib.suppress(OSError):  # Whatever is wrong there, writing says it.
            (output / f"samples_{split}.png").unlink()  # Of an earlier inspection.
    for found in inspection.splits:
        print(describe_split(found), end="\n\n")
        if SAMPLES.value:
            draw_samples(found, output / f"samples_{found.split}.png", count=SAMPLES.value)
    write_json(output / "report.json", to_dict(inspection), indent=1)
    plot_objects(
        {found.split: size_arrays(found) for found in inspection.splits},
        {found.split: counts_by_name(found) for found in inspection.splits},
        output / "objects.png",
    )
    print(*inspection.remarks, describe_findings(inspection.findings, output / "report.json"), sep="\n")
    print(f"\nReport and pictures are in {output}.")
    errors = sum(finding.severity == "error" for finding in inspection.findings)
    if errors:
        what = "1 error stops training or makes" if errors == 1 else f"{errors} errors stop training or make"
        raise UserError(f"{what} scores wrong; see above and {output / 'report.json'}.")


def show_progress(values: Iterable[Any], total: int, title: str) -> Iterable[Any]:
    return tqdm(values, title, total, unit="image", file=sys.stderr, delay=0.5, leave=False)


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, text=__doc__)
