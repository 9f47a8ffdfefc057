"""The parts of an HTML page about an evaluation."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from anchordetr_jax.evaluation.coco_metrics import Scores, figure
from anchordetr_jax.evaluation.confusion import BACKGROUND, Confusion
from anchordetr_jax.evaluation.threshold import MIN_OBJECTS, Threshold, all_together
from anchordetr_jax.pictures.confidence import ConfidenceCurves, confidence_pngs
from anchordetr_jax.pictures.grids import Example, ImageMistakes, example_picture, mistakes_picture
from anchordetr_jax.pictures.html import Html, jpeg, numbers, paragraph, picture, pictures, section, table
from anchordetr_jax.pictures.precision_recall import PrecisionRecall, precision_recall_pngs

MAX_CLASSES = 30
"""Of more classes, the confusion matrix shows those with the most objects, and all others as one."""
MAX_CONFUSIONS = 10
"""The number of confusions that are listed."""


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images to show."""

    hardest: Sequence[ImageMistakes]
    predicted: Sequence[Example]


def evaluation_sections(
    scores: Scores,
    precision_recall: PrecisionRecall,
    confused: Confusion,
    examples: Examples,
    facts: Sequence[tuple[str, str]] = (),
) -> tuple[Html, ...]:
    """The parts of the page, in their order.

    Args:
        scores: COCO's scores.
        precision_recall: their curves.
        confused: the confusion matrix.
        examples: images to show.
        facts: what to say about the evaluation first, as (name, value).
    """
    return (
        _summary(scores, facts),
        _classes(scores),
        _curves(scores, precision_recall),
        _confusion(confused),
        *_hardest(examples.hardest),
        *_predicted(examples.predicted),
    )


def _summary(scores: Scores, facts: Sequence[tuple[str, str]]) -> Html:
    counts = [*facts, ("images", str(scores.num_images)), ("detections", str(scores.num_results))]
    return section(
        "COCO's scores",
        numbers([(name, figure(value)) for name, value in scores.metrics.items()]),
        paragraph(
            "AP is the average precision over IoU 0.50 to 0.95, AP50 and AP75 at one IoU; s, m and l stand for small, "
            "medium and large objects (below 32², 32² to 96², above 96² pixels). AR is the average recall with 1, 10 "
            "or 100 detections an image. - means that there is nothing to measure.",
            quiet=True,
        ),
        *[paragraph(f"{name}: {value}") for name, value in counts],
        *[paragraph(note) for note in scores.notes],
    )


def _classes(scores: Scores) -> Html:
    rows = [
        [score.name, str(score.objects), *map(figure, (score.ap, score.ap50, score.ap75)), *_figures(score.threshold)]
        for score in scores.per_class
    ]
    objects = sum(score.objects for score in scores.per_class)
    mean = [figure(scores.metrics[name]) for name in ("AP", "AP50", "AP75")]
    rows.append(["all classes", str(objects), *mean, *_figures(scores.threshold)])
    few = [score.name for score in scores.per_class if score.objects < MIN_OBJECTS]
    some = ""
    if few and scores.threshold is not None:
        shown = ", ".join(few[:10]) + (f" and {len(few) - 10} more" if len(few) > 10 else "")
        some = (
            f" Classes with fewer than {MIN_OBJECTS} objects take the threshold of all classes together, because one "
            f"of their own would follow chance: {shown}."
        )
    header = ["class", "objects", "AP", "AP50", "AP75", "threshold", "precision", "recall", "F1"]
    return section(
        "Classes",
        table("Scores by class; precision, recall and F1 at the score threshold of the class, IoU 0.50", header, rows),
        paragraph(
            "The threshold is the one with the best F1 score. Prediction uses it for its class where no other is given."
            f"{some}",
            quiet=True,
        ),
    )


def _figures(threshold: Threshold | None) -> list[str]:
    if threshold is None:
        return ["-"] * 4
    return [figure(value) for value in (threshold.score, threshold.precision, threshold.recall, threshold.f1)]


