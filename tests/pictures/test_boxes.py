import json

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.errors import UserError
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from anchordetr_jax.pictures.boxes import (
    MISSED,
    Boxes,
    Example,
    Miss,
    class_colour,
    draw_detections,
    plot_curves,
    plot_precision_recall,
    prediction_grid,
    worst_misses,
)
from anchordetr_jax.pictures.curves import read_metrics


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def boxes(rows, scores=None):
    return Boxes(
        boxes=np.array(rows, float).reshape(-1, 4), labels=[1] * len(rows), names=["cat"] * len(rows), scores=scores
    )


def opened(path):
    with Image.open(path) as picture:
        return picture.convert("RGB")


def has_colour(picture, colour):
    return bool((np.asarray(picture) == np.array(colour)).all(axis=-1).any())


def test_a_box_is_drawn_along_its_edges_only():
    picture = draw_detections(grey(400, 600), np.array([[100.0, 50.0, 400.0, 300.0]]), [2], [""], min_size=0)
    pixels = np.asarray(picture)
    assert tuple(pixels[175, 100]) == class_colour(2)
    assert tuple(pixels[300, 250]) == class_colour(2)
    assert tuple(pixels[175, 250]) == (128, 128, 128)
    assert tuple(pixels[175, 50]) == (128, 128, 128)


def test_lines_grow_with_the_image():
    def line_width(size):
        box = np.array([[0.25, 0.25, 0.75, 0.75]]) * size
        picture = np.asarray(draw_detections(grey(size, size), box, [0], [""], min_size=0))
        return int((picture[size // 2, : size // 2] == np.array(class_colour(0))).all(axis=-1).sum())

    assert line_width(2000) >= 3 * line_width(500) > 0


def test_small_images_are_enlarged_before_drawing():
    picture = draw_detections(grey(75, 100), np.array([[10.0, 10.0, 50.0, 50.0]]), [0], ["cat"], [0.5])
    assert picture.size == (640, 480)
    assert tuple(np.asarray(picture)[200, 64]) == class_colour(0)


def test_the_image_itself_is_not_drawn_on():
    image = grey(700, 700)
    draw_detections(image, np.array([[10.0, 10.0, 50.0, 50.0]]), [0], ["cat"])
    draw_detections(Image.fromarray(image), np.array([[10.0, 10.0, 50.0, 50.0]]), [0], ["cat"])
    assert (image == 128).all()


def test_no_boxes_leave_the_image_as_it_is():
    picture = draw_detections(grey(700, 900), np.zeros((0, 4)), [], [], [])
    assert (np.asarray(picture) == grey(700, 900)).all()


@pytest.mark.parametrize(
    "box",
    [[-50.0, -50.0, 900.0, 900.0], [300.0, 300.0, 300.0, 300.0], [800.0, 10.0, 900.0, 20.0], [50.0, 60.0, 20.0, 10.0]],
)
def test_odd_boxes_are_drawn_without_complaint(box):
    picture = draw_detections(grey(700, 700), np.array([box]), [0], ["a rather long class name"], [0.123])
    assert has_colour(picture, class_colour(0))


def test_colours_of_neighbouring_classes_differ():
    colours = np.array([class_colour(label) for label in range(91)], float)
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 60
    assert len({tuple(colour) for colour in colours}) == 91


def test_colours_are_steady():
    assert class_colour(17) == class_colour(17)


def test_prediction_grid_shows_pairs_of_images_of_any_size(tmp_path):
    examples = [
        Example(
            image=grey(60, 90), truth=boxes([[5, 5, 40, 40]]), predictions=boxes([[5, 5, 40, 40]], [0.8]), title="a.png"
        ),
        Example(image=grey(900, 200), truth=boxes([]), predictions=boxes([], [])),
        Example(image=grey(30, 30), truth=boxes([[1, 1, 9, 9]]), predictions=boxes([], []), title="b.png"),
    ]
    prediction_grid(examples, tmp_path / "new" / "predictions.png", columns=2, cell=200)
    picture = opened(tmp_path / "new" / "predictions.png")
    assert picture.width >= 4 * 200
    assert has_colour(picture, class_colour(1))


def test_worst_misses_marks_missed_objects(tmp_path):
    miss = Miss(
        image=grey(80, 120),
        missed=boxes([[5, 5, 40, 40]]),
        invented=boxes([[50, 5, 90, 40]], [0.9]),
        found=boxes([[50, 50, 70, 70]]),
        title="a.png",
    )
    worst_misses([miss], tmp_path / "misses.png", cell=300)
    picture = np.asarray(opened(tmp_path / "misses.png"))
    assert has_colour(picture[60:], MISSED)  # below the legend


def test_grids_of_nothing_are_still_pictures(tmp_path):
    prediction_grid([], tmp_path / "predictions.png")
    worst_misses([], tmp_path / "misses.png")
    for name in ("predictions.png", "misses.png"):
        assert opened(tmp_path / name).width > 0


def write_metrics(path, num_steps):
    lines = []
    for step in range(1, num_steps + 1):
        lines.append(
            json.dumps(
                {"step": step, "epoch": step / 5, "loss": 30 / step, "loss/class": 10 / step, "learning_rate": 1e-4}
            )
        )
        if step % 5 == 0:
            lines.append(json.dumps({"step": step, "epoch": step / 5, "val/AP": 0.01 * step, "val/AP50": -1.0}))
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("num_steps", [0, 1, 3, 100])
def test_curves_are_drawn_however_long_the_run(tmp_path, num_steps):
    write_metrics(tmp_path / "metrics.jsonl", num_steps)
    plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert opened(tmp_path / "curves.png").width > 800


def test_a_torn_last_line_is_passed_over(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_metrics(path, 5)
    whole = read_metrics(path)
    with open(path, "a") as file:
        file.write('{"step": 6, "loss": 3')
    assert read_metrics(path) == whole
    assert len(whole) == 6
    plot_curves(path, tmp_path / "curves.png")


def test_steps_written_again_by_a_resumed_run_count_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 5}\n{"step": 2, "loss": 4}\n{"step": 2, "loss": 3}\n{"step": 3, "loss": 2}\n')
    assert [entry["loss"] for entry in read_metrics(path)] == [5, 3, 2]


def test_curves_of_a_missing_file_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")


def test_values_that_are_not_finite_leave_a_gap(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": NaN}\n{"step": 2, "loss": 3.0}\n{"step": 3, "loss": Infinity}\n')
    plot_curves(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").exists()


@pytest.mark.parametrize("num_objects", [0, 2])
def test_precision_recall_is_drawn_with_and_without_objects(tmp_path, num_objects):
    objects = [
        {"id": i + 1, "image_id": 1, "category_id": 1 + i, "bbox": [5, 5 + 40 * i, 30, 30]} for i in range(num_objects)
    ]
    categories = [{"id": i, "name": f"class {i}"} for i in range(1, 4)]
    scores = coco_scores({"images": [{"id": 1}], "annotations": objects, "categories": categories}, [])
    plot_precision_recall(scores, tmp_path / "pr.png", max_classes=1)
    assert opened(tmp_path / "pr.png").width > 800


def test_pyplot_is_left_alone(tmp_path):
    import matplotlib.pyplot as plt

    write_metrics(tmp_path / "metrics.jsonl", 5)
    plot_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert plt.get_fignums() == []
