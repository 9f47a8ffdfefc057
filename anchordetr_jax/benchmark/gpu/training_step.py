"""Part c: the training step, what matching costs in it, XLA flags, and the largest batch that fits."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal
from unittest import mock

import jax
import jax.numpy as jnp

from anchordetr_jax.benchmark.gpu.cells import (
    Timing,
    device_bytes,
    is_out_of_memory,
    needed_bytes,
    program_row,
    time_runs,
)
from anchordetr_jax.benchmark.gpu.flags import FLAGS, CompilerOptions
from anchordetr_jax.benchmark.gpu.networks import cell_config
from anchordetr_jax.benchmark.gpu.results import Results
from anchordetr_jax.benchmark.gpu.settings import Cell, Settings
from anchordetr_jax.benchmark.inputs import network_variables, random_batch
from anchordetr_jax.benchmark.plots import plot_bars
from anchordetr_jax.benchmark.programs import Program, product_flops_per_second, train_program
from anchordetr_jax.config import MatcherConfig
from anchordetr_jax.detection.matching import Targets
from anchordetr_jax.training import step as step_module

TITLE, MATCHING_TITLE = "Training step", "What matching costs in the training step"
PICTURE = "training_step.png"
DEVICE, NONE, LARGEST = "matching on the device", "without matching", "the largest batch that fits"
USABLE = 0.92
"""The share of the device's memory that a step may take by the compiler's analysis."""
TRIES = 3


def measure(settings: Settings, results: Results) -> None:
    """The official batch first: only then is the peak of the device's memory that of this step."""
    sizes = settings.sizes
    first, *others = sizes.train
    results.plan(
        [f"training step, {cell.name}" for cell in sizes.train]
        + [f"training step, {name}" for name in (DEVICE, NONE, *sizes.flags)]
        + [LARGEST]
    )
    peaks = {cell.dtype: product_flops_per_second(sizes.product, cell.dtype) for cell in sizes.train}
    rows: list[dict[str, str | float | None]] = []

    def measure_cell(cell: Cell, name: str, program: Program | None = None) -> None:
        program = program or build(settings, cell)
        program.run()
        timing = time_runs(program.run, sizes)
        row = program_row(name, program, timing, cell.images, peaks[cell.dtype])
        rows.append(row)
        results.figure(f"train: {cell.name}: latency", timing.latency)
        results.figure(f"train: {cell.name}: throughput", timing.throughput)
        results.figure(f"train: {cell.name}: needed bytes", needed_bytes(program))
        if len(rows) == 1 and (peak_bytes := device_bytes("peak_bytes_in_use")):
            row["peak memory, MB"] = peak_bytes / 1e6
            results.figure(f"train: {cell.name}: peak bytes", peak_bytes)
        results.table(TITLE, rows)

    with results.measuring(f"training step, {first.name}"):
        measure_cell(first, first.name)
    _measure_matching(settings, results)
    for name in sizes.flags:
        with results.measuring(f"training step, {name}"):
            rows[0][f"latency, ms: {name}"] = _timing(settings, build(settings, first, FLAGS[name])).latency * 1e3
            results.table(TITLE, rows)
    for cell in others:
        with results.measuring(f"training step, {cell.name}"):
            measure_cell(cell, cell.name)
    with results.measuring(LARGEST):
        base = int(results.content["figures"][f"train: {first.name}: needed bytes"])
        images, built = _predicted_batch(settings, first, base)
        for number in range(TRIES):
            largest = first._replace(images=images)
            try:
                measure_cell(largest, f"{largest.name} (largest)", built)
                break
            except jax.errors.JaxRuntimeError as error:
                if not is_out_of_memory(error) or number == TRIES - 1:
                    raise
                built = None
                results.note(f"A batch of {images} images does not fit.")
                images = max(first.images, images - max(1, images // (8 * first.images)) * first.images)
    plot_bars(Path(settings.output) / PICTURE, rows, "images per second")
    results.picture(PICTURE)


def build(
    settings: Settings,
    cell: Cell,
    options: CompilerOptions | None = None,
    backend: Literal["host", "device"] = "host",
) -> Program:
    """The compiled training step of a cell. `backend` solves the matching."""
    config = cell_config(settings, cell.network, cell.dtype)
    config = dataclasses.replace(config, matcher=dataclasses.replace(config.matcher, backend=backend))
    batch, _ = random_batch(cell.images, cell.shape)
    return train_program(config, network_variables(config.model), batch, options=options)


def _measure_matching(settings: Settings, results: Results) -> None:
    """The share of the step that each backend takes: the same step once more with a matching that costs nothing."""
    cell = settings.sizes.train[0]
    latency = {"host": results.content["figures"].get(f"train: {cell.name}: latency")}
    with results.measuring(f"training step, {DEVICE}"):
        latency["device"] = _timing(settings, build(settings, cell, backend="device")).latency
    with results.measuring(f"training step, {NONE}"), _nothing_matched():
        latency["none"] = _timing(settings, build(settings, cell)).latency
    none = latency.get("none")
    rows: list[dict[str, str | float | None]] = []
    for backend, seconds in latency.items():
        row: dict[str, str | float | None] = {
            "matching": backend,
            "step, ms": None if seconds is None else seconds * 1e3,
            "share of the step": None,
        }
        if seconds and none and backend != "none":
            share = max(0.0, 1 - none / seconds)
            row["share of the step"] = f"{share:.1%}"
            results.figure(f"train: matching on the {backend}", share)
        rows.append(row)
    results.table(MATCHING_TITLE, rows)


@contextmanager
def _nothing_matched() -> Iterator[None]:
    """Target number n gets query number n, so the step has no solver."""

    def match(logits: jax.Array, boxes: jax.Array, targets: Targets, config: MatcherConfig) -> jax.Array:
        rows = jnp.arange(targets.boxes.shape[1], dtype=jnp.int32)
        real = jnp.where(rows[None] < targets.num_boxes[:, None], jnp.minimum(rows, boxes.shape[2] - 1)[None], -1)
        return jnp.broadcast_to(real[None], (logits.shape[0], *real.shape))

    with mock.patch.object(step_module, "match", match):
        yield


def _timing(settings: Settings, program: Program) -> Timing:
    program.run()
    return time_runs(program.run, settings.sizes)


def _predicted_batch(settings: Settings, cell: Cell, base: int) -> tuple[int, Program | None]:
    """The largest batch, if memory grows as the compiler says between the cell's batch and twice as many images.

    `base`: bytes that the cell itself needs. A device that names no limit (CPU) is taken to hold exactly two batches.
    With it comes its program, if it had to be compiled for this.
    """
    program = build(settings, cell._replace(images=2 * cell.images))
    double = needed_bytes(program)
    limit = device_bytes("bytes_limit")
    usable = double if limit is None else int(limit * USABLE)
    images = cell.images * max(1, 1 + (usable - base) // max(double - base, 1))
    return images, program if images == 2 * cell.images else None
