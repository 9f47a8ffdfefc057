"""The forward pass or the training step, by dtype, beside the official code in its different ways."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from anchordetr_jax.benchmark.inputs import normalised_images, random_batch, with_dtype
from anchordetr_jax.benchmark.official import Inputs
from anchordetr_jax.benchmark.official_process import OfficialProcess
from anchordetr_jax.benchmark.programs import Program, forward_program, product_flops_per_second, train_program
from anchordetr_jax.benchmark.tables import Row
from anchordetr_jax.benchmark.timing import Contestant, alternate, median, ratio, spread
from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_state_dict
from anchordetr_jax.weights.state_dict import variables_from_state_dict


class Way(NamedTuple):
    """A way to run the official code."""

    name: str
    compiled: bool
    """Under `torch.compile`."""
    mixed: bool
    """In bfloat16 mixed precision."""


EAGER = Way("official", compiled=False, mixed=False)
COMPILED = Way("official compiled", compiled=True, mixed=False)
MIXED = Way("official mixed", compiled=False, mixed=True)
COMPILED_MIXED = Way("official compiled, mixed", compiled=True, mixed=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeedTrial:
    """What to measure."""

    config: Config
    """`model.num_classes` must be set."""
    what: Literal["forward", "train"]
    images: int
    shape: tuple[int, int]
    """(height, width) of the images, in pixels."""
    dtypes: Sequence[Literal["float32", "bfloat16"]]
    rounds: int
    official: str = ""
    """A checkout of the official code; empty: this package alone."""
    ways: Sequence[Way] = (EAGER,)
    keep_memory: bool = False
    """Whether the official code's process keeps the memory it frees, as this package's commands do."""
    peak_flops: float = 0.0
    """Of the hardware, per second; 0: that of one large product."""


def measure_speed(trial: SpeedTrial) -> tuple[list[Row], list[str]]:
    """A row for each program, and sentences that go with the table.

    Raises:
        UserError: the official code does not run, not even in its plain way.
    """
    state_dict = synthetic_state_dict(official_shapes(trial.config.model), seed=0)
    batch, targets = random_batch(trial.images, trial.shape)
    build = train_program if trial.what == "train" else forward_program
    variables = variables_from_state_dict(state_dict, trial.config.model)
    programs: dict[str, Program] = {
        dtype: build(with_dtype(trial.config, dtype), variables, batch) for dtype in trial.dtypes
    }
    contestants = [Contestant(name, program.run) for name, program in programs.items()]
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        if trial.official:
            inputs = Inputs(trial.config, state_dict, normalised_images(batch), targets)
            process = OfficialProcess(trial.official, inputs, keep_memory=trial.keep_memory)
            official = stack.enter_context(process)
            counted = official.multiply_adds()
            if counted is not None:
                notes.append(f"A forward pass of the official code: {2 * counted / 1e9:.0f} GFLOP per image (fvcore).")
            more, left_out = _official_contestants(official, trial)
            contestants += more
            notes += left_out
        seconds = alternate(contestants, rounds=trial.rounds, warmup=2)
    peak = trial.peak_flops or product_flops_per_second()
    source = "" if trial.peak_flops else ", measured with one large product"
    notes.append(f"The peak is taken as {peak / 1e12:.3g} TFLOP/s{source}.")
    notes += _ratios(seconds, list(programs))
    return [_row(name, seconds[name], programs.get(name), trial.images, peak) for name in seconds], notes


def _official_contestants(official: OfficialProcess, trial: SpeedTrial) -> tuple[list[Contestant], list[str]]:
    """The official code in each way that runs here, and a sentence for each way that does not. The plain way must."""
    contestants, left_out = [], []
    for way in trial.ways:
        try:
            run = official.program(trial.what, compiled=way.compiled, mixed=way.mixed)
            run()
        except UserError as error:
            if way == EAGER:
                raise
            left_out.append(f"Left out: {way.name}. {error}")
        else:
            contestants.append(Contestant(way.name, run))
    return contestants, left_out


def _row(name: str, seconds: Sequence[float], program: Program | None, images: int, peak: float) -> Row:
    middle = median(seconds)
    row: dict[str, str | float | None] = {
        "program": name,
        "ms": middle * 1e3,
        "fastest, ms": min(seconds) * 1e3,
        "spread": f"±{spread(seconds):.0%}",
        "images per second": images / middle,
    }
    if program is not None:
        row |= {
            "GFLOP per image": program.flops() / images / 1e9,
            "of peak": f"{program.flops() / middle / peak:.0%}",
            "temporaries, MB": program.temporary_bytes / 1e6,
            "compiled in, s": program.compile_seconds,
        }
    return row


def _ratios(seconds: Mapping[str, Sequence[float]], ours: Sequence[str]) -> list[str]:
    """How much faster each of our programs is than each of the others."""
    return [
        f"{name} is {ratio(seconds[other], seconds[name]):.2f} times as fast as {other} "
        f"({min(seconds[other]) / min(seconds[name]):.2f} times by the fastest run of each)."
        for name in ours
        for other in seconds
        if other not in ours
    ]