def _curves(scores: Scores, precision_recall: PrecisionRecall) -> Html:
    curves = confidence_curves(scores)
    mean, by_class = precision_recall_pngs(precision_recall)
    together, f1 = confidence_pngs(curves)
    return section(
        "Curves",
        pictures(
            [
                picture(together, "Precision, recall and F1 over the score threshold, all classes together."),
                picture(f1, "F1 over the score threshold, by class."),
                picture(mean, "Precision against recall, the mean over classes, at several IoU thresholds."),
                picture(by_class, "Precision against recall by class, at IoU 0.50."),
            ],
            wide=True,
        ),
    )


def confidence_curves(scores: Scores, points: int = 201) -> ConfidenceCurves:
    """Precision, recall and F1 at evenly spaced score thresholds."""
    at = np.linspace(0, 1, points)
    everything = all_together(scores.curves)
    overall = [everything.at(float(score)) for score in at]
    return ConfidenceCurves(
        thresholds=at,
        overall=np.array([[point.precision, point.recall, point.f1] for point in overall]).T,
        f1=np.array([[curve.at(float(score)).f1 for score in at] for curve in scores.curves]).reshape(-1, points),
        names=tuple(score.name for score in scores.per_class),
        objects=tuple(score.objects for score in scores.per_class),
    )


def _confusion(confused: Confusion) -> Html:
    shown = confused.reduced(MAX_CLASSES)
    names = (*shown.names, BACKGROUND)
    rows = [
        [name, *(str(count) if count else "" for count in row)]
        for name, row in zip(names, shown.counts.tolist(), strict=True)
    ]
    levels = sorted({round(confused.thresholds.of(i), 3) for i in confused.category_ids})
    score = "" if not levels else f"{levels[0]:g}" if len(levels) == 1 else f"{levels[0]:g} to {levels[-1]:g}"
    caption = f"True classes down, detected classes across; IoU {confused.iou_threshold:.2f}"
    most = [[f"{true} → {detected}", str(count)] for true, detected, count in confused.most_frequent(MAX_CONFUSIONS)]
    return section(
        "Confusion matrix",
        table(caption, ["", *names], rows, styles=_shades(shown), kind="matrix"),
        paragraph(
            f"A detection counts if its score is at least the threshold of its class ({score}). It belongs to the "
            f"object that it overlaps with an IoU of at least {confused.iou_threshold:.2f}, first to one of its own "
            f"class. The row {BACKGROUND} counts detections where no object is, the column {BACKGROUND} objects that "
            "no detection finds. The colour is the share of the objects of a row; blue is right.",
            quiet=True,
        ),
        *([table("The most frequent mistakes", ["true → detected", "times"], most)] if most else []),
    )


def _shades(confused: Confusion) -> list[list[str]]:
    """The background of each field of the matrix, after an empty one for the name of the row."""
    totals = np.maximum(confused.counts.sum(axis=1, keepdims=True), 1)
    shares = confused.counts / totals
    return [
        ["", *(_shade(share, right=i == j) for j, share in enumerate(row))] for i, row in enumerate(shares.tolist())
    ]


def _shade(share: float, *, right: bool) -> str:
    return f"background: rgb(var(--{'right' if right else 'wrong'}) / {0.6 * share:.2f})" if share else ""


def _hardest(hardest: Sequence[ImageMistakes]) -> list[Html]:
    if not hardest:
        return [section("The hardest images", paragraph("No image has a mistake."))]
    figures = [picture(jpeg(mistakes_picture(image)), image.title, image.title) for image in hardest]
    legend = paragraph(
        "Red: an object that no detection finds. Orange, with its score: a detection where no object of its class is. "
        "Green: a found object. The images with the most mistakes come first; a wrong detection counts by its score.",
        quiet=True,
    )
    return [section("The hardest images", legend, pictures(figures))]


def _predicted(predicted: Sequence[Example]) -> list[Html]:
    if not predicted:
        return []
    figures = [
        picture(jpeg(example_picture(example)), f"Truth and predictions: {example.title}", example.title)
        for example in predicted
    ]
    return [section("Predictions beside the truth", pictures(figures, wide=True))]
