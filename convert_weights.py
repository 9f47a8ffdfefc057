"""Official PyTorch weights to checkpoints of this project, and back. No PyTorch is needed.

python convert_weights.py import FILE OUT_DIR      .pth or .safetensors, of the official code or a torchvision ResNet
python convert_weights.py export CHECKPOINT FILE.pth
python convert_weights.py inspect FILE
python convert_weights.py rescue WORKDIR           completes checkpoints that older versions left incomplete
"""

import argparse
import os
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing is computed, so no accelerator is occupied

from absl import logging

from anchordetr_jax import cli
from anchordetr_jax.checkpoints.rescue import rescue
from anchordetr_jax.weights.class_outputs import OFFICIAL_OUTPUTS
from anchordetr_jax.weights.convert import describe_file, describe_weights, export_weights, import_weights


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    logging.set_verbosity(logging.WARNING)  # Orbax tells much about every checkpoint
    options.run(options)


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = result.add_subparsers(required=True, metavar="COMMAND")

    reads = argparse.ArgumentParser(add_help=False)
    reads.add_argument("file", metavar="FILE", help="a .pth or .safetensors file")
    reads.add_argument(
        "--dilation",
        action=argparse.BooleanOptionalAction,
        help="a DC5 model; --no-dilation: a C5 model (their tensors look the same; needed where the file does not say)",
    )
    reads.add_argument("--anchors", type=int, metavar="N", help="anchors of a grid, where the file does not say")
    reads.add_argument(
        "--annotations", metavar="FILE.json", help="COCO-format annotations whose category ids the class outputs are"
    )

    imports = commands.add_parser("import", parents=[reads], help="make a checkpoint of a weight file")
    imports.add_argument("out", metavar="OUT_DIR", help="folder of the checkpoint")
    imports.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is there")
    imports.set_defaults(run=run_import)

    exports = commands.add_parser("export", help="make a weight file, for the official code, of a checkpoint")
    exports.add_argument("checkpoint", metavar="CHECKPOINT", help="a run's workdir, or one checkpoint")
    exports.add_argument("file", metavar="FILE.pth")
    exports.add_argument(
        "--class-outputs", type=int, default=OFFICIAL_OUTPUTS, metavar="N", help="class outputs of the file (91)"
    )
    exports.add_argument("--annotations", metavar="FILE.json", help="categories, where the checkpoint has no names")
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
    weights = import_weights(
        options.file,
        options.out,
        overwrite=options.overwrite,
        dilation=options.dilation,
        num_anchors=options.anchors,
        annotations=options.annotations,
    )
    print("\n".join([describe_weights(weights), *weights.remarks, f"The checkpoint is in {options.out}."]))


def run_export(options: argparse.Namespace) -> None:
    remarks = export_weights(
        options.checkpoint, options.file, outputs=options.class_outputs, annotations=options.annotations
    )
    print("\n".join([f"The weights are in {options.file}.", *remarks]))


def run_rescue(options: argparse.Namespace) -> None:
    print("\n".join(rescue(options.path)))


def run_inspect(options: argparse.Namespace) -> None:
    print(
        describe_file(
            options.file, dilation=options.dilation, num_anchors=options.anchors, annotations=options.annotations
        )
    )


if __name__ == "__main__":
    sys.exit(cli.exit_status(main))
