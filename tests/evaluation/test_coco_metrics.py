import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import METRIC_NAMES, class_table, coco_scores, summary_line

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "traffic light"}]


def annotations_of(boxes, num_images=3):
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 200, "height": 150} for i in range(num_images)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": image,
                "category_id": category,
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": crowd,
            }
            for i, (image, category, box, crowd) in enumerate(boxes)
        ],
        "categories": CATEGORIES,
    }


def entry(image_id, category_id, box, score):
    return {"image_id": image_id, "category_id": category_id, "bbox": box, "score": score}


@pytest.fixture
def noisy_case():
    """Random objects of all three COCO sizes, a crowd, and detections that are right, double or wrong."""
    rng = np.random.default_rng(0)
    boxes, results = [], []
    for image in range(6):
        for _ in range(rng.integers(0, 8)):
            box = [*rng.uniform(0, 100, 2).round(1), *rng.choice([12.0, 50.0, 120.0], 2)]
            category = int(rng.choice([3, 7]))
            boxes.append((image, category, box, int(rng.random() < 0.1)))
            for _ in range(rng.integers(0, 3)):
                near = (np.array(box) + rng.normal(0, 4, 4)).tolist()
                results.append(entry(image, category, near, float(rng.random())))
        results.append(entry(image, 7, [*rng.uniform(0, 90, 2), 30.0, 30.0], float(rng.random())))
    return annotations_of(boxes, num_images=7), results


