"""Compiling a train step for devices that are not there, and reading what the compiler says of it."""

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from anchordetr_jax.config import Config, MeshConfig
from anchordetr_jax.data.batching import Batch
from anchordetr_jax.devices import BATCH_AXES, batch_sharding, check_fsdp
from anchordetr_jax.errors import UserError
from anchordetr_jax.model.anchor_detr import definition_of
from anchordetr_jax.training.optimizer import make_optimizer
from anchordetr_jax.training.step import abstract_state, make_train_step

_STEPS_AN_EPOCH = 1000  # Of no consequence: it only moves the steps at which the learning rate drops.


class Chip(NamedTuple):
    """What JAX shows as one device of a TPU generation, by its maker's published figures: a chip, but of v4 each of a
    chip's two cores. Units are those of the fields' names."""

    peak_tflops: float
    """Of bfloat16 products."""
    clock_ghz: float
    """By which the compiler's cycles become seconds."""
    memory_gb: float
    link_gb_a_second: float
    """Between chips, all links of one together, one way."""


CHIPS = {
    "v4": Chip(137.5, 1.05, 16, 75),
    "v5e": Chip(197, 1.5, 16, 100),
    "v5p": Chip(459, 1.75, 95, 300),
    "v6e": Chip(918, 1.75, 32, 200),
}


@dataclasses.dataclass(frozen=True)
class Collective:
    """Communication between devices: all operations of one name."""

    operation: str
    count: int
    """How often it stands in the program."""
    bytes: int
    """Of the results of all of them, a device."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler says of a program, for one device."""

    temporary_bytes: int
    argument_bytes: int
    """Parameters, optimiser state and batch. Results take no more, for the state is donated."""
    flops: float
    """0 where the compiler does not say (GPU)."""
    bytes_accessed: float
    """As `flops`."""
    cycles: int
    """The compiler's estimate, all operations one after the other, and what it scheduled of this project's kernels
    (which it does not estimate). 0 where it makes none (CPU, GPU)."""
    kernel_cycles: int
    """Those of the kernels among them."""
    collectives: tuple[Collective, ...]

    @property
    def memory_bytes(self) -> int:
        """Arguments and temporaries together."""
        return self.temporary_bytes + self.argument_bytes

    @property
    def collective_bytes(self) -> int:
        """Of all collectives together."""
        return sum(collective.bytes for collective in self.collectives)

    def compute_seconds(self, chip: Chip) -> float:
        """Time of a step without communication, by the compiler's estimate."""
        return self.cycles / (chip.clock_ghz * 1e9)

    def communication_seconds(self, chip: Chip) -> float:
        """Time to send what the collectives send, at full speed of the links and with nothing hidden behind compute.

        A reduction over many chips sends everything about twice: its parts to be summed, and the sums.
        """
        return 2 * self.collective_bytes / (chip.link_gb_a_second * 1e9)

    def peak_share(self, chip: Chip) -> float:
        """FLOP/s by the compiler's estimate, as a share of what the chip can do."""
        return self.flops / self.compute_seconds(chip) / (chip.peak_tflops * 1e12)


def abstract_batch(batch_size: int, image_shape: tuple[int, int], max_boxes: int, mesh: Mesh) -> Batch:
    """Shapes, dtypes and shardings of a batch of `batch_size` images padded to `image_shape` (H, W) pixels."""

    def array(*shape: int, dtype: Any) -> Any:
        return jax.ShapeDtypeStruct((batch_size, *shape), dtype, sharding=batch_sharding(mesh))

    return Batch(
        images=array(*image_shape, 3, dtype=jnp.uint8),
        image_sizes=array(2, dtype=jnp.int32),
        boxes=array(max_boxes, 4, dtype=jnp.float32),
        labels=array(max_boxes, dtype=jnp.int32),
        num_boxes=array(dtype=jnp.int32),
        rows=array(dtype=jnp.int32),
        valid=array(dtype=jnp.bool_),
        original_sizes=array(2, dtype=jnp.int32),
    )


def lower_train_step(
    config: Config, mesh: Mesh, *, batch_size: int, image_shape: tuple[int, int], max_boxes: int
) -> jax.stages.Lowered:
    """The real train step for one shape of batch, ready to be compiled; no array is made.

    Args:
        config: all settings; `model.num_classes` must be set.
        mesh: devices, which need not be of this machine.
        batch_size: images over all devices.
        image_shape: (H, W) pixels.
        max_boxes: targets an image is padded to.
    """
    definition = definition_of(config.model)
    optimizer = make_optimizer(
        config.optimizer, steps_before=lambda epoch: epoch * _STEPS_AN_EPOCH, epochs=config.train.epochs
    )
    ema = config.train.ema_decay > 0
    state = abstract_state(definition, optimizer, mesh, freeze=config.optimizer.freeze, ema=ema)
    step: Any = make_train_step(definition, optimizer, config, mesh, state)
    return step.lower(state, abstract_batch(batch_size, image_shape, max_boxes, mesh))


def with_classes(config: Config) -> Config:
    """The settings with COCO's 91 class outputs where the number is left to the data set."""
    model = dataclasses.replace(config.model, num_classes=config.model.num_classes or 91)
    return dataclasses.replace(config, model=model)


