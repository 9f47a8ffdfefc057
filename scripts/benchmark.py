"""Measures this package, and the official code beside it, in one run; prints tables and ratios.

python scripts/benchmark.py model    [--official REPO]   forward pass
python scripts/benchmark.py train    [--official REPO]   forward, matching, losses, gradients and update
python scripts/benchmark.py matching                     host against device, by number of objects
python scripts/benchmark.py data     [--official REPO]   images a second, by number of workers
python scripts/benchmark.py compile                      time to trace, to compile, and to load from JAX's cache
python scripts/benchmark.py memory   [--training]        row-column against standard attention, by size of the image

REPO is a checkout of the official code, which runs in a process of its own. Programs take turns, so that a busy machine
slows all of them; a ratio is one of medians. --output DIR writes the table as JSON, with hardware, versions, date and
command, and draws it.
"""

import argparse
import contextlib
import functools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from anchordetr_jax import cli
from anchordetr_jax.benchmark.loading import Stream, official_stream, our_stream, reading, step_waits
from anchordetr_jax.benchmark.memory import compare_attention
from anchordetr_jax.benchmark.official import Inputs
from anchordetr_jax.benchmark.official_process import OfficialProcess
from anchordetr_jax.benchmark.ours import (
    Program,
    forward_program,
    matching_program,
    product_flops_a_second,
    temporary_bytes,
    train_program,
    with_dtype,
)
from anchordetr_jax.benchmark.planning import lower_train_step
from anchordetr_jax.benchmark.report import Row, plot_bars, plot_lines, surroundings, table, write
from anchordetr_jax.benchmark.timing import Contestant, alternate, median, ratio, spread
from anchordetr_jax.config import AugmentConfig, Config, DataConfig, MatcherConfig, ModelConfig, TrainConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from anchordetr_jax.data.sources.opening import open_source
from anchordetr_jax.detection.matching import Targets
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.errors import UserError
from anchordetr_jax.model.anchor_detr import PIXEL_MEAN, PIXEL_STD
from anchordetr_jax.verification.figures import ImageTargets
from anchordetr_jax.verification.official import OfficialCode
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_state_dict

OBJECTS_AN_IMAGE = 7  # COCO's mean


def main() -> None:
    options = parser().parse_args()
    cli.prepare_computation(keep_compiled=False)
    lines = surroundings()
    print(f"{lines['device']}; " + ", ".join(f"{name} {version}" for name, version in lines["versions"].items()))
    options.measure(options)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = whole.add_subparsers(required=True, metavar="model | train | matching | data | compile | memory")
    for name, measure in MEASURES.items():
        part = parts.add_parser(name)
        part.set_defaults(measure=measure, name=name)
        part.add_argument("--output", type=Path, metavar="DIR", help="write the table there as JSON and as a plot")
        part.add_argument("--rounds", type=int, default=7, help="timed runs of each program (7)")
        if name in ("model", "train", "data"):
            part.add_argument("--official", metavar="REPO", help="a checkout of the official code, to run beside")
        if name in ("model", "train", "compile"):
            default = (800, 1066) if name == "model" else (512, 672)
            part.add_argument("--shape", type=cli.parse_shape, default=default, metavar="HxW", help="of the images")
            part.add_argument("--batch", type=int, default=1, help="images (1)")
            part.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
            part.add_argument("--backend", choices=("host", "device"), default="host", help="of the matcher")
        if name in ("model", "train"):
            part.add_argument("--torch_compile", action="store_true", help="the official code under torch.compile, too")
            part.add_argument("--mixed", action="store_true", help="the official code in bfloat16 mixed precision, too")
            part.add_argument(
                "--keep_memory", action="store_true", help="the official code's process, too, keeps what it frees"
            )
            part.add_argument("--peak_tflops", type=float, help="of the hardware; measured with a product if not given")
        if name in ("model", "train", "compile", "memory"):
            part.add_argument("--backbone", choices=("resnet50", "resnet101"), default="resnet50")
            part.add_argument("--dilation", action=argparse.BooleanOptionalAction, default=True, help="DC5 or C5")
        if name == "memory":
            part.add_argument("--training", action="store_true", help="of a training step, not of the forward pass")
            part.add_argument(
                "--shapes",
                type=cli.parse_shape,
                nargs="+",
                metavar="HxW",
                default=[(s, s) for s in (256, 512, 768, 1024)],
            )
        if name == "data":
            part.add_argument("--root", help="a COCO folder; one with drawn shapes of 640x480 if not given")
            part.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
            part.add_argument("--batch", type=int, default=8, help="images (8)")
            part.add_argument("--step_seconds", type=float, default=0.5, help="how long a step is, to see it wait")
    return whole


def measure_model(options: argparse.Namespace) -> None:
    measure_programs(options, training=False)


def measure_train(options: argparse.Namespace) -> None:
    measure_programs(options, training=True)


