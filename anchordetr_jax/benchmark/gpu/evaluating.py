"""Part e: an evaluation from image files to COCO's numbers, and what it waits for."""

import contextlib
import dataclasses
import time
from pathlib import Path

import jax
import numpy as np

from anchordetr_jax.benchmark.gpu.cells import time_runs
from anchordetr_jax.benchmark.gpu.networks import cell_config
from anchordetr_jax.benchmark.gpu.results import Results
from anchordetr_jax.benchmark.gpu.settings import Settings
from anchordetr_jax.benchmark.inputs import network_variables
from anchordetr_jax.benchmark.programs import forward_program
from anchordetr_jax.config import AugmentConfig, Config, DataConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.data.loader import eval_batches
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.data.sources.opening import open_source
from anchordetr_jax.devices import processors
from anchordetr_jax.evaluation.evaluate import Evaluator
from anchordetr_jax.kernels.building import definition_of

TITLE = "Evaluation"
WHOLE, READING, NETWORK = "whole evaluation", "reading alone", "network alone"


def measure(settings: Settings, results: Results, work: Path) -> None:
    """The evaluation that `anchordetr evaluate` runs, and its two halves alone. `work`: a folder for data."""
    workers = max(1, processors() // 2)
    by_processes = f"{READING}, {workers} processes"
    with_processes = bool(settings.official) or not settings.rehearse  # They take long to start.
    results.plan([READING, WHOLE, NETWORK] + [by_processes] * with_processes)
    config = _config(settings, work)
    source = open_source(config.data, "val")
    rows: list[dict[str, str | float | None]] = []

    def add(name: str, images: int, seconds: float) -> None:
        rows.append({"stage": name, "images": str(images), "seconds": seconds, "images per second": images / seconds})
        results.table(TITLE, rows)
        results.figure(f"evaluate: {name}", images / seconds)

    with results.measuring(READING):
        batches, seconds = _read_all(source, config)
        add(READING, len(source), seconds)
    with results.measuring(WHOLE):
        model = definition_of(config.model).merge(jax.device_put(network_variables(config.model)))
        evaluator = Evaluator(source, config)
        first = evaluator.run(model, progress=False)
        started = time.perf_counter()
        result = evaluator.run(model, progress=False)
        total = time.perf_counter() - started
        add(f"{WHOLE}, without scores", result.num_images, result.seconds)
        add(f"{WHOLE}, with scores", result.num_images, total)
        results.note(
            f"The first evaluation compiled {first.compilations} shape(s) and took {first.seconds:.1f} s without "
            f"scores. {result.padding:.1%} of the images' pixels are padding."
        )
    with results.measuring(NETWORK):
        largest = max(batches, key=lambda batch: batch.images.size)
        program = forward_program(config, network_variables(config.model), largest)
        program.run()
        timing = time_runs(program.run, settings.sizes)
        add(NETWORK, len(largest.images), timing.throughput)
    _say_what_it_waits_for(results)
    if not with_processes:
        return
    with results.measuring(by_processes):
        data = dataclasses.replace(config.data, num_workers=workers)
        _, seconds = _read_all(source, dataclasses.replace(config, data=data))
        add(by_processes, len(source), seconds)


def _config(settings: Settings, work: Path) -> Config:
    """The network of part b in bfloat16 on the validation images of the data set, or on drawn ones."""
    sizes = settings.sizes
    root = settings.data
    if not root:
        root = str(work / "evaluation")
        side = sizes.eval_short_side * 3 // 5  # 480 for 800, as most images of COCO.
        shapes = ShapesConfig(short_side=(side, side), max_side=side * 4 // 3)
        write_shapes_dataset(
            root, train_images=1, val_images=sizes.eval_images, config=shapes, processes=min(8, processors())
        )
    network = cell_config(settings, "R50-DC5", "bfloat16")
    augment = AugmentConfig(eval_size=sizes.eval_short_side, max_size=sizes.eval_short_side * 5 // 3)
    return dataclasses.replace(network, data=DataConfig(root=root, num_buckets=2), augment=augment)


def _read_all(source: DetectionSource, config: Config) -> tuple[list[Batch], float]:
    """The first and the last batch, and the seconds that all batches take without a network."""
    kept: list[Batch] = []
    started = time.perf_counter()
    with contextlib.closing(eval_batches(source, config)) as batches:
        for batch in batches:
            np.asarray(batch.images).max()  # Touches every pixel, as a copy to the device does.
            kept = [*kept[:1], batch]
    return kept, time.perf_counter() - started


def _say_what_it_waits_for(results: Results) -> None:
    figures = results.content["figures"]
    reading, network = (figures.get(f"evaluate: {name}") for name in (READING, NETWORK))
    if reading and network:
        what = "for the images to be read" if reading < network else "for the network"
        results.note(
            f"The evaluation waits {what}: {reading:.4g} images per second can be read, {network:.4g} can be computed."
        )
