"""Draws the curves of several runs into one picture: training loss, AP, AP50 and learning rate.

anchordetr plot RUN… [--output runs.png]

RUN is the workdir of a finished or running run, or its metrics.jsonl.
"""

import os
import sys
from collections.abc import Sequence

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.checkpoints.run_metrics import METRICS_FILE, read_metrics
from anchordetr_jax.errors import UserError
from anchordetr_jax.pictures.curves import plot_runs

FLAGS = flags.FlagValues()
OUTPUT = flags.DEFINE_string("output", "runs.png", "PNG file.", flag_values=FLAGS)


def main(arguments: list[str]) -> None:
    if not arguments:
        raise UserError("Give one or more runs: anchordetr plot RUN…")
    if not OUTPUT.value.lower().endswith(".png"):
        raise UserError(f"--output must end in .png, not be {OUTPUT.value!r}: the picture is a PNG file.")
    files = [
        argument if argument.endswith(".jsonl") else os.path.join(argument, METRICS_FILE) for argument in arguments
    ]
    runs = {name: read_metrics(file) for name, file in zip(names_of(files), files, strict=True)}
    empty = [f"{file} has no metrics yet" for file, entries in zip(files, runs.values(), strict=True) if not entries]
    if len(empty) == len(files):
        raise UserError(f"{'; '.join(empty)}: there is nothing to draw. Train for some steps first.")
    for problem in empty:
        print(f"{problem}: this run is not in the picture.", file=sys.stderr)
    plot_runs(runs, OUTPUT.value)
    print(f"The curves are in {OUTPUT.value}.")


def names_of(files: Sequence[str]) -> list[str]:
    """A name for each run: the last folders of its path, as many as are needed to distinguish it from the others."""
    paths = [os.path.abspath(file).split(os.sep)[:-1] or [file] for file in files]
    for length in range(1, max(map(len, paths)) + 1):
        names = ["/".join(path[-length:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {'/'.join(path[-1:])}" for number, path in enumerate(paths, start=1)]


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, text=__doc__)