def pycocotools_alone(truth, results_file):
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth = COCO()
        ground_truth.dataset = truth
        ground_truth.createIndex()
        evaluation = COCOeval(ground_truth, ground_truth.loadRes(str(results_file)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def test_scores_equal_pycocotools_on_the_written_file(noisy_case, tmp_path):
    truth, results = noisy_case
    written = tmp_path / "results.json"
    written.write_text(json.dumps(results))
    scores = coco_scores(truth, results)
    assert list(scores.metrics) == list(METRIC_NAMES)
    assert list(scores.metrics.values()) == pycocotools_alone(truth, written).tolist()
    assert 0 < scores.metrics["AP"] < 1


def test_the_table_shows_the_twelve_numbers(noisy_case):
    scores = coco_scores(*noisy_case)
    lines = scores.table.splitlines()
    assert len(lines) == 12
    for line, value in zip(lines, scores.metrics.values(), strict=True):
        assert line.endswith(f"= {value:.3f}")


def test_class_scores_average_to_the_whole(noisy_case):
    scores = coco_scores(*noisy_case)
    assert [score.category_id for score in scores.per_class] == [3, 7]
    assert np.mean([score.ap for score in scores.per_class]) == pytest.approx(scores.metrics["AP"])
    assert np.mean([score.ap50 for score in scores.per_class]) == pytest.approx(scores.metrics["AP50"])
    assert np.mean([score.ap75 for score in scores.per_class]) == pytest.approx(scores.metrics["AP75"])


def test_results_are_left_as_they_were(noisy_case):
    truth, results = noisy_case
    before = json.dumps(results)
    coco_scores(truth, results)
    assert json.dumps(results) == before


def test_nothing_is_printed(noisy_case, capsys):
    coco_scores(*noisy_case)
    assert capsys.readouterr().out == ""


def test_perfect_detections_score_one():
    contents = annotations_of([(0, 3, [10, 10, 50, 60], 0), (2, 7, [5, 5, 20, 20], 0)])
    results = [entry(box["image_id"], box["category_id"], box["bbox"], 0.9) for box in contents["annotations"]]
    scores = coco_scores(contents, results)
    assert scores.metrics["AP"] == pytest.approx(1.0)
    assert summary_line(scores.metrics) == "AP=1.000 AP50=1.000"


def test_no_results_at_all_score_zero():
    scores = coco_scores(annotations_of([(0, 3, [10, 10, 50, 60], 0)]), [])
    assert scores.metrics["AP"] == 0
    assert scores.metrics["AP50"] == 0
    assert scores.num_images == 3


def test_an_image_without_results_counts_as_missed():
    contents = annotations_of([(0, 3, [10, 10, 50, 60], 0), (1, 3, [10, 10, 50, 60], 0)])
    scores = coco_scores(contents, [entry(0, 3, [10, 10, 50, 60], 0.9)])
    assert scores.metrics["AR100"] == pytest.approx(0.5)


def test_only_the_images_asked_for_are_scored():
    contents = annotations_of([(0, 3, [10, 10, 50, 60], 0), (1, 3, [10, 10, 50, 60], 0)])
    scores = coco_scores(contents, [entry(0, 3, [10, 10, 50, 60], 0.9)], image_ids=[0])
    assert scores.metrics["AR100"] == pytest.approx(1.0)
    assert scores.num_images == 1


def test_entries_of_unknown_categories_change_nothing():
    contents = annotations_of([(0, 3, [10, 10, 50, 60], 0)])
    hit = entry(0, 3, [10, 10, 50, 60], 0.5)
    with_stray = coco_scores(contents, [hit, entry(0, 99, [10, 10, 50, 60], 0.9)])
    assert with_stray.metrics == coco_scores(contents, [hit]).metrics


def test_a_result_for_an_unknown_image_is_refused():
    with pytest.raises(UserError, match="image 12"):
        coco_scores(annotations_of([]), [entry(12, 3, [0, 0, 5, 5], 0.5)])


def test_asking_for_an_unknown_image_is_refused():
    with pytest.raises(UserError, match="Image 12"):
        coco_scores(annotations_of([]), [], image_ids=[0, 12])


@pytest.mark.parametrize("ids", [[1, 1], [0, 1], [None, None], ["a", "b"]])
def test_the_ids_of_annotations_change_nothing(ids):
    contents = annotations_of([(0, 3, [10, 10, 50, 60], 0), (1, 3, [10, 10, 30, 40], 0)])
    results = [entry(box["image_id"], box["category_id"], box["bbox"], 0.9) for box in contents["annotations"]]
    for record, number in zip(contents["annotations"], ids, strict=True):
        record["id"] = number
    assert coco_scores(contents, results).metrics["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize("boxes", [[], [(0, 3, [10, 10, 50, 60], 1)]])
def test_ground_truth_without_objects_explains_its_scores(boxes):
    scores = coco_scores(annotations_of(boxes), [entry(0, 3, [10, 10, 50, 60], 0.9)], name="val.json")
    assert scores.metrics["AP"] == -1
    (note,) = scores.notes
    assert note.startswith("val.json has no object to find (crowd regions do not count), so every score is -1")
    assert coco_scores(annotations_of([(0, 3, [10, 10, 50, 60], 0)]), []).notes == ()


@pytest.mark.parametrize(("objects", "crowd", "said"), [(100, 0, False), (101, 0, True), (101, 1, False)])
def test_more_objects_of_a_class_than_ap_counts_are_said(objects, crowd, said):
    boxes = [(0, 3, [10 * number, 10, 5, 5], crowd) for number in range(objects)] + [(1, 3, [10, 10, 5, 5], 0)]
    scores = coco_scores(annotations_of(boxes), [], name="val.json")
    assert (
        any("1 of the images of val.json have more than 100 objects of one class, up to 101" in n for n in scores.notes)
        == said
    )
    assert coco_scores(annotations_of(boxes), [], [1], name="val.json").notes == ()


def test_class_table_is_aligned_and_marks_classes_without_objects():
    scores = coco_scores(annotations_of([(0, 3, [10, 10, 50, 60], 0)]), [])
    header, cat, light = class_table(scores).splitlines()
    assert len(header) == len(cat) == len(light)
    assert cat.split() == ["cat", "1", "0.000", "0.000", "0.000", "-", "-"]
    assert light.split() == ["traffic", "light", "0", "-", "-", "-", "-", "-"]


def test_figures_survive_json(noisy_case):
    scores = coco_scores(*noisy_case)
    assert json.loads(json.dumps(scores.to_dict()))["AP"] == scores.metrics["AP"]
