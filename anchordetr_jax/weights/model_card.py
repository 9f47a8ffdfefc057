"""The model card of a saved detector: a README.md that people and the Hugging Face Hub read."""

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from anchordetr_jax.config import Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.records.values import counted
from anchordetr_jax.weights.folder import LIBRARY

METRICS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
"""Scores that a card shows, where they are known."""
MOST_NAMES = 30
"""Class names that a card lists; config.json has all."""


def model_card(
    name: str,
    config: Config,
    categories: Categories | None,
    *,
    license: str | None = None,
    data: str | None = None,
    scores: Mapping[str, float] | None = None,
) -> str:
    """The text of a card.

    Args:
        name: the model's name: that of its folder or repository.
        config: its settings.
        categories: its classes. None: nobody knows them.
        license: SPDX identifier, such as "apache-2.0". None: the card names none.
        data: name of the data set that it was trained and scored on.
        scores: COCO's numbers by name, between 0 and 1.
    """
    header = {
        "library_name": LIBRARY,
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "anchor-detr", "jax"],
    }
    if license:
        header["license"] = license
    if data:
        header["datasets"] = [_slug(data)]
    known = {metric: float(scores[metric]) for metric in METRICS if scores and metric in scores}
    shown = {metric: round(score, 4) for metric, score in known.items() if score >= 0}  # -1: nothing to measure.
    if shown:
        results = {
            "task": {"type": "object-detection"},
            "dataset": {"type": _slug(data or "unknown"), "name": data or "unknown"},
            "metrics": [{"type": metric, "name": metric, "value": value} for metric, value in shown.items()],
        }
        header["model-index"] = [{"name": name, "results": [results]}]  # type: ignore[list-item]
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{_body(name, config, categories, license, data, shown)}"


def _body(
    name: str,
    config: Config,
    categories: Categories | None,
    license: str | None,
    data: str | None,
    scores: Mapping[str, float],
) -> str:
    model = config.model
    stage = "DC5" if model.dilation else "C5"
    classes = f"{model.num_classes} class outputs without names"
    if categories is not None:
        names = ", ".join(categories.names[:MOST_NAMES]) + (", …" if len(categories.names) > MOST_NAMES else "")
        classes = f"{counted(len(categories.names), 'class', 'classes')}: {names}"
    lines = [
        f"# {name}",
        "",
        f"An [Anchor DETR](https://arxiv.org/abs/2109.07107) object detector for the Python package `{LIBRARY}` (JAX).",
        "",
        f"- Network: {model.backbone}, {stage}, {model.encoder_layers} encoder and {model.decoder_layers} decoder "
        f"layers, {model.num_patterns} patterns × {model.num_anchor_points} anchor points",
        f"- Detects {classes}",
        f"- Images: short side {config.augment.eval_size} pixels, long side at most {config.augment.max_size}",
        f"- Trained on: {data or 'not stated'}",
        f"- License: {license or 'not stated'}",
    ]
    if scores:
        lines += ["", "| " + " | ".join(scores) + " |", "|" + "---|" * len(scores)]
        lines += ["| " + " | ".join(f"{value:.3f}" for value in scores.values()) + " |"]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "from anchordetr_jax import Detector",
        "",
        f'detector = Detector.from_pretrained("{name if "/" not in name else "hf://" + name}")',
        'detections = detector.predict("photo.jpg", threshold=0.5)',
        "for detection in detections:",
        "    print(detection)",
        'detections.draw().save("seen.jpg")',
        "```",
        "",
    ]
    return "\n".join(lines)


def folder_name(folder: str) -> str:
    """The name that a folder gives a model."""
    return Path(folder).expanduser().resolve().name or "detector"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "unknown"
