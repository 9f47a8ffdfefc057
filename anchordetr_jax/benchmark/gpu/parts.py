"""The parts of the measurement, and how a process computes one of them."""

import dataclasses
from pathlib import Path

from anchordetr_jax.benchmark.gpu.results import Results, read_results
from anchordetr_jax.benchmark.gpu.settings import Settings


@dataclasses.dataclass(frozen=True)
class Part:
    """One process of the measurement."""

    name: str
    title: str
    share: float
    """Of the whole time. What a part does not use goes to the parts after it."""

    @property
    def letter(self) -> str:
        """What `--only` calls it."""
        return self.name[0]

    @property
    def official(self) -> bool:
        """Whether it measures the official code."""
        return self.name.endswith("-official")


PARTS = (
    Part("a", "Correctness", 0.15),
    Part("b", "Forward pass", 0.20),
    Part("b-official", "Forward pass of the official code", 0.13),
    Part("c", "Training step", 0.17),
    Part("c-official", "Training step of the official code", 0.13),
    Part("e", "Evaluation, from files to numbers", 0.07),
    Part("f", "A real training from nothing", 0.15),
)
"""In the order of worth. Part d, kernels on and off, has no process: there is no kernel for GPUs."""
LETTERS = ("a", "b", "c", "d", "e", "f")


def chosen_parts(settings: Settings) -> list[Part]:
    """The parts that the command line asks for."""
    return [
        part
        for part in PARTS
        if (not settings.only or part.letter in settings.only) and (settings.official or not part.official)
    ]


def run_part(name: str, settings: Settings, work: Path, seconds: float) -> None:
    """Computes a part in this process; its results go to `results_path(work, name)`."""
    results = Results(results_path(work, name), seconds)
    # Each part imports what it needs, and no more: a process starts faster.
    if name == "a":
        from anchordetr_jax.benchmark.gpu import correctness

        correctness.measure(settings, results)
    elif name == "b":
        from anchordetr_jax.benchmark.gpu import forward

        forward.measure(settings, results)
    elif name == "c":
        from anchordetr_jax.benchmark.gpu import training_step

        training_step.measure(settings, results)
    elif name in ("b-official", "c-official"):
        from anchordetr_jax.benchmark.gpu import official_ways

        measure = official_ways.measure_forward if name == "b-official" else official_ways.measure_train
        measure(settings, results, read_results(results_path(work, name[0])))
    elif name == "e":
        from anchordetr_jax.benchmark.gpu import evaluating

        evaluating.measure(settings, results, work)
    else:
        from anchordetr_jax.benchmark.gpu import training_run

        training_run.measure(settings, results, work)


def results_path(work: Path, name: str) -> Path:
    """The file of a part's results."""
    return work / f"{name}.json"
