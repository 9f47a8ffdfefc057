"""Converts weights between this project, the official PyTorch code, detrex and Hugging Face. No PyTorch is needed.

anchordetr convert import NAME OUT_DIR                   makes a checkpoint
anchordetr convert export NAME FILE.pth                  for the official code; --form detrex: for detrex
anchordetr convert export NAME FOLDER --form pretrained  for Detector.from_pretrained, with a model card
anchordetr convert export NAME hf://ORGANISATION/MODEL   the same on the Hugging Face Hub
anchordetr convert inspect FILE                          says what is in a weight file
anchordetr convert rescue WORKDIR                        completes checkpoints of older versions

NAME is a weight file (.pth or .safetensors, of the official code, detrex or a torchvision ResNet; FILE#ENTRY where a
file has several sets of weights), a run's workdir, a checkpoint, a folder of save_pretrained, hf://ORGANISATION/MODEL,
or a published model such as anchordetr-r50-dc5.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # Nothing is computed, so no accelerator is occupied.

from absl import logging

from anchordetr_jax.checkpoints.rescue import rescue
from anchordetr_jax.errors import UserError, exit_status
from anchordetr_jax.prediction.run_folder import better_checkpoint
from anchordetr_jax.weights.convert import describe_file, describe_weights, export_weights, import_weights
from anchordetr_jax.weights.hub import SCHEME
from anchordetr_jax.weights.pretrained import open_pretrained
from anchordetr_jax.weights.saving import CardFacts, facts_of, push_detector, save_detector, saved_detector

FORMS = ("official", "detrex", "pretrained")


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    logging.set_verbosity(logging.WARNING)  # Orbax logs much about every checkpoint.
    options.run(options)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="anchordetr convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = result.add_subparsers(required=True, metavar="COMMAND")

    reads = argparse.ArgumentParser(add_help=False)
    reads.add_argument("name", metavar="NAME", help="weights, see above")
    reads.add_argument(
        "--dilation",
        action=argparse.BooleanOptionalAction,
        help="a DC5 model; --no-dilation: a C5 model (needed where a file does not say it; the tensors look the same)",
    )
    reads.add_argument("--anchors", type=int, metavar="N", help="anchors of a grid, where the file does not say it")
    reads.add_argument(
        "--annotations", metavar="FILE.json", help="COCO-format annotations whose categories are the detector's classes"
    )

    imports = commands.add_parser("import", parents=[reads], help="make a checkpoint")
    imports.add_argument("out", metavar="OUT_DIR", help="folder of the checkpoint")
    imports.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint")
    imports.set_defaults(run=run_import)

    exports = commands.add_parser("export", help="make a file for the official code or detrex, or a folder for the Hub")
    exports.add_argument("name", metavar="NAME", help="weights, see above")
    exports.add_argument("target", metavar="TARGET", help=f"file, folder, or {SCHEME}ORGANISATION/MODEL")
    exports.add_argument("--form", choices=FORMS, help="official (the default), detrex, or pretrained")
    exports.add_argument(
        "--class-outputs", type=int, metavar="N", help="class outputs of the file (91 in the official form)"
    )
    exports.add_argument("--annotations", metavar="FILE.json", help="categories, where the checkpoint has no names")
    exports.add_argument("--license", help="for the model card: its license, such as apache-2.0")
    exports.add_argument("--data", metavar="NAME", help="for the model card: the data set that it was trained on")
    exports.add_argument(
        "--scores",
        metavar="FILE.json",
        help="for the model card: scores that anchordetr evaluate wrote; else the run's own",
    )
    exports.add_argument("--private", action="store_true", help="make a new repository on the Hub private")
    exports.set_defaults(run=run_export)

    inspects = commands.add_parser("inspect", parents=[reads], help="say what is in a weight file")
    inspects.set_defaults(run=run_inspect)

    rescues = commands.add_parser(
        "rescue",
        help="complete checkpoints that older versions left incomplete",
        description="Older versions did not finish a checkpoint if its path held [, * or ?. This command finishes it.",
    )
    rescues.add_argument("path", metavar="WORKDIR", help="a run's workdir, or one checkpoint")
    rescues.set_defaults(run=run_rescue)
    return result


def run_import(options: argparse.Namespace) -> None:
    found = import_weights(
        options.name,
        options.out,
        overwrite=options.overwrite,
        dilation=options.dilation,
        num_anchors=options.anchors,
        annotations=options.annotations,
    )
    print("\n".join([describe_weights(found), *found.remarks, f"The checkpoint is in {options.out}."]))


def run_export(options: argparse.Namespace) -> None:
    if not options.name.startswith(SCHEME) and (remark := better_checkpoint(options.name)):
        print(f"Note: {remark}", file=sys.stderr)
    to_hub = options.target.startswith(SCHEME)
    if options.form == "pretrained" or (to_hub and options.form is None):
        export_pretrained(options)
        return
    if to_hub:
        raise UserError(f"{options.target} takes a detector with --form pretrained: leave --form out.")
    unused = [flag for flag in ("license", "data", "scores", "private") if getattr(options, flag)]
    if unused:
        raise UserError(f"--{unused[0]} is for --form pretrained, which has a model card: leave it out.")
    remarks = export_weights(
        options.name,
        options.target,
        form=options.form or "official",
        outputs=options.class_outputs,
        annotations=options.annotations,
    )
    print("\n".join([f"The weights are in {options.target}.", *remarks]))


def export_pretrained(options: argparse.Namespace) -> None:
    """Writes the folder of a detector, or pushes it to the Hub."""
    for flag in ("annotations", "class_outputs"):
        if getattr(options, flag) is not None:
            raise UserError(f"--{flag.replace('_', '-')} is for weight files: import the weights with it first.")
    if options.private and not options.target.startswith(SCHEME):
        raise UserError(f"--private is for a repository on the Hub, and {options.target} is a folder: leave it out.")
    found = open_pretrained(options.name)
    scores = read_scores(options.scores) if options.scores else None
    facts = CardFacts(license=options.license, data=options.data, scores=scores).completed(facts_of(found))
    if options.target.startswith(SCHEME):
        where = push_detector(options.target, saved_detector(found), facts, private=options.private or None)
        print(f"The detector is at {where}.")
        return
    save_detector(options.target, saved_detector(found), facts)
    print(f"The detector is in {options.target}: Detector.from_pretrained({options.target!r}) loads it.")


def read_scores(path: str) -> dict[str, float]:
    """Scores by name from a JSON file that anchordetr evaluate wrote."""
    try:
        content = json.loads(Path(path).read_text())
        return {name: value for name, value in content.items() if isinstance(value, float)}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path} has no scores that can be read ({error}): give a file of anchordetr evaluate."
        ) from None


def run_rescue(options: argparse.Namespace) -> None:
    print("\n".join(rescue(options.path)))


def run_inspect(options: argparse.Namespace) -> None:
    print(
        describe_file(
            options.name, dilation=options.dilation, num_anchors=options.anchors, annotations=options.annotations
        )
    )


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return exit_status(lambda: main(arguments))
