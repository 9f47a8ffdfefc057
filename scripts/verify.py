"""Proves on your machine that this detector is the official one, to the last digits. Exits with 1 if it is not.

python scripts/verify.py golden FILE.npz...           against values that the official code has computed
python scripts/verify.py official --repo ANCHORDETR   against the official code itself, run beside ours
python scripts/verify.py roundtrip CHECKPOINT         export and import give back the same bits
python scripts/verify.py evaluation WEIGHTS --repo ANCHORDETR --data COCO_FOLDER
                                                      the official evaluation and ours find the same

Each prints tables: stage, shape, largest and mean absolute difference, the error that the tolerance is about (rel:
relative to each number or norm; scl: to the stage's largest magnitude), tolerance and verdict. See
docs/verification.md.
"""

import argparse
import os
import sys
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # float64, and none of an accelerator's shortcuts, unless asked for

from anchordetr_jax import cli
from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.comparison import Table
from anchordetr_jax.verification.official_evaluation import verify_evaluation
from anchordetr_jax.verification.proofs import Trial, image_files, verify_golden, verify_official, verify_roundtrip
from anchordetr_jax.weights.arguments import config_with
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS
from anchordetr_jax.weights.convert import implied_config
from anchordetr_jax.weights.state_dict_file import read_state_dict

DTYPES = ("float64", "float32")
KERNELS = ("auto", "none", "cpu", "tpu")
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
"""Options of `official`, by the settings that they are."""


def main(arguments: list[str] | None = None) -> bool:
    """Prints the tables; returns whether everything passed."""
    options = parser().parse_args(arguments)
    passed, judged = [], False
    for table in options.run(options):
        print(f"{table}\n", flush=True)
        passed.append(table.passed)
        judged |= any(row.tolerance is not None for row in table.rows)
    agreement = "Everything agrees." if judged else "Differences are reported, not judged."
    print(agreement if all(passed) else "VERIFICATION FAILED.")
    return all(passed)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(required=True, metavar="COMMAND")

    golden = commands.add_parser("golden", help="compare with files of golden values")
    golden.add_argument("files", nargs="+", metavar="FILE.npz")
    golden.add_argument(
        "--dtype", choices=(*DTYPES, "bfloat16"), default="float64", help="what to compute in; bfloat16: not judged"
    )
    golden.add_argument(
        "--kernels",
        choices=KERNELS,
        default="auto",
        help="model.kernels; without a TPU, those of tpu are interpreted",
    )
    golden.set_defaults(run=run_golden)

    official = commands.add_parser("official", help="run a checkout of the official code beside ours")
    official.add_argument("--repo", required=True, metavar="DIR", help="checkout of megvii-research/AnchorDETR")
    official.add_argument("--checkpoint", metavar="FILE", help=".pth or .safetensors; else the weights are synthetic")
    official.add_argument("--images", metavar="DIR", help="photographs; else the images are synthetic")
    official.add_argument("--count", type=int, default=2, help="how many of them (2)")
    official.add_argument("--short-side", type=int, default=256, help="size they are computed at (256)")
    official.add_argument(
        "--sizes", type=image_size, nargs="+", default=Trial.sizes, metavar="HxW", help="if synthetic"
    )
    official.add_argument("--dtype", choices=DTYPES, nargs="+", default=DTYPES, help="(both)")
    official.add_argument("--steps", type=int, default=3, help="optimiser steps (3); 0: no training at all")
    official.add_argument("--seed", type=int, default=0, help="of synthetic weights, images and targets")
    official.add_argument("--backbone", choices=("resnet50", "resnet101"))
    official.add_argument("--dilation", action=argparse.BooleanOptionalAction, help="DC5 or C5")
    official.add_argument("--levels", type=int, choices=(1, 3))
    official.add_argument("--attention", choices=("rcda", "standard"))
    official.add_argument("--spatial-prior", choices=("learned", "grid"))
    for name in ("patterns", "anchors", "encoder-layers", "decoder-layers"):
        official.add_argument(f"--{name}", type=int, metavar="N")
    official.set_defaults(run=run_official)

    roundtrip = commands.add_parser("roundtrip", help="export a checkpoint, import it again, compare every bit")
    roundtrip.add_argument("checkpoint", metavar="CHECKPOINT", help="a run's workdir, or one checkpoint")
    roundtrip.set_defaults(run=lambda options: iter([verify_roundtrip(options.checkpoint)]))

    evaluation = commands.add_parser("evaluation", help="evaluate by the official main.py --eval, and here")
    evaluation.add_argument("weights", metavar="WEIGHTS", help="a checkpoint, or a .pth file of official weights")
    evaluation.add_argument("--repo", required=True, metavar="DIR", help="checkout of megvii-research/AnchorDETR")
    evaluation.add_argument(
        "--data", required=True, metavar="DIR", help="folder with val2017/ and annotations/instances_val2017.json"
    )
    evaluation.add_argument("--count", type=int, default=0, help="how many of its images (all)")
    evaluation.add_argument(
        "--dilation", action=argparse.BooleanOptionalAction, help="DC5 or C5, where a file does not say"
    )
    evaluation.set_defaults(run=run_evaluation)
    return result


def run_golden(options: argparse.Namespace) -> Iterator[Table]:
    for path in options.files:
        yield verify_golden(path, options.dtype, options.kernels)


def run_official(options: argparse.Namespace) -> Iterator[Table]:
    asked = {setting: getattr(options, name) for name, setting in ARCHITECTURE.items()}
    asked = {setting: value for setting, value in asked.items() if value is not None}
    state_dict = None
    if options.checkpoint:
        state_dict, arguments, _ = read_state_dict(options.checkpoint)
        dilation, anchors = asked.pop("model.dilation", None), asked.pop("model.num_anchors", None)
        if asked:
            raise UserError(f"The checkpoint says what {', '.join(asked)} are: leave their flags out.")
        config, _ = implied_config(options.checkpoint, state_dict, arguments, dilation=dilation, num_anchors=anchors)
    else:
        config = config_with(Config(), {"model.num_classes": OFFICIAL_OUTPUTS, **asked})
    trial = Trial(
        config=config,
        state_dict=state_dict,
        photographs=image_files(options.images, options.count) if options.images else (),
        short_side=options.short_side,
        sizes=tuple(options.sizes),
        seed=options.seed,
        steps=options.steps,
    )
    yield from verify_official(options.repo, trial, options.dtype)


def run_evaluation(options: argparse.Namespace) -> Iterator[Table]:
    yield verify_evaluation(options.repo, options.weights, options.data, count=options.count, dilation=options.dilation)


def image_size(text: str) -> tuple[int, int]:
    height, width = cli.parse_shape(text)
    if max(height, width) < 24:
        raise argparse.ArgumentTypeError(f"{text} is too small: the longer side of a synthetic image has at least 24")
    return height, width


if __name__ == "__main__":
    cli.prepare_computation(keep_compiled=False)
    outcome: list[bool] = []
    status = cli.exit_status(lambda: outcome.append(main()))
    sys.exit(status or int(not outcome[0]))
