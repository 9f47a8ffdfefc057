"""Times of several programs that take turns: if the machine slows down, it slows all of them down."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm


class Contestant(NamedTuple):
    """A program to time."""

    name: str
    run: Callable[[], Any]
    """Does the work once and returns when the work is done."""


def alternate(contestants: Sequence[Contestant], *, rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Seconds of each run, by name. Every round runs each contestant once; the next round starts with another one.

    Args:
        contestants: what to run.
        rounds: timed runs of each contestant.
        warmup: runs of each contestant that are not timed (the first run may compile).
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
    """The middle one of the times."""
    return statistics.median(seconds)


def spread(seconds: Sequence[float]) -> float:
    """Half the distance between the quartiles, as a share of the median."""
    if len(seconds) < 2:
        return 0.0
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2 / median(seconds)


def ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median of `of` divided by the median of `to`: the speed-up of the second over the first."""
    return median(of) / median(to)
