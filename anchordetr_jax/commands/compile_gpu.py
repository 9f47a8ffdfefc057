"""Compiles the real train step with XLA's GPU compiler for GPUs that are not there, and prints what it needs.

pip install "jax[cuda12]"
anchordetr compile-gpu --config anchordetr-r50-dc5 --config.model.dtype=bfloat16 --gpu h100 --gpus 8

It prints the memory per GPU, the calls of NVIDIA's libraries, and the collectives with their bytes. The libraries' work
space, and memory that the allocator cannot use, come on top. The matching is that of `matcher.backend="device"`: a
program that calls the host can be compiled only where it runs. A compilation takes a minute or two. The compiler does
not estimate the time per step: `anchordetr benchmark train` measures it on a GPU.
"""

import json
from collections.abc import Sequence

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.benchmark.planning import with_classes
from anchordetr_jax.benchmark.planning_gpu import GPUS, plan_gpus, prepare_compiler

FLAGS = flags.FlagValues()
read_config = cli.define_config(FLAGS)
GPU = flags.DEFINE_enum("gpu", "h100", list(GPUS), "GPU to compile for.", flag_values=FLAGS)
COUNT = flags.DEFINE_integer("gpus", 1, "Number of GPUs, all in one host.", lower_bound=1, flag_values=FLAGS)
SHAPE = flags.DEFINE_string("shape", "800x1344", "Height and width of the padded images.", flag_values=FLAGS)
IMAGES = flags.DEFINE_integer("images_per_gpu", 8, "Images per GPU.", lower_bound=1, flag_values=FLAGS)
MAX_BOXES = flags.DEFINE_integer(
    "max_boxes", 100, "Targets that each image is padded to.", lower_bound=1, flag_values=FLAGS
)
JSON = flags.DEFINE_string("json", "", "File that gets the figures as one more line.", flag_values=FLAGS)


def main() -> None:
    prepare_compiler()
    plan = plan_gpus(
        with_classes(read_config()),
        GPU.value,
        COUNT.value,
        images_per_gpu=IMAGES.value,
        image_shape=cli.parse_shape(SHAPE.value),
        max_boxes=MAX_BOXES.value,
    )
    print(f"\n{plan}")
    if JSON.value:
        with open(JSON.value, "a") as file:
            file.write(json.dumps(plan.figures()) + "\n")


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, takes_arguments=False, text=__doc__)
