"""Compiles the real train step with the TPU compiler for TPUs that are not there, and prints what it needs.

pip install libtpu
anchordetr compile-tpu --config anchordetr-r50-dc5 --topology v5e:2x2 --topology v5e:16x16

It compiles the step for one chip of each topology and for all its chips, with the same number of images per chip. It
prints the memory per chip, FLOPs, collectives with their bytes, the time per step by the compiler's own estimate, and
the efficiency against one chip if no communication is hidden behind compute. A compilation takes minutes.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"  # Only the TPU compiler is needed: do not look for a TPU.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # Several of these commands may run at the same time.

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.benchmark.compiled import dump_schedules
from anchordetr_jax.benchmark.planning import with_classes
from anchordetr_jax.benchmark.planning_tpu import plan_tpus

FLAGS = flags.FlagValues()
read_config = cli.define_config(FLAGS)
TOPOLOGY = flags.DEFINE_multi_string(
    "topology", ["v5e:2x2"], "TPU slices: v5e:2x2 to v5e:16x16, v4:4x4x4, v6e:8x8, …", flag_values=FLAGS
)
SHAPE = flags.DEFINE_string("shape", "800x1344", "Height and width of the padded images.", flag_values=FLAGS)
IMAGES = flags.DEFINE_integer("images_per_chip", 1, "Images per chip.", lower_bound=1, flag_values=FLAGS)
MAX_BOXES = flags.DEFINE_integer(
    "max_boxes", 100, "Targets that each image is padded to.", lower_bound=1, flag_values=FLAGS
)
CHIP_COUNTS = flags.DEFINE_multi_integer(
    "chips", [], "Compile for this number of the topology's chips (1 and all).", flag_values=FLAGS
)
JSON = flags.DEFINE_string("json", "", "File that gets the figures, one line for each compilation.", flag_values=FLAGS)


def main() -> None:
    config = with_classes(read_config())
    shape = cli.parse_shape(SHAPE.value)
    with tempfile.TemporaryDirectory() as folder:
        if config.model.kernels == "tpu":
            dump_schedules(Path(folder))
        for topology in TOPOLOGY.value:
            for plan in plan_tpus(
                config,
                topology,
                images_per_chip=IMAGES.value,
                image_shape=shape,
                max_boxes=MAX_BOXES.value,
                chip_counts=CHIP_COUNTS.value,
                dumped=Path(folder),
            ):
                print(f"\n{plan}", flush=True)
                if JSON.value:
                    with open(JSON.value, "a") as file:
                        file.write(json.dumps(plan.figures()) + "\n")


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, takes_arguments=False, text=__doc__)
