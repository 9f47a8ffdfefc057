"""Compiles the real train step with the TPU compiler, for TPUs that are not there, and says what it needs.

pip install libtpu
python scripts/compile_tpu.py --config configs/anchordetr_r50_dc5.py --topology v5e:2x2 --topology v5e:16x16

For each topology the step is compiled for one chip and for all of them, with the same number of images a chip. Printed
are memory a chip, FLOPs, collectives with their bytes, the time of a step by the compiler's own estimate, and the
efficiency against one chip that follows if no communication is hidden behind compute. A compilation takes minutes.
"""

import json
import os
import tempfile
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # The TPU compiler alone is wanted: no TPU is looked for.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # Several of these may run side by side.

import dataclasses
from typing import Any

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.benchmark.planning import (
    CHIPS,
    Plan,
    dump_schedules,
    dump_text,
    lower_train_step,
    read_plan,
    slice_mesh,
    tpu_devices,
    with_classes,
)
from anchordetr_jax.config import Config

read_config = cli.define_config()
TOPOLOGY = flags.DEFINE_multi_string("topology", ["v5e:2x2"], "TPU slices: v5e:2x2 to v5e:16x16, v4:4x4x4, v6e:8x8, …")
SHAPE = flags.DEFINE_string("shape", "800x1344", "Height and width of the padded images.")
IMAGES = flags.DEFINE_integer("images_per_chip", 1, "Images a chip.", lower_bound=1)
MAX_BOXES = flags.DEFINE_integer("max_boxes", 100, "Targets an image is padded to.", lower_bound=1)
CHIP_COUNTS = flags.DEFINE_multi_integer("chips", [], "Compile for so many of a topology's chips (1 and all).")
JSON = flags.DEFINE_string("json", "", "File to which the figures are added, a line each.")


def main() -> None:
    config = with_classes(read_config())
    shape = cli.parse_shape(SHAPE.value)
    with tempfile.TemporaryDirectory() as folder:
        if config.model.tpu_forms:
            dump_schedules(Path(folder))
        plan_all(config, shape, Path(folder))


def plan_all(config: Config, shape: tuple[int, int], folder: Path) -> None:
    """Compiles and reports for every topology and number of devices asked for; the compiler writes into `folder`."""
    for topology in TOPOLOGY.value:
        devices = tpu_devices(topology)
        alone: Plan | None = None
        for count in CHIP_COUNTS.value or sorted({1, len(devices)}):
            mesh = slice_mesh(config.mesh, devices[:count])
            start = time.perf_counter()
            lowered = lower_train_step(
                config, mesh, batch_size=count * IMAGES.value, image_shape=shape, max_boxes=MAX_BOXES.value
            )
            plan = read_plan(lowered.compile(compiler_options=dump_text(folder)), folder)
            alone = plan if count == 1 else alone
            report(topology, count, plan, alone, time.perf_counter() - start)


def report(topology: str, count: int, plan: Plan, alone: Plan | None, seconds: float) -> None:
    """Prints what was found, and adds it to the JSON file."""
    chip = CHIPS[topology.partition(":")[0]]
    compute, communication = plan.compute_seconds(chip), plan.communication_seconds(chip)
    print(
        f"\n{topology}, {count} chip(s), {IMAGES.value} image(s) of {SHAPE.value} a chip (compiled in {seconds:.0f} s)"
    )
    temporaries = f"temporaries {plan.temporary_bytes / 1e9:.2f}"
    print(f"  memory a chip   {plan.memory_bytes / 1e9:.2f} GB of {chip.memory_gb:g} ({temporaries})")
    print(f"  FLOPs a chip    {plan.flops / 1e9:.0f} G")
    print(f"  compute         {compute * 1e3:.1f} ms by the compiler's estimate: {plan.peak_share(chip):.1%} of peak")
    for collective in plan.collectives:
        print(f"  {collective.operation:15} {collective.count} of {collective.bytes / 1e6:.2f} MB together")
    figures: dict[str, Any] = {
        "topology": topology,
        "chips": count,
        "images_per_chip": IMAGES.value,
        "shape": SHAPE.value,
        "compute_ms": compute * 1e3,
        "communication_ms": communication * 1e3,
        "peak_share": plan.peak_share(chip),
        **dataclasses.asdict(plan),
    }
    if alone is not None and count > 1:
        efficiency = alone.compute_seconds(chip) / (compute + communication)
        figures["efficiency"] = efficiency
        print(f"  communication   {communication * 1e3:.2f} ms at full speed of the links")
        print(f"  efficiency      {efficiency:.1%} of one chip's, nothing hidden behind compute")
    if JSON.value:
        with open(JSON.value, "a") as file:
            file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    cli.run(main)
