"""The documented example of a source works as it stands."""

import textwrap
from typing import Any

import numpy as np

from anchordetr_jax.config import AugmentConfig, Config, TrainConfig
from anchordetr_jax.data import source as protocol
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.loader import TrainingBatches
from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.coco_metrics import coco_scores


def test_the_example_can_be_trained_on_and_scored() -> None:
    text = protocol.__doc__ or ""
    names: dict[str, Any] = {"np": np, "Categories": Categories}
    exec(textwrap.dedent(text[text.index("    class Squares") :]), names)
    source: DetectionSource = names["Squares"]()
    augment = AugmentConfig(train_sizes=(32,), crop_probability=0.0)
    _, batch = TrainingBatches(source, Config(train=TrainConfig(batch_size=3), augment=augment)).load(0)
    assert batch.valid.all()
    assert batch.num_boxes.tolist() == [1, 1, 1]
    truth = source.ground_truth()
    assert truth is not None
    results = [{**entry, "score": 1.0} for entry in truth["annotations"]]
    assert coco_scores(truth, results).metrics["AP"] == 1.0
