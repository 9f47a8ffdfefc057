"""The command line of the drawn data set."""

import argparse
from collections.abc import Sequence

from anchordetr_jax.data.shapes.outlines import CLASSES, FIRST_CLASSES, SECOND_CLASSES
from anchordetr_jax.data.shapes.settings import ShapesConfig
from anchordetr_jax.data.shapes.writing import write_shapes_dataset
from anchordetr_jax.devices import processors
from anchordetr_jax.errors import UserError


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the data set that the command line describes. Raises `UserError` where it makes no sense."""
    defaults = ShapesConfig()
    parser = argparse.ArgumentParser(
        prog="anchordetr shapes",
        description="Draw a COCO-format data set of shapes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--train", type=int, default=2000, help="training images")
    parser.add_argument("--val", type=int, default=200, help="validation images")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other images")
    parser.add_argument(
        "--classes", nargs="+", default=["first"], help=f"first, second, or some of: {', '.join(CLASSES)}"
    )
    parser.add_argument(
        "--short-side",
        nargs=2,
        type=int,
        default=list(defaults.short_side),
        metavar=("MIN", "MAX"),
        help="range of the short side of an image, in pixels",
    )
    parser.add_argument("--max-side", type=int, default=defaults.max_side, help="longest side of an image, in pixels")
    parser.add_argument(
        "--object-size",
        nargs=2,
        type=float,
        default=list(defaults.object_size),
        metavar=("MIN", "MAX"),
        help="length of an object, as a share of the short side",
    )
    parser.add_argument("--max-objects", type=int, default=defaults.max_objects, help="most objects of one image")
    parser.add_argument(
        "--hue-by-class",
        type=float,
        default=defaults.hue_by_class,
        help="probability that an object has the hue of its class",
    )
    parser.add_argument("--processes", type=int, default=processors(), help="number of processes that draw")
    options = parser.parse_args(arguments)
    for flag, least in (("train", 1), ("val", 1), ("processes", 1), ("seed", 0)):
        if getattr(options, flag) < least:
            raise UserError(f"--{flag} must be at least {least}, not {getattr(options, flag)}.")
    groups = {"first": FIRST_CLASSES, "second": SECOND_CLASSES}
    config = ShapesConfig(
        classes=tuple(name for choice in options.classes for name in groups.get(choice, (choice,))),
        short_side=tuple(options.short_side),
        max_side=options.max_side,
        object_size=tuple(options.object_size),
        max_objects=options.max_objects,
        hue_by_class=options.hue_by_class,
    )
    write_shapes_dataset(
        options.out,
        seed=options.seed,
        train_images=options.train,
        val_images=options.val,
        config=config,
        processes=options.processes,
    )
