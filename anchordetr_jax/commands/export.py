"""Writes a detector as files that run without this package, with a sample that runs them.

python scripts/export.py --checkpoint runs/mine --shape 800x1088 --output DIR [--batch 1,8] [--onnx] [--float16]

DIR gets programs for JAX on CPU, CUDA and TPU, from uint8 pixels to detections: one program per batch size, by default
one for all sizes. It also gets the weights, metadata.json, and sample.py, which needs only jax, flatbuffers, numpy and
Pillow. --onnx adds ONNX models, --float16 also those in half precision. scripts/evaluate.py --checkpoint DIR scores all
of them. --checkpoint is a published model such as anchordetr-r50-dc5, a run's workdir, one
checkpoint, a .pth or .safetensors file, a folder of save_pretrained, or hf://ORGANISATION/NAME.
"""

from pathlib import Path

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.export.programs import SAMPLE_FILE, export_detector, parse_batches

read_detector = cli.define_detector()
OUTPUT = flags.DEFINE_string("output", None, "Folder for the files.", required=True)
SHAPE = flags.DEFINE_string("shape", None, "HEIGHTxWIDTH to which images are padded, such as 800x1088.", required=True)
BATCH = flags.DEFINE_list(
    "batch", ["any"], "Batch sizes, with one program for each; 'any' is one program for every size."
)
ONNX = flags.DEFINE_bool("onnx", False, "Write ONNX models too (float32).")
FLOAT16 = flags.DEFINE_bool("float16", False, "With --onnx: write ONNX models in float16 as well.")


def main() -> None:
    shape, batches = cli.parse_shape(SHAPE.value), parse_batches(BATCH.value)
    detector = read_detector()
    remarks = export_detector(detector, OUTPUT.value, shape, batches, onnx=ONNX.value, float16=FLOAT16.value)
    if ONNX.value and detector.model.config.dtype != "float32":
        remarks.append(f"ONNX models compute in float32, the program for JAX in {detector.model.config.dtype}.")
    for remark in remarks:
        print(remark)
    print(f"{OUTPUT.value} is ready. Try it: python {Path(OUTPUT.value) / SAMPLE_FILE} IMAGE")


if __name__ == "__main__":
    cli.run(main)
