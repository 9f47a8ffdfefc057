"""Timing one program on a device: its latency, its throughput, and its share of the peak."""

from typing import Any, NamedTuple, Protocol

import jax

from anchordetr_jax.benchmark.gpu.settings import Sizes
from anchordetr_jax.benchmark.programs import Program
from anchordetr_jax.benchmark.timing import Contestant, alternate, median, spread


class Timing(NamedTuple):
    """Seconds of one run."""

    latency: float
    """From the call to its result, the median."""
    spread: float
    """Half the distance between the quartiles, as a share of the median."""
    throughput: float
    """Per run, if runs follow each other without waiting for results."""


class Runs(Protocol):
    """Runs a program `times` times and waits for the last result."""

    def __call__(self, times: int = 1) -> Any: ...


def time_runs(run: Runs, sizes: Sizes) -> Timing:
    """Times a program that has run before. It takes about twice `sizes.seconds`, or two runs if these take longer."""
    once = median(alternate([Contestant("", run)], rounds=1)[""])
    rounds = max(2, min(sizes.rounds, int(sizes.seconds / once)))
    seconds = alternate([Contestant("", run)], rounds=rounds, warmup=0)[""]
    together = alternate([Contestant("", lambda: run(rounds))], rounds=1, warmup=0)[""][0]
    return Timing(median(seconds), spread(seconds), min(together / rounds, median(seconds)))


def timing_row(name: str, timing: Timing, images: int) -> dict[str, str | float | None]:
    """A row of a table."""
    return {
        "program": name,
        "latency, ms": timing.latency * 1e3,
        "spread": f"±{timing.spread:.0%}",
        "images per second": images / timing.throughput,
    }


def program_row(name: str, program: Program, timing: Timing, images: int, peak: float) -> dict[str, str | float | None]:
    """A row of a table for one of our programs. `peak` is in FLOP per second."""
    return timing_row(name, timing, images) | {
        "GFLOP per image": program.flops() / images / 1e9,
        "of peak": f"{program.flops() / timing.throughput / peak:.0%}",
        "memory by the compiler, MB": needed_bytes(program) / 1e6,
        "compiled in, s": program.compile_seconds,
    }


def needed_bytes(program: Program) -> int:
    """Arguments and temporaries together, by the compiler's analysis."""
    return program.argument_bytes + program.temporary_bytes


def device_bytes(name: str) -> int | None:
    """A number of JAX's statistics of the first device's memory; None if it keeps none (CPU)."""
    statistics = jax.devices()[0].memory_stats()
    return None if statistics is None else statistics.get(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device's memory did not suffice."""
    return "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower()
