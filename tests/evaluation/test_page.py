"""The page of an evaluation needs no other file, and its figures are those of the metrics."""

import base64
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.data.source import DetectionSource
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES, Scores, coco_scores
from anchordetr_jax.evaluation.report import confusion_of, write_report
from tests.data.coco_folder import open_coco
from tests.page import Page

NAMES = {1: "<b>cat</b> & 'co'", 2: "dog", 5: "cow"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> DetectionSource:
    """Four noisy images, each with 8 cats and 4 dogs in a row; no cows."""
    root = tmp_path_factory.mktemp("<images>")
    rng = np.random.default_rng(0)
    for number in range(4):
        Image.fromarray(rng.integers(0, 256, (40, 300, 3), np.uint8)).save(root / f"a&{number}.png")
    boxes = [[4 + 24 * place, 4 + number, 20, 30] for number in range(4) for place in range(12)]
    contents = {
        "images": [{"id": i, "file_name": f"a&{i}.png", "width": 300, "height": 40} for i in range(4)],
        "annotations": [
            {"id": i + 1, "image_id": i // 12, "category_id": 1 if i % 12 < 8 else 2, "bbox": box}
            for i, box in enumerate(boxes)
        ],
        "categories": [{"id": number, "name": name} for number, name in NAMES.items()],
    }
    (root / "a.json").write_text(json.dumps(contents))
    return open_coco(root, root / "a.json")


@pytest.fixture(scope="module")
def results(dataset: DetectionSource) -> list[dict[str, Any]]:
    """Some of the objects, some with another class, and some detections of nothing."""
    truth = dataset.ground_truth()
    assert truth is not None
    rng = np.random.default_rng(1)
    entries = []
    for box in truth["annotations"]:
        taken_for = 5 if rng.random() < 0.2 else box["category_id"]
        if rng.random() < 0.8:
            score = round(float(rng.uniform(0.3, 0.9)), 3)
            entries.append({**{k: box[k] for k in ("image_id", "bbox")}, "category_id": taken_for, "score": score})
        if rng.random() < 0.3:
            score = round(float(rng.uniform(0, 0.6)), 3)
            entries.append({"image_id": box["image_id"], "bbox": [0, 0, 9, 9], "category_id": 2, "score": score})
    return entries


@pytest.fixture(scope="module")
def scores(dataset: DetectionSource, results: list[dict[str, Any]]) -> Scores:
    truth = dataset.ground_truth()
    assert truth is not None
    return coco_scores(truth, results)


@pytest.fixture(scope="module")
def report(
    dataset: DetectionSource,
    results: list[dict[str, Any]],
    scores: Scores,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("out") / "report"
    write_report(folder, dataset, results, scores, facts=[("checkpoint", "runs/<mine>")])
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page.of(report / "index.html")


def figure(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"


def test_everything_is_in_the_page(page: Page) -> None:
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    assert "script" not in page.tags
    for shown in page.pictures:
        assert shown["alt"]
        data = base64.b64decode(str(shown["src"]).partition(",")[2])
        with Image.open(io.BytesIO(data)) as image:
            assert (str(image.width), str(image.height)) == (shown["width"], shown["height"])


def test_the_numbers_are_cocos(page: Page, scores: Scores) -> None:
    assert page.numbers == {name: figure(scores.metrics[name]) for name in METRIC_NAMES}


def test_the_figures_of_the_classes_are_those_of_the_scores(page: Page, scores: Scores) -> None:
    table = page.tables[0]
    assert [row[0] for row in table[1:]] == [*NAMES.values(), "all classes"]
    for row, score in zip(table[1:], scores.per_class, strict=False):
        best = score.threshold
        assert best is not None
        expected = [score.ap, score.ap50, score.ap75, best.score, best.precision, best.recall, best.f1]
        assert row[1:] == [str(score.objects), *map(figure, expected)]
    assert "cow" in page.text.partition("would follow chance: ")[2].partition(".")[0]


def test_the_matrix_is_the_confusion_and_agrees_with_the_figures_of_the_classes(
    page: Page, report: Path, dataset: DetectionSource, results: list[dict[str, Any]], scores: Scores
) -> None:
    expected = confusion_of(dataset, results, scores).counts
    table = page.tables[1]
    assert table[0] == ["", *NAMES.values(), "background"]
    counts = np.array([[int(text or 0) for text in row[1:]] for row in table[1:]])
    np.testing.assert_array_equal(counts, expected)
    with open(report / "confusion_matrix.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][1:] == [*NAMES.values(), "background"]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows[1:]], int), expected)
    for place, score in enumerate(scores.per_class):
        if score.objects:
            assert score.threshold is not None
            assert score.threshold.recall == pytest.approx(counts[place, place] / counts[place].sum())
            assert score.threshold.precision == pytest.approx(counts[place, place] / counts[:, place].sum())


def test_names_from_data_are_shown_as_they_are(page: Page) -> None:
    assert "b" not in page.tags
    assert "checkpoint: runs/<mine>" in page.text
    assert "a&0.png" in page.text


def test_a_page_of_a_detector_that_finds_nothing_is_whole(dataset: DetectionSource, tmp_path: Path) -> None:
    truth = dataset.ground_truth()
    assert truth is not None
    write_report(tmp_path, dataset, [], coco_scores(truth, []))
    page = Page.of(tmp_path / "index.html")
    assert page.tables[0][-1] == ["all classes", "48", "0.000", "0.000", "0.000", "-", "-", "-", "-"]
    assert [row[-1] for row in page.tables[1][1:]] == ["32", "16", "", ""]
