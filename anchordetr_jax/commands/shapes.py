"""Draws a data set of shapes in COCO's format: anchordetr shapes FOLDER [--train N] [--val N] …"""

from collections.abc import Sequence

from anchordetr_jax.data.shapes.command import main
from anchordetr_jax.errors import exit_status


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return exit_status(lambda: main(arguments))
