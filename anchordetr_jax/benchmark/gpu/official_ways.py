"""The official code's forward pass and training step, eager, under AMP, under torch.compile, and both.

It runs in a process of its own, after ours has ended, so each has the whole GPU.
"""

from pathlib import Path
from typing import Any, Literal

from anchordetr_jax.benchmark.gpu import forward, training_step
from anchordetr_jax.benchmark.gpu.cells import time_runs, timing_row
from anchordetr_jax.benchmark.gpu.networks import cell_config
from anchordetr_jax.benchmark.gpu.results import Results
from anchordetr_jax.benchmark.gpu.settings import Cell, Settings
from anchordetr_jax.benchmark.inputs import normalised_images, random_batch
from anchordetr_jax.benchmark.official import Inputs
from anchordetr_jax.benchmark.official_process import OfficialProcess
from anchordetr_jax.benchmark.plots import plot_bars
from anchordetr_jax.benchmark.speed import COMPILED, COMPILED_MIXED, EAGER, MIXED, Way
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_state_dict

WAYS = {
    EAGER: "official, eager",
    MIXED: "official, AMP",
    COMPILED: "official, torch.compile",
    COMPILED_MIXED: "official, torch.compile and AMP",
}
"""In the order of worth, with their names in the tables."""
LARGEST = "official, the largest batch that fits"
USABLE = 0.92
TRIES = 3

What = Literal["forward", "train"]


def measure_forward(settings: Settings, results: Results, ours: dict[str, Any]) -> None:
    """Every workload of part b in every way. `ours`: the results of part b."""
    _measure(settings, results, "forward", settings.sizes.forward, ours)
    _draw(settings, results, forward.TITLE, forward.PICTURE, ours)


def measure_train(settings: Settings, results: Results, ours: dict[str, Any]) -> None:
    """As `measure_forward` for part c, and the largest batch under AMP."""
    _measure(settings, results, "train", settings.sizes.train, ours)
    _draw(settings, results, training_step.TITLE, training_step.PICTURE, ours)


def _measure(settings: Settings, results: Results, what: What, cells: tuple[Cell, ...], ours: dict[str, Any]) -> None:
    workloads = list({cell.workload: cell for cell in cells}.values())
    largest = what == "train"
    planned = [f"{WAYS[way]}, {cell.workload}" for cell in workloads for way in WAYS]
    results.plan(planned + [LARGEST] * largest)
    rows: list[dict[str, str | float | None]] = []
    # The process starts with the first inputs; its first request imports PyTorch and the official code.
    with OfficialProcess(settings.official, _inputs(settings, workloads[0])) as official:
        for cell in workloads:
            inputs = _inputs(settings, cell)
            for way in WAYS:
                with results.measuring(f"{WAYS[way]}, {cell.workload}"):
                    rows.append(_row(settings, official, what, cell, way, inputs, ours))
                    results.table(_title(what), rows)
                    results.figure(f"{what}: {WAYS[way]}, {cell.workload}", float(rows[-1]["latency, ms"] or 0) / 1e3)
                    if rows[-1].get("peak memory, MB"):
                        peak = float(rows[-1]["peak memory, MB"] or 0) * 1e6
                        results.figure(f"{what}: {WAYS[way]}, {cell.workload}: peak bytes", peak)
        if largest:
            with results.measuring(LARGEST):
                rows.append(_largest(settings, results, official, workloads[0], ours))
                results.table(_title(what), rows)
    results.note(
        "The official code without AMP computes in float32; PyTorch lets its convolutions use TF32, which ours do not."
    )


def _title(what: What) -> str:
    return f"{forward.TITLE if what == 'forward' else training_step.TITLE} of the official code"


def _inputs(settings: Settings, cell: Cell) -> Inputs:
    config = cell_config(settings, cell.network)
    batch, targets = random_batch(cell.images, cell.shape)
    return Inputs(config, synthetic_state_dict(official_shapes(config.model), 0), normalised_images(batch), targets)


def _row(
    settings: Settings,
    official: OfficialProcess,
    what: What,
    cell: Cell,
    way: Way,
    inputs: Inputs,
    ours: dict[str, Any],
) -> dict[str, str | float | None]:
    official.use(inputs)
    run = official.program(what, compiled=way.compiled, mixed=way.mixed)
    run()
    run()
    timing = time_runs(run, settings.sizes)
    row = timing_row(f"{WAYS[way]}, {cell.workload}", timing, cell.images)
    peak = official.peak_bytes()
    if what == "train" and peak is not None:
        row["peak memory, MB"] = peak / 1e6
    for dtype in ("bfloat16", "float32"):
        latency = ours.get("figures", {}).get(f"{what}: {cell.workload}, {dtype}: latency")
        row[f"ours in {dtype} is faster by"] = None if latency is None else f"{timing.latency / latency:.2f}x"
    return row


def _largest(
    settings: Settings, results: Results, official: OfficialProcess, cell: Cell, ours: dict[str, Any]
) -> dict[str, str | float | None]:
    """The training step under AMP with the largest batch, predicted from the peak memory of two batches."""

    def peak(images: int) -> int:
        official.use(_inputs(settings, cell._replace(images=images)))
        run = official.program("train", compiled=False, mixed=True)
        run()
        run()
        return official.peak_bytes() or 0

    base, double = peak(cell.images), peak(2 * cell.images)
    limit = official.memory_bytes()
    usable = double if limit is None else int(limit * USABLE)
    images = cell.images * max(1, 1 + (usable - base) // max(double - base, 1))
    for number in range(TRIES):
        larger = cell._replace(images=images)
        try:
            return _row(settings, official, "train", larger, MIXED, _inputs(settings, larger), ours)
        except UserError:
            if number == TRIES - 1:
                raise
            results.note(f"A batch of {images} images does not fit with the official code.")
            images = max(cell.images, images - max(1, images // (8 * cell.images)) * cell.images)
    raise AssertionError("The loop returns or raises.")


def _draw(settings: Settings, results: Results, title: str, picture: str, ours: dict[str, Any]) -> None:
    """Draws the picture again, with the official code's rows below ours."""
    of_ours = [row for table in ours.get("tables", []) if table["title"] == title for row in table["rows"]]
    of_official = [row for table in results.content["tables"] for row in table["rows"]]
    plot_bars(Path(settings.output) / picture, [*of_ours, *of_official], "images per second")
    results.picture(picture)
