"""Proves on your machine that this detector is the official one, to the last digits. Exits with 1 if it is not.

anchordetr verify golden FILE.npz...           against values that the official code has computed
anchordetr verify official --repo ANCHORDETR   against the official code itself, run beside ours
anchordetr verify roundtrip CHECKPOINT         export and import give back the same bits
anchordetr verify released [NAME...] --repo ANCHORDETR
                                               the published models, downloaded, in both codes
anchordetr verify detrex --repo DETREX         against detrex's own modules
anchordetr verify evaluation WEIGHTS --repo ANCHORDETR --data COCO_FOLDER
                                               the official evaluation and ours find the same

Each prints tables: stage, shape, largest and mean absolute difference, the error that the tolerance is about (rel:
relative to each number or norm; scl: to the stage's largest magnitude), tolerance and verdict. See
docs/verification.md.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # float64, and none of an accelerator's shortcuts, unless asked for

from anchordetr_jax import cli
from anchordetr_jax.config import Config, ModelConfig, choices
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.comparison import Table
from anchordetr_jax.verification.official_evaluation import verify_evaluation
from anchordetr_jax.verification.proofs import (
    Trial,
    image_files,
    trial_of,
    verify_detrex,
    verify_golden,
    verify_official,
    verify_roundtrip,
)
from anchordetr_jax.weights.architecture import BORDERS
from anchordetr_jax.weights.arguments import config_with
from anchordetr_jax.weights.class_outputs import COCO_OUTPUTS
from anchordetr_jax.weights.correspondence import Form
from anchordetr_jax.weights.locating import ACCEPTED
from anchordetr_jax.weights.published import MODELS

DTYPES = ("float64", "float32")
ARCHITECTURE = {
    "backbone": "model.backbone",
    "dilation": "model.dilation",
    "levels": "model.num_feature_levels",
    "attention": "model.attention",
    "spatial_prior": "model.spatial_prior",
    "patterns": "model.num_patterns",
    "anchors": "model.num_anchors",
    "encoder_layers": "model.encoder_layers",
    "decoder_layers": "model.decoder_layers",
}
"""Options of `official` and `detrex`: the settings that they are."""
RELEASED = tuple(model.name for model in MODELS if model.dilation is not None and model.sources[-1].drive_id)
"""The four models that the official project publishes."""
SIZES = " ".join(f"{height}x{width}" for height, width in Trial.sizes)
PHOTOGRAPHS = 2
"""How many photographs of a folder are taken if nobody says it."""


def main(arguments: Sequence[str] | None = None) -> bool:
    """Prints the tables; returns whether everything passed."""
    options = parser().parse_args(arguments)
    refuse_unused(options)
    passed, judged = [], False
    for table in options.run(options):
        print(f"{table}\n", flush=True)
        passed.append(table.passed)
        judged |= any(row.tolerance is not None for row in table.rows)
    agreement = "Everything agrees." if judged else "Differences are reported, not judged."
    print(agreement if all(passed) else "VERIFICATION FAILED.")
    return all(passed)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="anchordetr verify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = result.add_subparsers(required=True, metavar="COMMAND")

    golden = commands.add_parser("golden", help="compare with files of golden values")
    golden.add_argument("files", nargs="+", metavar="FILE.npz")
    golden.add_argument(
        "--dtype", choices=(*DTYPES, "bfloat16"), default="float64", help="what to compute in; bfloat16: not judged"
    )
    golden.add_argument(
        "--kernels",
        choices=choices(ModelConfig, "kernels"),
        default="auto",
        help="model.kernels; without a TPU, those of tpu are interpreted",
    )
    golden.set_defaults(run=run_golden)

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--images", metavar="DIR", help="photographs; else the images are synthetic")
    shared.add_argument("--count", type=at_least(1), help=f"number of photographs ({PHOTOGRAPHS})")
    shared.add_argument(
        "--short-side", type=at_least(1), help=f"size of photographs for the comparison ({Trial.short_side})"
    )
    shared.add_argument(
        "--sizes", type=image_size, nargs="+", metavar="HxW", help=f"sizes of synthetic images ({SIZES})"
    )
    shared.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES, help="(both)")
    shared.add_argument("--seed", type=at_least(0), default=0, help="of synthetic weights, images and targets")
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("--checkpoint", metavar="NAME", help=f"weights: {ACCEPTED}; else they are synthetic")
    one.add_argument("--backbone", choices=("resnet50", "resnet101"))
    one.add_argument("--dilation", action=argparse.BooleanOptionalAction, help="DC5 or C5")
    one.add_argument("--attention", choices=("rcda", "standard"))
    one.add_argument("--spatial-prior", choices=("learned", "grid"))
    for name in ("patterns", "anchors", "encoder-layers", "decoder-layers"):
        one.add_argument(f"--{name}", type=int, metavar="N")

    official = commands.add_parser(
        "official", parents=[shared, one], help="run a checkout of the official code beside ours"
    )
    official.add_argument("--repo", required=True, metavar="DIR", help="checkout of megvii-research/AnchorDETR")
    official.add_argument("--steps", type=at_least(0), default=3, help="optimiser steps (3); 0: no training at all")
    official.add_argument("--levels", type=int, choices=(1, 3))
    official.set_defaults(run=run_official)

    detrex = commands.add_parser("detrex", parents=[shared, one], help="run a checkout of detrex beside ours")
    detrex.add_argument("--repo", required=True, metavar="DIR", help="checkout of IDEA-Research/detrex")
    detrex.set_defaults(run=run_detrex)

    released = commands.add_parser(
        "released", parents=[shared], help="download the published models and run them in both codes"
    )
    released.add_argument(
        "names", nargs="*", metavar="NAME", help=f"published models or weight files ({', '.join(RELEASED)})"
    )
    released.add_argument("--repo", required=True, metavar="DIR", help="checkout of megvii-research/AnchorDETR")
    released.add_argument(
        "--data", metavar="DIR", help="COCO: also evaluate on val2017/, and compare with the published AP"
    )
    released.add_argument(
        "--data-count", type=at_least(0), default=0, metavar="N", help="its first N images only (all)"
    )
    released.add_argument(
        "--dilation", action=argparse.BooleanOptionalAction, help="DC5 or C5, where a weight file does not say it"
    )
    released.set_defaults(run=run_released)

    roundtrip = commands.add_parser("roundtrip", help="export a checkpoint, import it again, compare every bit")
    roundtrip.add_argument("checkpoint", metavar="CHECKPOINT", help=ACCEPTED)
    roundtrip.set_defaults(run=lambda options: iter([verify_roundtrip(options.checkpoint)]))

    evaluation = commands.add_parser("evaluation", help="evaluate by the official main.py --eval, and here")
    evaluation.add_argument("weights", metavar="WEIGHTS", help=ACCEPTED)
    evaluation.add_argument("--repo", required=True, metavar="DIR", help="checkout of megvii-research/AnchorDETR")
    evaluation.add_argument(
        "--data", required=True, metavar="DIR", help="folder with val2017/ and annotations/instances_val2017.json"
    )
    evaluation.add_argument("--count", type=at_least(0), default=0, help="how many of its images (all)")
    evaluation.add_argument(
        "--dilation", action=argparse.BooleanOptionalAction, help="DC5 or C5, where a file does not say"
    )
    evaluation.set_defaults(run=run_evaluation)
    return result


def refuse_unused(options: argparse.Namespace) -> None:
    """Raises `UserError` for flags about photographs where the images are synthetic, and the other way round."""
    if not hasattr(options, "images"):
        return
    if options.images:
        if options.sizes:
            raise UserError(
                "Only synthetic images have --sizes: leave it out, or --images. Photographs have --short-side."
            )
        return
    unused = [flag for flag, value in (("--count", options.count), ("--short-side", options.short_side)) if value]
    if unused:
        raise UserError(f"Only photographs have {' and '.join(unused)}: add --images DIR, or leave them out.")


def run_golden(options: argparse.Namespace) -> Iterator[Table]:
    for path in options.files:
        yield verify_golden(path, options.dtype, options.kernels)


def run_official(options: argparse.Namespace) -> Iterator[Table]:
    yield from verify_official(options.repo, trial(options, "official", steps=options.steps), options.dtype)


def run_detrex(options: argparse.Namespace) -> Iterator[Table]:
    yield from verify_detrex(options.repo, trial(options, "detrex", steps=0), options.dtype)


def run_released(options: argparse.Namespace) -> Iterator[Table]:
    for name in options.names or RELEASED:
        trial = trial_of(name, dilation=options.dilation)
        print(f"{name}\n", flush=True)
        yield from verify_official(options.repo, with_images(trial, options), options.dtype)
        if options.data:
            count, dilation = options.data_count, options.dilation
            yield verify_evaluation(options.repo, name, options.data, count=count, dilation=dilation)


def trial(options: argparse.Namespace, form: Form, *, steps: int) -> Trial:
    """What is computed: the weights that are named, or synthetic ones of the architecture that is asked for."""
    asked = {setting: getattr(options, name, None) for name, setting in ARCHITECTURE.items()}
    asked = {setting: value for setting, value in asked.items() if value is not None}
    if options.checkpoint:
        dilation, anchors = asked.pop("model.dilation", None), asked.pop("model.num_anchors", None)
        if asked:
            raise UserError(f"The checkpoint says what {', '.join(asked)} are: leave their flags out.")
        result = trial_of(options.checkpoint, form, dilation=dilation, num_anchors=anchors)
    else:
        usual = {"model.num_classes": COCO_OUTPUTS[form], "model.anchor_border": BORDERS[form]}
        result = Trial(config=config_with(Config(), usual | asked))
    return dataclasses.replace(with_images(result, options), steps=steps)


def with_images(trial: Trial, options: argparse.Namespace) -> Trial:
    """The trial on the images that the options ask for, without training."""
    return dataclasses.replace(
        trial,
        photographs=image_files(options.images, options.count or PHOTOGRAPHS) if options.images else (),
        short_side=options.short_side or Trial.short_side,
        sizes=tuple(options.sizes or Trial.sizes),
        seed=options.seed,
        steps=0,
    )


def run_evaluation(options: argparse.Namespace) -> Iterator[Table]:
    yield verify_evaluation(options.repo, options.weights, options.data, count=options.count, dilation=options.dilation)


def at_least(least: int) -> Callable[[str], int]:
    """The type of a flag: a whole number with a lower bound."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"it must be a whole number, at least {least}, not {text!r}")
        return value

    return number


def image_size(text: str) -> tuple[int, int]:
    height, width = cli.parse_shape(text)
    if max(height, width) < 24:
        raise argparse.ArgumentTypeError(f"{text} is too small: the longer side of a synthetic image has at least 24")
    return height, width


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    cli.prepare_computation(keep_compiled=False)
    outcome: list[bool] = []
    status = cli.exit_status(lambda: outcome.append(main(arguments)))
    return status or int(not outcome[0])
