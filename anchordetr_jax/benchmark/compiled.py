"""What the compiler says about a compiled program: memory, operations, cycles, kernels and collectives."""

import dataclasses
import os
import re
from collections import Counter
from pathlib import Path

import jax

from anchordetr_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Collective:
    """All communication between devices by operations of one name."""

    operation: str
    count: int
    """How many of them the program has."""
    bytes: int
    """Of all their results together, per device."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the compiler says about a program, for one device."""

    temporary_bytes: int
    argument_bytes: int
    """Parameters, optimiser state and batch. The results need no more, because the state is donated."""
    flops: float
    """0 if the compiler does not say (GPU)."""
    bytes_accessed: float
    """As `flops`."""
    cycles: int
    """All operations one after the other: the compiler's estimates, and the schedules of this project's kernels (which
    have no estimate). 0 if the compiler makes no estimates (CPU, GPU)."""
    kernel_cycles: int
    """The part of `cycles` that kernels take."""
    collectives: tuple[Collective, ...]

    @property
    def memory_bytes(self) -> int:
        """Arguments and temporaries together."""
        return self.temporary_bytes + self.argument_bytes

    @property
    def collective_bytes(self) -> int:
        """Bytes of all collectives together."""
        return sum(collective.bytes for collective in self.collectives)


def read_plan(compiled: jax.stages.Compiled, dumped: Path | None = None) -> Plan:
    """What a compiled program needs, per device.

    Args:
        compiled: the program.
        dumped: the folder given to `dump_schedules` and `dump_text`. Without it, kernels count no cycles.

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


def dump_schedules(folder: Path) -> None:
    """Makes the TPU compiler write the schedule of what it compiles. Call it before the compiler is loaded."""
    flags = f"--xla_jf_dump_to={folder} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
    os.environ["LIBTPU_INIT_ARGS"] = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {flags}".strip()


def dump_text(folder: Path) -> dict[str, bool | str]:
    """Options for `Lowered.compile` that make the compiler write the compiled program's text."""
    return {"xla_dump_to": str(folder), "xla_dump_hlo_as_text": True}


def kernel_cycles(hlo: str, schedules: Path) -> int:
    """Cycles of all Pallas kernels of a compiled program.

    A kernel takes one cycle per instruction word that the compiler scheduled, for every step of the kernel's grid. The
    number of steps is in the kernel's name: `stem_8_x12` and, for "jvp(stem_8_x12)", `jvp_stem_8_x12_`.

    Raises:
        UserError: there is no schedule of a kernel, or a kernel has another name.
    """
    call = 'custom_call_target="tpu_custom_call"'
    count, kernels = hlo.count(call), re.findall(rf"%(\w+_x(\d+)_*)(?:\.\d+)? = [^\n]*{call}", hlo)
    if len(kernels) < count:
        raise UserError(
            f"{count - len(kernels)} of {count} kernels in the compiled program do not have the names that they were "
            "given, so their time is unknown: use libtpu 0.0.52."
        )
    total = 0
    for name, steps in kernels:
        found = [
            path for path in schedules.iterdir() if re.search(rf"-{name}(\.\d+)?-\d+-schedule-analysis", path.name)
        ]
        newest = max(found, key=lambda path: path.stat().st_mtime, default=None)  # Older ones: other topologies.
        words = re.search(r"total scheduled bundles:\s+(\d+)", newest.read_text()) if newest else None
        if words is None:
            raise UserError(f"The TPU compiler left no schedule of {name} in {schedules}: use libtpu 0.0.52.")
        total += int(steps) * int(words[1])
    return total


def library_calls(hlo: str) -> Counter[str]:
    """How often a compiled program calls each function of NVIDIA's libraries."""
    return Counter(re.findall(r'custom_call_target="__(cu[^"]*)"', hlo.replace("$", "_")))


def find_collectives(hlo: str) -> tuple[Collective, ...]:
    """All collectives in a compiled program's text, those that send most first."""
    found: dict[str, list[int]] = {}
    for match in _COLLECTIVE.finditer(hlo):
        sizes = [_array_bytes(array) for array in _ARRAY.finditer(match["result"])]
        if match["start"] and match["operation"] in ("all-gather", "collective-permute"):
            sizes = sizes[len(sizes) // 2 :]  # The result of a started operation begins with its operands.
        found.setdefault(match["operation"], []).append(sum(sizes))
    collectives = [Collective(operation, len(sizes), sum(sizes)) for operation, sizes in found.items()]
    return tuple(sorted(collectives, key=lambda collective: -collective.bytes))


_COLLECTIVE = re.compile(
    r" = (?P<result>.*?) (?P<operation>all-reduce|reduce-scatter|all-gather|all-to-all|collective-permute)"
    r"(?P<start>-start)?\("
)
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+(?P<bits>\d+)\w*)\[(?P<shape>[\d,]*)\]")


def _array_bytes(array: re.Match[str]) -> int:
    count = 1
    for length in filter(None, array["shape"].split(",")):
        count *= int(length)
    return count if array["type"] == "pred" else count * int(array["bits"]) // 8


def _estimates(hlo: str) -> list[int]:
    """Cycles of each operation that the compiler estimates. The largest integer means that it has no estimate."""
    cycles = map(int, re.findall(r'"estimated_cycles":"(\d+)"', hlo))
    return [estimate for estimate in cycles if estimate not in (2**63 - 1, 2**64 - 1)]


def _text(compiled: jax.stages.Compiled, dumped: Path | None) -> str:
    """The compiled program's text from JAX, or the compiler's file if JAX cannot read instructions of newer TPUs."""
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
