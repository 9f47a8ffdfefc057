"""Writes a detector as files that run without this package, with a sample that runs them.

python scripts/export.py --checkpoint runs/mine --shape 800x1088 --output DIR [--batch 1,8] [--onnx]

DIR gets programs for JAX on CPU, CUDA and TPU (one a batch size; by default one for every size), from uint8 pixels to
detections, their weights, metadata.json, and sample.py, which takes jax, flatbuffers, numpy and Pillow alone. --onnx
adds ONNX models. --checkpoint is a run's workdir, one checkpoint, or a .pth or .safetensors file with official weights.
"""

from pathlib import Path

from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.export import SAMPLE_FILE, export_detector, parse_batches, parse_shape
from anchordetr_jax.predict import Detector

CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "A run's workdir, one checkpoint, or a file of official weights.", required=True
)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the files.", required=True)
SHAPE = flags.DEFINE_string("shape", None, "HEIGHTxWIDTH that images are padded to, such as 800x1088.", required=True)
BATCH = flags.DEFINE_list("batch", ["any"], "Batch sizes, a program for each; 'any' is one for every size.")
ONNX = flags.DEFINE_bool("onnx", False, "Write ONNX models too (float32).")
DILATION = flags.DEFINE_bool("dilation", None, "For a weight file that does not say: DC5; --nodilation: C5.")
ANNOTATIONS = flags.DEFINE_string(
    "annotations", None, "For a weight file: the COCO-format file whose categories it was trained on."
)
DTYPE = flags.DEFINE_enum("dtype", None, ["float32", "bfloat16"], "What the program computes in; as trained if unset.")


def main() -> None:
    shape, batches = parse_shape(SHAPE.value), parse_batches(BATCH.value)
    detector = Detector.from_pretrained(
        CHECKPOINT.value, dilation=DILATION.value, annotations=ANNOTATIONS.value, dtype=DTYPE.value
    )
    remarks = export_detector(detector, OUTPUT.value, shape, batches, onnx=ONNX.value)
    if ONNX.value and detector.model.config.dtype != "float32":
        remarks.append(f"ONNX models compute in float32; the program for JAX in {detector.model.config.dtype}.")
    for remark in remarks:
        print(remark)
    print(f"{OUTPUT.value} is ready. Try it: python {Path(OUTPUT.value) / SAMPLE_FILE} IMAGE")


if __name__ == "__main__":
    cli.run(main)
