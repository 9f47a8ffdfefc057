"""Part b: the forward pass of several networks, and XLA flags for the first of them."""

from pathlib import Path

from anchordetr_jax.benchmark.gpu.cells import program_row, time_runs
from anchordetr_jax.benchmark.gpu.flags import FLAGS
from anchordetr_jax.benchmark.gpu.networks import cell_config
from anchordetr_jax.benchmark.gpu.results import Results
from anchordetr_jax.benchmark.gpu.settings import Cell, Settings
from anchordetr_jax.benchmark.inputs import network_variables, random_batch
from anchordetr_jax.benchmark.plots import plot_bars
from anchordetr_jax.benchmark.programs import CompilerOptions, Program, forward_program, product_flops_per_second

TITLE = "Forward pass"
PICTURE = "forward.png"
FIRST = 5
"""Cells that are measured before XLA flags are tried."""


def measure(settings: Settings, results: Results) -> None:
    """A row for each cell, in the order of worth; flags add columns to the first row."""
    sizes = settings.sizes
    cells, more = sizes.forward[:FIRST], sizes.forward[FIRST:]
    results.plan([cell.name for cell in sizes.forward] + [f"forward pass, {name}" for name in sizes.flags])
    peaks = {
        "bfloat16": product_flops_per_second(sizes.product, "bfloat16"),
        "float32": product_flops_per_second(sizes.product, "float32"),
    }
    results.note(
        f"Peak, measured with one product of {sizes.product} x {sizes.product} matrices: "
        + ", ".join(f"{peak / 1e12:.3g} TFLOP/s in {dtype}" for dtype, peak in peaks.items())
        + "."
    )
    rows: list[dict[str, str | float | None]] = []

    def measure_cell(cell: Cell) -> None:
        program = build(settings, cell)
        program.run()
        timing = time_runs(program.run, sizes)
        rows.append(program_row(cell.name, program, timing, cell.images, peaks[cell.dtype]))
        results.table(TITLE, rows)
        results.figure(f"forward: {cell.name}: latency", timing.latency)
        results.figure(f"forward: {cell.name}: throughput", timing.throughput)

    for cell in cells:
        with results.measuring(cell.name):
            measure_cell(cell)
    for name in sizes.flags:
        with results.measuring(f"forward pass, {name}"):
            program = build(settings, cells[0], FLAGS[name])
            program.run()
            row = next(row for row in rows if row["program"] == cells[0].name)
            row[f"latency, ms: {name}"] = time_runs(program.run, sizes).latency * 1e3
            results.table(TITLE, rows)
    for cell in more:
        with results.measuring(cell.name):
            measure_cell(cell)
    plot_bars(Path(settings.output) / PICTURE, rows, "images per second")
    results.picture(PICTURE)


def build(settings: Settings, cell: Cell, options: CompilerOptions | None = None) -> Program:
    """The compiled forward pass of a cell."""
    config = cell_config(settings, cell.network, cell.dtype)
    batch, _ = random_batch(cell.images, cell.shape)
    return forward_program(config, network_variables(config.model), batch, options=options)
