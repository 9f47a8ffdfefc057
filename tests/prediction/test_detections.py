import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax import Detection, Detections, UserError


def detections(source: str | None = None) -> Detections:
    return Detections(
        boxes=np.array([[1, 2, 11, 22], [0, 0, 40, 30], [5, 5, 6, 6]], np.float32),
        scores=np.array([0.9, 0.5, 0.25], np.float32),
        labels=np.array([1, 0, 1]),
        names=("dog", "cat", "dog"),
        category_ids=np.array([7, 3, 7]),
        image_size=(30, 40),
        source=source,
        classes=("cat", "dog", "wolf", "hot dog"),
        best_score=0.9,
    )


def test_iterating_gives_each_detection_best_first() -> None:
    assert [(found.name, found.score) for found in detections()] == [
        ("dog", pytest.approx(0.9)),
        ("cat", 0.5),
        ("dog", 0.25),
    ]
    assert detections()[0] == Detection((1, 2, 11, 22), float(np.float32(0.9)), 1, "dog", 7)
    assert detections()[-1].score == 0.25


def test_some_are_picked_by_slice_mask_places_score_and_class() -> None:
    found = detections()
    assert found[:2].names == ("dog", "cat")
    assert found[found.scores < 0.6].names == ("cat", "dog")
    assert found[[2, 0]].scores.tolist() == [0.25, pytest.approx(0.9)]
    assert len(found[[]]) == 0
    assert len(found.above(0.5)) == 2
    assert found.of("dog").labels.tolist() == [1, 1]


def test_a_threshold_that_is_no_score_is_refused() -> None:
    with pytest.raises(UserError, match=r"between 0 and 1, not 50 \(did you mean 0\.5\?\)"):
        detections().above(50)


def test_a_known_class_without_detections_gives_none() -> None:
    assert len(detections().of("wolf")) == 0


def test_a_misspelt_class_is_refused_with_the_classes_nearest_first() -> None:
    with pytest.raises(UserError, match=r"no class 'Dogg'\. It has 'dog', 'hot dog', .*'cat'"):
        detections().of("cat", "Dogg")


def test_many_classes_are_not_all_listed() -> None:
    many = dataclasses.replace(detections(), classes=tuple(f"class {i}" for i in range(91)))
    with pytest.raises(UserError, match=r"It has 'class 7', .* and 81 more\.$"):
        many.of("class 7!")


def test_the_arrays_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        detections().boxes[0, 0] = 5


def test_the_text_of_detections_counts_classes() -> None:
    assert repr(detections("a.jpg")) == "<Detections in a.jpg of 40 x 30 pixels: 2 dog, 1 cat>"
    assert repr(detections()[[]]) == "<Detections in an image of 40 x 30 pixels: none (best score 0.90)>"


def test_coco_entries_have_category_ids_and_sides() -> None:
    first = detections().to_coco(image_id=12)[0]
    assert first == {"image_id": 12, "category_id": 7, "bbox": [1, 2, 10, 20], "score": pytest.approx(0.9)}


def test_drawing_reads_the_file_again(tmp_path: Path) -> None:
    Image.new("RGB", (40, 30), "white").save(tmp_path / "a.png")
    picture = detections(str(tmp_path / "a.png")).draw(min_size=0)
    assert picture.size == (40, 30)
    assert (np.asarray(picture) != 255).any()


def test_drawing_on_another_image_is_refused() -> None:
    with pytest.raises(UserError, match="30 x 40 pixels, but the detections are of one with 40 x 30"):
        detections().draw(Image.new("RGB", (30, 40)))


def test_drawing_of_an_image_in_memory_asks_for_it() -> None:
    with pytest.raises(UserError, match="give that image to draw"):
        detections().draw()


def test_supervision_gets_boxes_classes_and_names() -> None:
    given = detections().to_supervision()
    np.testing.assert_array_equal(given.xyxy, detections().boxes)
    assert np.asarray(given.data["class_name"]).tolist() == ["dog", "cat", "dog"]


def test_supervision_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(UserError, match="pip install supervision"):
        detections().to_supervision()