def measure_programs(options: argparse.Namespace, *, training: bool) -> None:
    """Forward passes or training steps, ours by dtype and the official code's in its ways."""
    config = model_config(options)
    state_dict = synthetic_state_dict(official_shapes(config.model), seed=0)
    batch, targets = random_batch(options.batch, options.shape)
    build = train_program if training else forward_program
    programs = {dtype: build(with_dtype(config, dtype), state_dict, batch) for dtype in options.dtype}
    contestants = [Contestant(name, program.run) for name, program in programs.items()]
    counted: float | None = None
    with contextlib.ExitStack() as stack:
        if options.official:
            images = ((batch.images / 255 - PIXEL_MEAN) / PIXEL_STD).astype(np.float32)
            inputs = Inputs(config, state_dict, images, targets)
            process = OfficialProcess(options.official, inputs, keep_memory=options.keep_memory)
            official = stack.enter_context(process)
            counted = official.multiply_adds()
            contestants += official_contestants(official, "train" if training else "forward", options)
        seconds = alternate(contestants, rounds=options.rounds, warmup=2)
    peak = options.peak_tflops * 1e12 if options.peak_tflops else product_flops_a_second()
    rows = [program_row(name, seconds, programs.get(name), options.batch, peak) for name in seconds]
    finish(options, rows, "images a second")
    print(f"Peak taken as {peak / 1e12:.3g} TFLOP/s{'' if options.peak_tflops else ', that of one large product'}.")
    if counted is not None:
        print(f"fvcore counts {2 * counted / 1e9:.0f} GFLOP in a forward pass of the official code, an image.")
    for name in programs:
        for other in seconds:
            if other not in programs:
                middles, fastest = ratio(seconds[other], seconds[name]), min(seconds[other]) / min(seconds[name])
                print(f"{name} is {middles:.2f} times as fast as {other} ({fastest:.2f} by the fastest run of each).")


def official_contestants(
    official: OfficialProcess, what: Literal["forward", "train"], options: argparse.Namespace
) -> list[Contestant]:
    """The official code as it is, and in the other ways that are asked for and work here."""
    contestants = [Contestant("official", official.program(what, compiled=False, mixed=False))]
    ways = [("official compiled", True, False)] if options.torch_compile else []
    ways += [("official mixed", False, True)] if options.mixed else []
    ways += [("official compiled, mixed", True, True)] if options.torch_compile and options.mixed else []
    for name, compiled, mixed in ways:
        try:
            run = official.program(what, compiled=compiled, mixed=mixed)
            run()
        except UserError as error:
            print(f"Left out: {name}. {error}")
        else:
            contestants.append(Contestant(name, run))
    return contestants


def program_row(name: str, seconds: dict[str, list[float]], program: Program | None, images: int, peak: float) -> Row:
    """A line of the table."""
    middle = median(seconds[name])
    row: dict[str, str | float | None] = {
        "program": name,
        "ms": middle * 1e3,
        "fastest, ms": min(seconds[name]) * 1e3,
        "spread": f"±{spread(seconds[name]):.0%}",
        "images a second": images / middle,
    }
    if program is not None:
        row |= {
            "GFLOP an image": program.flops / images / 1e9,
            "of peak": f"{program.flops / middle / peak:.0%}",
            "temporaries, MB": program.temporary_bytes / 1e6,
            "compiled in, s": program.compile_seconds,
        }
    return row


def measure_matching(options: argparse.Namespace) -> None:
    """Both backends, by objects an image and decoder layers; 2 images."""
    images, queries, classes = 2, 900, 91
    rng = np.random.default_rng(0)
    rows: list[Row] = []
    for layers in (1, 6):
        logits = rng.normal(-3, 1.5, (layers, images, queries, classes)).astype(np.float32)
        boxes = rng.uniform(0.1, 0.6, (layers, images, queries, 4)).astype(np.float32)
        for objects in (1, 7, 20, 60, 100):
            targets = Targets(
                jax.numpy.asarray(rng.uniform(0.1, 0.6, (images, 100, 4)), np.float32),
                jax.numpy.asarray(rng.integers(1, classes, (images, 100)), np.int32),
                jax.numpy.full(images, objects, np.int32),
            )
            backends: tuple[Any, ...] = ("host", "device")
            programs = {
                name: matching_program(MatcherConfig(backend=name), logits, boxes, targets) for name in backends
            }
            seconds = alternate([Contestant(name, programs[name].run) for name in programs], rounds=options.rounds)
            rows.append(
                {
                    "layers x images x objects": f"{layers} x {images} x {objects}",
                    "host, ms": median(seconds["host"]) * 1e3,
                    "device, ms": median(seconds["device"]) * 1e3,
                    "host / device": ratio(seconds["host"], seconds["device"]),
                }
            )
    finish(options, rows, "host / device")


