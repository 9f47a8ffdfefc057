"""Measures this package, and the official code beside it, in one run. Prints tables and ratios.

anchordetr benchmark model    [--official REPO]   forward pass
anchordetr benchmark train    [--official REPO]   forward pass, matching, losses, gradients and update
anchordetr benchmark matching                     on the host and on the device, by the number of objects
anchordetr benchmark data     [--official REPO]   images per second, by the number of workers
anchordetr benchmark compile                      time to trace, to compile, and to load from JAX's cache
anchordetr benchmark memory   [--training]        row-column and standard attention, by the size of the image

REPO is a checkout of the official code, which runs in a process of its own. The programs take turns, so if the machine
slows down, it slows all of them down; ratios are ratios of medians. --output DIR writes the table as JSON, with
hardware, versions, date and command, and draws it.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from anchordetr_jax import cli
from anchordetr_jax.benchmark.compiling import measure_compilation
from anchordetr_jax.benchmark.inputs import measured_config
from anchordetr_jax.benchmark.loading import compare_loaders
from anchordetr_jax.benchmark.machine import surroundings
from anchordetr_jax.benchmark.matching import compare_backends
from anchordetr_jax.benchmark.memory import compare_attention, plot_attention
from anchordetr_jax.benchmark.plots import plot_bars
from anchordetr_jax.benchmark.speed import COMPILED, COMPILED_MIXED, EAGER, MIXED, SpeedTrial, measure_speed
from anchordetr_jax.benchmark.tables import Row, table, write


def main(arguments: Sequence[str]) -> None:
    options = parser().parse_args(arguments)
    cli.prepare_computation(keep_compiled=False)
    lines = surroundings()
    print(f"{lines['device']}; " + ", ".join(f"{name} {version}" for name, version in lines["versions"].items()))
    options.measure(options)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(
        prog="anchordetr benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = whole.add_subparsers(required=True, metavar="model | train | matching | data | compile | memory")
    for name, measure in MEASURES.items():
        part = parts.add_parser(name)
        part.set_defaults(measure=measure, name=name)
        part.add_argument("--output", type=Path, metavar="DIR", help="folder for the table as JSON and as a plot")
        part.add_argument("--rounds", type=int, default=7, help="timed runs of each program (7)")
        if name in ("model", "train", "data"):
            part.add_argument("--official", metavar="REPO", default="", help="a checkout of the official code")
        if name in ("model", "train", "compile"):
            default = (800, 1066) if name == "model" else (512, 672)
            part.add_argument("--shape", type=cli.parse_shape, default=default, metavar="HxW", help="of the images")
            part.add_argument("--batch", type=int, default=1, help="images (1)")
            part.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
            part.add_argument("--backend", choices=("host", "device"), default="host", help="of the matcher")
        if name in ("model", "train"):
            part.add_argument("--torch_compile", action="store_true", help="the official code under torch.compile too")
            part.add_argument("--mixed", action="store_true", help="the official code in bfloat16 mixed precision too")
            part.add_argument(
                "--keep_memory", action="store_true", help="the official code's process keeps freed memory too"
            )
            part.add_argument("--peak_tflops", type=float, default=0.0, help="of the hardware (that of one product)")
        if name in ("model", "train", "compile", "memory"):
            part.add_argument("--backbone", choices=("resnet50", "resnet101"), default="resnet50")
            part.add_argument("--dilation", action=argparse.BooleanOptionalAction, default=True, help="DC5 or C5")
        if name == "memory":
            part.add_argument("--training", action="store_true", help="a training step instead of a forward pass")
            part.add_argument(
                "--shapes",
                type=cli.parse_shape,
                nargs="+",
                metavar="HxW",
                default=[(s, s) for s in (256, 512, 768, 1024)],
            )
        if name == "data":
            part.add_argument("--root", default="", help="a COCO folder (one with drawn shapes of 640x480 pixels)")
            part.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
            part.add_argument("--batch", type=int, default=8, help="images (8)")
            part.add_argument("--step_seconds", type=float, default=0.5, help="length of a step that may wait (0.5)")
    return whole


def model_or_train(options: argparse.Namespace) -> None:
    ways = [EAGER]
    ways += [COMPILED] if options.torch_compile else []
    ways += [MIXED] if options.mixed else []
    ways += [COMPILED_MIXED] if options.torch_compile and options.mixed else []
    trial = SpeedTrial(
        config=measured_config(backbone=options.backbone, dilation=options.dilation, backend=options.backend),
        what="train" if options.name == "train" else "forward",
        images=options.batch,
        shape=options.shape,
        dtypes=options.dtype,
        rounds=options.rounds,
        official=options.official,
        ways=ways,
        keep_memory=options.keep_memory,
        peak_flops=options.peak_tflops * 1e12,
    )
    rows, notes = measure_speed(trial)
    finish(options, rows, "images per second", notes)


def matching(options: argparse.Namespace) -> None:
    finish(options, compare_backends(rounds=options.rounds), "host / device")


def data(options: argparse.Namespace) -> None:
    rows = compare_loaders(
        root=options.root,
        official=options.official,
        batch_size=options.batch,
        workers=options.workers,
        step_seconds=options.step_seconds,
        rounds=options.rounds,
    )
    finish(options, rows, "images per second")


def compilation(options: argparse.Namespace) -> None:
    config = measured_config(backbone=options.backbone, dilation=options.dilation, backend=options.backend)
    rows = measure_compilation(config, batch_size=options.batch, image_shape=options.shape)
    calls_host = options.backend == "host"
    note = "JAX caches no program that calls the host; it does cache one with matcher.backend='device'."
    finish(options, rows, "compiled or loaded in, s", [note] if calls_host else [])


def memory(options: argparse.Namespace) -> None:
    config = measured_config(backbone=options.backbone, dilation=options.dilation)
    rows = compare_attention(config, options.shapes, training=options.training)
    finish(options, rows, None)
    if options.output:
        path = options.output / f"memory{'_training' if options.training else ''}.png"
        plot_attention(path, rows, options.shapes, training=options.training)


def finish(options: argparse.Namespace, rows: Sequence[Row], plotted: str | None, notes: Sequence[str] = ()) -> None:
    """Prints the table and its notes, and writes the table to the folder that --output names."""
    print(table(rows), *notes, sep="\n")
    if options.output:
        write(options.output, options.name, rows)
        if plotted is not None:
            plot_bars(options.output / f"{options.name}.png", rows, plotted)


MEASURES = {
    "model": model_or_train,
    "train": model_or_train,
    "matching": matching,
    "data": data,
    "compile": compilation,
    "memory": memory,
}


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.exit_status(lambda: main(arguments))