def slice_mesh(config: MeshConfig, devices: Sequence[jax.Device]) -> Mesh:
    """Devices that are not there as a mesh [data, fsdp], in the order given: how they are wired is of no consequence,
    and JAX arranges none of which a chip has two. Raises `UserError` as `make_mesh` does."""
    check_fsdp(config, len(devices))
    return Mesh(np.asarray(devices).reshape(-1, config.fsdp), BATCH_AXES, axis_types=(AxisType.Auto, AxisType.Auto))


def read_plan(compiled: jax.stages.Compiled, dumped: Path | None = None) -> Plan:
    """What a compiled program needs, a device.

    Args:
        compiled: the program.
        dumped: the folder given to `dump_schedules` and `dump_text`; without it kernels take no time.

    Raises:
        UserError: the compiler did not write what is read from that folder.
    """
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    assert memory is not None
    hlo = _text(compiled, dumped)
    kernels = kernel_cycles(hlo, dumped) if dumped else 0
    return Plan(
        temporary_bytes=memory.temp_size_in_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        flops=costs.get("flops", 0.0),
        bytes_accessed=costs.get("bytes accessed", 0.0),
        cycles=sum(_estimates(hlo)) + kernels,
        kernel_cycles=kernels,
        collectives=find_collectives(hlo),
    )


def _estimates(hlo: str) -> list[int]:
    """Cycles of each operation that the compiler has an estimate of; the largest number with or without a sign says
    that it has none."""
    cycles = map(int, re.findall(r'"estimated_cycles":"(\d+)"', hlo))
    return [estimate for estimate in cycles if estimate not in (2**63 - 1, 2**64 - 1)]


def _text(compiled: jax.stages.Compiled, dumped: Path | None) -> str:
    """The compiled program's text: JAX's, or the compiler's where JAX cannot read instructions of newer TPUs."""
    try:
        return compiled.as_text() or ""
    except jax.errors.JaxRuntimeError as error:
        texts = list(dumped.glob("*.after_codegen.txt")) if dumped else []
        if not texts:
            first_line = str(error).splitlines()[0]
            raise UserError(
                f"JAX cannot read the compiled program, and the compiler wrote none: {first_line}"
            ) from error
        return max(texts, key=lambda path: path.stat().st_mtime).read_text()


def dump_schedules(folder: Path) -> None:
    """Has the TPU compiler write down how it schedules what it compiles. Call it before the compiler is loaded."""
    flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {flags}".strip()


def dump_text(folder: Path) -> dict[str, bool | str]:
    """Options for `Lowered.compile`, with which the compiler writes down the compiled program's text."""
    return {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}


def kernel_cycles(hlo: str, schedules: Path) -> int:
    """Cycles of all Pallas kernels of a compiled program: an instruction word a cycle, as the compiler scheduled them,
    each for every step of the kernel's grid, whose number is in its name.

    Raises:
        UserError: there is no schedule of a kernel.
    """
    total = 0
    for name, steps in re.findall(r"%(\w+_x(\d+))(?:\.\d+)? = [^\n]*custom_call_target=\"tpu_custom_call\"", hlo):
        found = [
            path for path in schedules.iterdir() if re.search(rf"-{name}(\.\d+)?-\d+-schedule-analysis", path.name)
        ]
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)  # Earlier ones: other topologies.
        words = re.search(r"total scheduled bundles:\s+(\d+)", newest.read_text()) if newest else None
        if words is None:
            raise UserError(f"The TPU compiler left no schedule of {name} in {schedules}: use libtpu 0.0.52.")
        total += int(steps) * int(words[1])
    return total


def library_calls(hlo: str) -> Counter[str]:
    """How often a compiled program calls which function of NVIDIA's libraries."""
    return Counter(re.findall(r'custom_call_target="__(cu[^"]*)"', hlo.replace("$", "_")))


_COLLECTIVE = re.compile(
    r" = (?P<result>.*?) (?P<operation>all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute)"
    r"(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")


def find_collectives(hlo: str) -> tuple[Collective, ...]:
    """All collectives in a compiled program's text, those that send most first."""
    found: dict[str, list[int]] = {}
    for match in _COLLECTIVE.finditer(hlo):
        sizes = [_array_bytes(array) for array in _ARRAY.finditer(match["result"])]
        if match["start"] and match["operation"] in ("all-gather", "collective-permute"):
            sizes = sizes[len(sizes) // 2 :]  # A started one's result has its operands in front.
        found.setdefault(match["operation"], []).append(sum(sizes))
    collectives = [Collective(operation, len(sizes), sum(sizes)) for operation, sizes in found.items()]
    return tuple(sorted(collectives, key=lambda collective: -collective.bytes))


def _array_bytes(array: re.Match[str]) -> int:
    count = 1
    for length in filter(None, array["shape"].split(",")):
        count *= int(length)
    return count if array["type"] == "pred" else count * int(array["bits"]) // 8


def tpu_devices(topology: str) -> Sequence[jax.Device]:
    """The chips of a TPU slice such as "v5e:16x16", as the compiler knows them; none need be there.

    Raises:
        UserError: the TPU compiler is not installed, or knows no such slice.
    """
    from jax.experimental import topologies

    if topology.partition(":")[0] not in CHIPS:
        raise UserError(f"Topology {topology!r} must begin with one of {', '.join(CHIPS)}, as in v5e:4x4.")
    try:
        return topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    except Exception as error:  # JAX raises whatever the compiler's plug-in does.
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"The TPU compiler cannot plan for {topology!r}: {first_line} "
            "(it comes with `pip install libtpu`; v4 and v5p have three dimensions, as in v4:4x4x4)."
        ) from error
