"""Writes a detector as files that run without this package, with a sample that runs them.

anchordetr export CHECKPOINT --output DIR [--shape 800x1088] [--batch 1,8] [--onnx] [--float16]

DIR gets programs for JAX on CPU, CUDA and TPU, from uint8 pixels to detections: one program per batch size, by default
one for all sizes. It also gets the weights, metadata.json, and sample.py, which needs only jax, flatbuffers, numpy and
Pillow. --onnx adds ONNX models, --float16 also those in half precision. anchordetr evaluate DIR scores all of them.
CHECKPOINT (or --checkpoint) is a published model such as anchordetr-r50-dc5, a run's workdir, one checkpoint, a .pth or
.safetensors file, a folder of save_pretrained, or hf://ORGANISATION/NAME.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.export.programs import SAMPLE_FILE, export_detector, parse_batches

FLAGS = flags.FlagValues()
read_detector = cli.define_detector(FLAGS)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the files.", required=True, flag_values=FLAGS)
SHAPE = flags.DEFINE_string(
    "shape",
    None,
    "HEIGHTxWIDTH to which images are padded, such as 800x1088; by default what suits photographs of 4:3.",
    flag_values=FLAGS,
)
BATCH = flags.DEFINE_list(
    "batch", ["any"], "Batch sizes, with one program for each; 'any' is one program for every size.", flag_values=FLAGS
)
ONNX = flags.DEFINE_bool("onnx", False, "Write ONNX models too (float32).", flag_values=FLAGS)
FLOAT16 = flags.DEFINE_bool("float16", False, "With --onnx: write ONNX models in float16 as well.", flag_values=FLAGS)


def main(arguments: list[str]) -> None:
    asked, batches = cli.parse_shape(SHAPE.value) if SHAPE.value else None, parse_batches(BATCH.value)
    detector = read_detector(arguments)
    shape = asked or detector.shapes.usual()
    if asked is None:
        print("Images are padded to {}x{}, which suits photographs of 4:3; --shape takes another.".format(*shape))
    remarks = export_detector(detector, OUTPUT.value, shape, batches, onnx=ONNX.value, float16=FLOAT16.value)
    if ONNX.value and detector.model.config.dtype != "float32":
        remarks.append(f"ONNX models compute in float32, the program for JAX in {detector.model.config.dtype}.")
    for remark in remarks:
        print(remark)
    print(f"{OUTPUT.value} is ready. Try it: python {Path(OUTPUT.value) / SAMPLE_FILE} IMAGE")


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, text=__doc__)
