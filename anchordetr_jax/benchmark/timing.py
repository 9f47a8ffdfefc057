"""Times of several programs, taken in turn, so that whatever slows the machine slows all of them."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm


class Contestant(NamedTuple):
    """A program to be timed."""

    name: str
    run: Callable[[], Any]
    """Does the work once, and returns when it is done."""


def alternate(contestants: Sequence[Contestant], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each run, by name: every round runs each contestant once, and the next round begins with another.

    Args:
        contestants: what to run.
        rounds: timed runs of each.
        warmup: runs of each that are not timed (the first may compile).
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    total = (rounds + warmup) * len(contestants)
    with tqdm(total=total, desc="timing", leave=False) as progress:
        for number in range(warmup + rounds):
            first = number % len(contestants)
            for contestant in (*contestants[first:], *contestants[:first]):
                start = time.perf_counter()
                contestant.run()
                if number >= warmup:
                    seconds[contestant.name].append(time.perf_counter() - start)
                progress.update()
    return seconds


def median(seconds: Sequence[float]) -> float:
    """Half of the runs were quicker."""
    return statistics.median(seconds)


def spread(seconds: Sequence[float]) -> float:
    """Half the distance between the quartiles, as a share of the median."""
    if len(seconds) < 2:
        return 0.0
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2 / median(seconds)


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """How many times the median of `to` fits into that of `of`: the speed-up of the second over the first."""
    return median(of) / median(to)
