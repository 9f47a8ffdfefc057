import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax import Detector
from anchordetr_jax.explanation.explain import explain
from anchordetr_jax.explanation.pictures import anchor_picture, attention_picture, pattern_picture
from anchordetr_jax.prediction.inputs import GivenImage
from tests.detector import MODEL, save_detector
from tests.tolerances import SAME32, SCORE32

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
IMAGE = GivenImage("The image", content=PIXELS)


@pytest.fixture(scope="module", params=[{}, {"attention": "standard"}, {"remat": True}], ids=str)
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    model = dataclasses.replace(MODEL, **request.param)
    return Detector.from_pretrained(save_detector(tmp_path_factory.mktemp("detector") / "checkpoint", model))


def test_the_best_queries_are_those_that_are_detected(detector: Detector) -> None:
    found = detector.predict(PIXELS, threshold=0)
    explanation = explain(detector, IMAGE)
    assert explanation.scores[0] == pytest.approx(found.scores[0], abs=SCORE32)
    assert explanation.names[0] == found.names[0]
    np.testing.assert_allclose(
        (explanation.boxes[0] * [56, 40, 56, 40]).clip(0, [56, 40, 56, 40]), found.boxes[0], atol=1e-3
    )
    queries = explanation.patterns * MODEL.num_anchors + explanation.anchors
    assert sorted(queries) == list(range(MODEL.num_patterns * MODEL.num_anchors))


def test_attention_lies_on_the_image_and_sums_to_one(detector: Detector) -> None:
    explanation = explain(detector, IMAGE)
    weights = explanation.cell_attention if explanation.row_attention is None else explanation.row_attention
    assert weights is not None
    assert len(weights) == MODEL.decoder_layers
    for query in range(3):
        attention = explanation.attention(query, 0)
        assert attention.shape == (4, 6)  # 32 x 44 pixels, cells of 8
        assert attention.sum() == pytest.approx(1, abs=SAME32)
        over_columns, over_rows = explanation.marginals(query, 0)
        assert (len(over_columns), len(over_rows)) == (6, 4)
    assert explanation.extent == pytest.approx((1, 48 / 44))


def test_pictures_are_drawn_of_many_and_of_no_detections(detector: Detector, tmp_path: Path) -> None:
    explanation = explain(detector, IMAGE)
    for threshold in (0.0, 1.0):
        anchor_picture(explanation, tmp_path / "anchors.png", threshold=threshold)
        attention_picture(explanation, tmp_path / "attention.png", queries=explanation.above(threshold, 3))
        pattern_picture([explanation.without_attention()] * 2, tmp_path / "patterns.png", threshold=threshold)
        for path in tmp_path.glob("*.png"):
            with Image.open(path) as picture:
                assert picture.width > 300