def measure_data(options: argparse.Namespace) -> None:
    """Loading with augmentation at the official sizes, and whether steps wait for it."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(options.root or folder)
        if options.root is None:
            write_shapes_dataset(
                root, train_images=64, val_images=1, config=ShapesConfig(short_side=(480, 480), max_side=640)
            )
        config = Config(
            data=DataConfig(root=str(root), prefetch=1),
            train=TrainConfig(batch_size=options.batch, epochs=1000),
            augment=AugmentConfig(),
        )
        source = open_source(config.data, "train")
        streams: dict[str, Callable[[], Stream]] = {
            f"{n} workers": functools.partial(our_stream, source, config, n) for n in options.workers
        }
        if options.official:
            code = OfficialCode(options.official)
            images, annotations = str(root / config.data.train_images), str(root / config.data.train_annotations)
            for n in options.workers:
                streams[f"official, {n} workers"] = functools.partial(
                    official_stream, code, images, annotations, options.batch, n
                )
        rows: list[Row] = []
        # One at a time: the workers of others would read ahead meanwhile.
        for name, start in streams.items():
            stream = start()
            stream.take(4)
            seconds = alternate([reading(name, stream, 2)], rounds=options.rounds)[name]
            waits = step_waits(stream, options.step_seconds, 4)
            stream.close()
            rows.append(
                {
                    "reader": name,
                    "images a second": 2 * options.batch / median(seconds),
                    "spread": f"±{spread(seconds):.0%}",
                    f"steps of {options.step_seconds:g} s wait": f"{waits:.0%}",
                }
            )
    finish(options, rows, "images a second")


def measure_compile(options: argparse.Namespace) -> None:
    """Tracing, compiling and loading the train step of one shape."""
    config = model_config(options)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        for run in ("first", "again"):
            jax.clear_caches()
            start, busy = time.perf_counter(), time.process_time()
            lowered = lower_train_step(config, mesh, batch_size=options.batch, image_shape=options.shape, max_boxes=100)
            traced = time.perf_counter()
            compiled = lowered.compile()
            done, processor = time.perf_counter(), time.process_time() - busy
            rows.append(
                {
                    "train step": run,
                    "traced in, s": traced - start,
                    "compiled or loaded in, s": done - traced,
                    "processor time of both, s": processor,
                    "temporaries, MB": temporary_bytes(compiled) / 1e6,
                }
            )
    finish(options, rows, "compiled or loaded in, s")
    if options.backend == "host":
        print("JAX keeps no compiled program that calls the host: matcher.backend='device' is loaded from its cache.")


def measure_memory(options: argparse.Namespace) -> None:
    """Temporaries with either attention."""
    rows = compare_attention(model_config(options), options.shapes, training=options.training)
    finish(options, rows, None)
    if options.output:
        lines = {name: [float(row[f"{name}, MB"] or 0) for row in rows] for name in ("rcda", "standard")}
        cells = [height * width / 256 for height, width in options.shapes]
        what = "a training step" if options.training else "a forward pass"
        path = options.output / f"{options.name}{'_training' if options.training else ''}.png"
        plot_lines(path, cells, lines, "feature cells", f"temporaries of {what}, MB")


def model_config(options: argparse.Namespace) -> Config:
    """The settings that the command line gives, with COCO's 91 class outputs."""
    model = ModelConfig(backbone=options.backbone, dilation=options.dilation, num_classes=91)
    return Config(model=model, matcher=MatcherConfig(backend=getattr(options, "backend", "host")))


def random_batch(images: int, shape: tuple[int, int]) -> tuple[Batch, tuple[ImageTargets, ...]]:
    """Noise with random objects, padded to 100, and the objects alone."""
    rng = np.random.default_rng(0)
    targets = tuple(
        ImageTargets(
            np.concatenate(
                [rng.uniform(0.3, 0.7, (OBJECTS_AN_IMAGE, 2)), rng.uniform(0.1, 0.5, (OBJECTS_AN_IMAGE, 2))], -1
            ),
            rng.integers(1, 91, OBJECTS_AN_IMAGE),
        )
        for _ in range(images)
    )
    boxes, labels = np.zeros((images, 100, 4), np.float32), np.zeros((images, 100), np.int32)
    for i, one in enumerate(targets):
        boxes[i, :OBJECTS_AN_IMAGE], labels[i, :OBJECTS_AN_IMAGE] = one.boxes, one.labels
    sizes = np.tile(np.array(shape, np.int32), (images, 1))
    batch = Batch(
        images=rng.integers(0, 256, (images, *shape, 3), dtype=np.uint8),
        image_sizes=sizes,
        boxes=boxes,
        labels=labels,
        num_boxes=np.full(images, OBJECTS_AN_IMAGE, np.int32),
        rows=np.arange(images, dtype=np.int32),
        valid=np.ones(images, bool),
        original_sizes=sizes,
    )
    return batch, targets


def finish(options: argparse.Namespace, rows: list[Row], plotted: str | None) -> None:
    """Prints the table, and writes it where that is asked for."""
    print(table(rows))
    if options.output:
        write(options.output, options.name, rows)
        if plotted is not None:
            plot_bars(options.output / f"{options.name}.png", rows, plotted)


MEASURES = {
    "model": measure_model,
    "train": measure_train,
    "matching": measure_matching,
    "data": measure_data,
    "compile": measure_compile,
    "memory": measure_memory,
}

if __name__ == "__main__":
    sys.exit(cli.exit_status(main))
