"""Compiles the real train step with XLA's GPU compiler, for GPUs that are not there, and says what it needs.

pip install "jax[cuda12]"
python scripts/compile_gpu.py --config configs/anchordetr_r50_dc5.py --config.model.dtype=bfloat16 --gpu h100 --gpus 8

Printed are memory a GPU, what goes to NVIDIA's libraries, and collectives with their bytes. Their work space and what
the allocator cannot use come on top. Matching is that of `matcher.backend="device"`: a program that calls the
host is only compiled where it runs. A compilation takes a minute or two. For the time of a step there is no estimate:
`scripts/benchmark.py train` measures it on a GPU.
"""

import dataclasses
import json
import time
from collections import Counter

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.benchmark.planning import Plan, library_calls, lower_train_step, read_plan, slice_mesh, with_classes
from anchordetr_jax.benchmark.planning_gpu import GPUS, gpu_devices, prepare_compiler
from anchordetr_jax.config import Config

read_config = cli.define_config()
GPU = flags.DEFINE_enum("gpu", "h100", list(GPUS), "GPU to compile for.")
COUNT = flags.DEFINE_integer("gpus", 1, "Number of GPUs, of one host.", lower_bound=1)
SHAPE = flags.DEFINE_string("shape", "800x1344", "Height and width of the padded images.")
IMAGES = flags.DEFINE_integer("images_per_gpu", 8, "Images a GPU.", lower_bound=1)
MAX_BOXES = flags.DEFINE_integer("max_boxes", 100, "Targets an image is padded to.", lower_bound=1)
JSON = flags.DEFINE_string("json", "", "File to which the figures are added as a line.")


def main() -> None:
    prepare_compiler()
    config = with_device_matching(with_classes(read_config()))
    mesh = slice_mesh(config.mesh, gpu_devices(GPU.value, COUNT.value))
    start = time.perf_counter()
    lowered = lower_train_step(
        config,
        mesh,
        batch_size=COUNT.value * IMAGES.value,
        image_shape=cli.parse_shape(SHAPE.value),
        max_boxes=MAX_BOXES.value,
    )
    compiled = lowered.compile()
    report(read_plan(compiled), library_calls(compiled.as_text() or ""), time.perf_counter() - start)


def with_device_matching(config: Config) -> Config:
    """The settings with the matching solved inside the program."""
    return dataclasses.replace(config, matcher=dataclasses.replace(config.matcher, backend="device"))


def report(plan: Plan, calls: Counter[str], seconds: float) -> None:
    """Prints what was found, and adds it to the JSON file."""
    gpu = GPUS[GPU.value]
    print(f"\n{COUNT.value} {gpu.name}, {IMAGES.value} image(s) of {SHAPE.value} each (compiled in {seconds:.0f} s)")
    temporaries = f"temporaries {plan.temporary_bytes / 1e9:.2f}"
    print(f"  memory a GPU    {plan.memory_bytes / 1e9:.2f} GB of {gpu.memory_gb:g} ({temporaries})")
    print(f"  library calls   {', '.join(f'{count} {name}' for name, count in calls.most_common())}")
    for collective in plan.collectives:
        print(f"  {collective.operation:15} {collective.count} of {collective.bytes / 1e6:.2f} MB together")
    if JSON.value:
        figures = {
            "gpu": GPU.value,
            "gpus": COUNT.value,
            "images_per_gpu": IMAGES.value,
            "shape": SHAPE.value,
            "temporary_bytes": plan.temporary_bytes,
            "argument_bytes": plan.argument_bytes,
            "library_calls": calls,
            "collectives": [dataclasses.asdict(collective) for collective in plan.collectives],
        }
        with open(JSON.value, "a") as file:
            file.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    cli.run(main)
