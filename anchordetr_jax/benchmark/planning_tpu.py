"""TPUs that are not there, as the TPU compiler knows them, and what a train step would need on them."""

import dataclasses
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from anchordetr_jax.benchmark.compiled import Plan, dump_text, read_plan
from anchordetr_jax.benchmark.planning import lower_train_step, slice_mesh
from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError


class Chip(NamedTuple):
    """What JAX shows as one device of a TPU generation, by the maker's published figures.

    That is one chip, or one of a chip's two cores (v4). Units are in the fields' names.
    """

    peak_tflops: float
    """Of bfloat16 products."""
    clock_ghz: float
    """Turns the compiler's cycles into seconds."""
    memory_gb: float
    link_gb_per_second: float
    """Between chips: all links of one chip together, one direction."""


CHIPS = {
    "v4": Chip(137.5, 1.05, 16, 75),
    "v5e": Chip(197, 1.5, 16, 100),
    "v5p": Chip(459, 1.75, 95, 300),
    "v6e": Chip(918, 1.75, 32, 200),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TpuPlan:
    """A train step compiled for some chips of a topology."""

    topology: str
    chips: int
    images_per_chip: int
    image_shape: tuple[int, int]
    """(H, W) pixels."""
    plan: Plan
    alone: Plan | None
    """The same step on one chip, if that was compiled before."""
    compile_seconds: float

    @property
    def chip(self) -> Chip:
        return CHIPS[self.topology.partition(":")[0]]

    @property
    def compute_seconds(self) -> float:
        """Time of a step without communication, by the compiler's estimate."""
        return _compute_seconds(self.plan, self.chip)

    @property
    def communication_seconds(self) -> float:
        """Time to send what the collectives send, at full speed of the links and with nothing hidden behind compute.

        A reduction over many chips sends everything about twice: the parts to be summed, and the sums.
        """
        return 2 * self.plan.collective_bytes / (self.chip.link_gb_per_second * 1e9)

    @property
    def peak_share(self) -> float:
        """FLOP/s by the compiler's estimate, as a share of the chip's peak."""
        return self.plan.flops / self.compute_seconds / (self.chip.peak_tflops * 1e12)

    @property
    def efficiency(self) -> float | None:
        """Speed per chip as a share of one chip's, if no communication is hidden. None: there is nothing to compare."""
        if self.alone is None or self.chips == 1:
            return None
        return _compute_seconds(self.alone, self.chip) / (self.compute_seconds + self.communication_seconds)

    def figures(self) -> dict[str, Any]:
        """All figures, for JSON."""
        figures: dict[str, Any] = {
            "topology": self.topology,
            "chips": self.chips,
            "images_per_chip": self.images_per_chip,
            "shape": "x".join(map(str, self.image_shape)),
            "compute_ms": self.compute_seconds * 1e3,
            "communication_ms": self.communication_seconds * 1e3,
            "peak_share": self.peak_share,
            **dataclasses.asdict(self.plan),
        }
        return figures if self.efficiency is None else figures | {"efficiency": self.efficiency}

    def __str__(self) -> str:
        height, width = self.image_shape
        plan = self.plan
        temporaries = f"temporaries {plan.temporary_bytes / 1e9:.2f}"
        lines = [
            f"{self.topology}, {self.chips} chip(s), {self.images_per_chip} image(s) of {height}x{width} per chip "
            f"(compiled in {self.compile_seconds:.0f} s)",
            f"  memory per chip {plan.memory_bytes / 1e9:.2f} GB of {self.chip.memory_gb:g} ({temporaries})",
            f"  FLOPs per chip  {plan.flops / 1e9:.0f} G",
            f"  compute         {self.compute_seconds * 1e3:.1f} ms by the compiler's estimate: "
            f"{self.peak_share:.1%} of peak",
            *(
                f"  {collective.operation:15} {collective.count} of {collective.bytes / 1e6:.2f} MB together"
                for collective in plan.collectives
            ),
        ]
        if self.efficiency is not None:
            lines += [
                f"  communication   {self.communication_seconds * 1e3:.2f} ms at full speed of the links",
                f"  efficiency      {self.efficiency:.1%} of one chip's, if no communication is hidden behind compute",
            ]
        return "\n".join(lines)


def plan_tpus(
    config: Config,
    topology: str,
    *,
    images_per_chip: int,
    image_shape: tuple[int, int],
    max_boxes: int,
    chip_counts: Sequence[int],
    dumped: Path,
) -> Iterator[TpuPlan]:
    """Compiles the train step for some numbers of a topology's chips. A compilation takes minutes.

    Args:
        config: all settings; `model.num_classes` must be set.
        topology: a TPU slice such as "v5e:16x16".
        images_per_chip: the same for each number of chips.
        image_shape: (H, W) pixels.
        max_boxes: targets that each image is padded to.
        chip_counts: how many of the chips to use; empty: one, and all.
        dumped: a folder for what the compiler writes.

    Raises:
        UserError: the TPU compiler is not installed, or the topology is unknown.
    """
    devices = tpu_devices(topology)
    alone: Plan | None = None
    for count in chip_counts or sorted({1, len(devices)}):
        mesh = slice_mesh(config.mesh, devices[:count])
        start = time.perf_counter()
        lowered = lower_train_step(
            config, mesh, batch_size=count * images_per_chip, image_shape=image_shape, max_boxes=max_boxes
        )
        plan = read_plan(lowered.compile(compiler_options=dump_text(dumped)), dumped)
        alone = plan if count == 1 else alone
        yield TpuPlan(
            topology=topology,
            chips=count,
            images_per_chip=images_per_chip,
            image_shape=image_shape,
            plan=plan,
            alone=alone,
            compile_seconds=time.perf_counter() - start,
        )


def tpu_devices(topology: str) -> Sequence[jax.Device]:
    """The chips of a TPU slice such as "v5e:16x16", as the compiler knows them. None of them needs to exist.

    Raises:
        UserError: the TPU compiler is not installed, or the topology is unknown.
    """
    from jax.experimental import topologies

    if topology.partition(":")[0] not in CHIPS:
        raise UserError(f"Topology {topology!r} must begin with one of {', '.join(CHIPS)}, as in v5e:4x4.")
    try:
        return topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    except Exception as error:  # JAX passes on whatever the compiler's plug-in raises.
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The TPU compiler cannot plan for {topology!r}: {first_line} "
            "(it comes with `pip install libtpu`; v4 and v5p have three dimensions, as in v4:4x4x4)."
        ) from error


def _compute_seconds(plan: Plan, chip: Chip) -> float:
    return plan.cycles / (chip.clock_ghz * 1e9)
