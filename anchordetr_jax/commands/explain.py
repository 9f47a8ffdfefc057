"""Draws how Anchor DETR makes its detections: anchor points, patterns, and row and column attention.

anchordetr explain IMAGE_OR_FOLDER... --checkpoint runs/mine --output DIR [--threshold 0.3]

DIR gets two pictures for each of the first few images. NAME_anchors.png shows all anchor points, and each detection
with a line to its anchor point, in the colour of its pattern. NAME_attention.png shows where the queries of the best
detections look. One more picture, patterns.png, shows which sizes and shapes of objects each pattern finds in all
images. It tells more with more images.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from tqdm.auto import tqdm

from anchordetr_jax import cli
from anchordetr_jax.errors import UserError
from anchordetr_jax.explanation.explain import Explanation, explain
from anchordetr_jax.explanation.pictures import anchor_picture, attention_picture, pattern_picture
from anchordetr_jax.files import path_here
from anchordetr_jax.prediction.detections import check_threshold
from anchordetr_jax.prediction.inputs import gather_images
from anchordetr_jax.prediction.output_names import output_names

FLAGS = flags.FlagValues()
read_detector = cli.define_detector(FLAGS)
OUTPUT = flags.DEFINE_string("output", None, "Folder for the pictures.", required=True, flag_values=FLAGS)
THRESHOLD = flags.DEFINE_float("threshold", 0.3, "Detections with a lower score are left out.", flag_values=FLAGS)
DETECTIONS = flags.DEFINE_integer(
    "detections", 6, "The number of detections per image whose attention is drawn.", flag_values=FLAGS
)
LAYER = flags.DEFINE_integer(
    "layer", None, "The decoder layer whose attention is drawn, from 1; by default the last one.", flag_values=FLAGS
)
PICTURES = flags.DEFINE_integer(
    "pictures",
    8,
    "The number of images that get pictures of their own; patterns.png counts all images.",
    lower_bound=0,
    flag_values=FLAGS,
)


def main(arguments: list[str]) -> None:
    check_threshold(THRESHOLD.value)
    if DETECTIONS.value < 1:
        raise UserError(f"--detections must be at least 1, not {DETECTIONS.value}.")
    if not arguments:
        raise UserError("Say which images: anchordetr explain IMAGE_OR_FOLDER... --checkpoint ... --output DIR.")
    images, _ = gather_images(arguments)
    output = path_here(OUTPUT.value)
    cli.prepare_computation()
    detector = read_detector()
    layers = detector.model.config.decoder_layers
    if LAYER.value is not None and not 1 <= LAYER.value <= layers:
        raise UserError(f"--layer must be from 1 to {layers}, the number of decoder layers, not {LAYER.value}.")
    # Only the stems are used, and with one suffix for all they are distinct.
    names = output_names([str(image.path) for image in images], kept=(".png",))
    explanations: list[Explanation] = []
    for image, name in zip(tqdm(images, unit="image", dynamic_ncols=True), names, strict=True):
        try:
            explanation = explain(detector, image, most=detector.max_detections)
        except UserError as error:
            if len(images) == 1:
                raise
            tqdm.write(f"{error} It is left out.", file=sys.stderr)
            continue
        if len(explanations) < PICTURES.value:
            draw(explanation, output / Path(name).stem)
        explanations.append(explanation.without_attention())
    if not explanations:
        raise UserError(f"None of the {len(images)} images could be read.")
    pattern_picture(explanations, output / "patterns.png", threshold=THRESHOLD.value)
    skipped = len(images) - len(explanations)
    print(
        f"Pictures of {min(len(explanations), PICTURES.value)} images, and patterns.png of {len(explanations)}, are in "
        f"{OUTPUT.value}" + (f"; {skipped} could not be read" if skipped else "")
    )


def draw(explanation: Explanation, target: Path) -> None:
    """Writes both pictures of an image."""
    anchor_picture(explanation, f"{target}_anchors.png", threshold=THRESHOLD.value)
    queries = explanation.above(THRESHOLD.value, DETECTIONS.value)
    layer = -1 if LAYER.value is None else LAYER.value - 1
    attention_picture(explanation, f"{target}_attention.png", queries=queries, layer=layer)


def run(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return cli.run(main, FLAGS, arguments, text=__doc__)
