"""Tiles find small objects in large pictures, with one compiled program."""

import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from PIL import Image

from anchordetr_jax import Detector, UserError
from anchordetr_jax.detection.postprocess import TopDetections
from anchordetr_jax.evaluation.coco_metrics import coco_scores
from anchordetr_jax.prediction import network
from anchordetr_jax.prediction.network import ImageDetections
from anchordetr_jax.prediction.tiled import TileSettings, detect_in_tiles
from tests.detector import save_detector

SIDE, ROWS, SLOTS = 100, 4, 40
SMALLEST = 5
"""Pixels: the stand-in sees no smaller object, as a network does not."""


class SquareFinder:
    """Stands in for a network: it finds white squares as the views show them."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: np.ndarray, image_sizes: np.ndarray, original_sizes: np.ndarray) -> TopDetections:
        self.shapes.append(pixels.shape)
        scores, boxes = np.zeros((len(pixels), SLOTS), np.float32), np.zeros((len(pixels), SLOTS, 4), np.float32)
        for row, (image, size, original) in enumerate(zip(pixels, image_sizes, original_sizes, strict=True)):
            areas, _ = scipy.ndimage.label(image[: size[0], : size[1], 0] > 127)
            scale = original / size
            slot = 0
            for slices in scipy.ndimage.find_objects(areas):
                assert slices is not None
                down, across = slices
                if min(down.stop - down.start, across.stop - across.start) >= SMALLEST:
                    corners = np.array([across.start, down.start, across.stop, down.stop])
                    boxes[row, slot], scores[row, slot] = corners * scale[[1, 0, 1, 0]], 0.9
                    slot += 1
        return TopDetections(scores, np.zeros(scores.shape, np.int32), boxes)  # type: ignore[arg-type]


def picture_with(squares: list[tuple[int, int, int]], size: tuple[int, int] = (600, 900)) -> np.ndarray:
    """A black picture with white squares: (left, top, side)."""
    pixels = np.zeros((*size, 3), np.uint8)
    for left, top, side in squares:
        pixels[top : top + side, left : left + side] = 255
    return pixels


def give(picture: np.ndarray | UserError) -> np.ndarray:
    if isinstance(picture, UserError):
        raise picture
    return picture


def detect(
    pictures: list[np.ndarray | UserError], tile: int, side: int = SIDE, shape: tuple[int, int] = (112, 112)
) -> tuple[list[Any], SquareFinder]:
    finder = SquareFinder()
    reading = [functools.partial(give, picture) for picture in pictures]
    with ThreadPoolExecutor(2) as pool:
        found = list(detect_in_tiles(reading, finder, pool, TileSettings(tile, 0.2, side, shape, ROWS)))
    return found, finder


def boxes_of(picture: ImageDetections) -> list[list[int]]:
    return sorted(picture.boxes[picture.scores > 0].round().astype(int).tolist())


SMALL = [(left, top, 14) for left in range(20, 880, 61) for top in range(10, 590, 53)]


def test_small_objects_are_found_in_tiles_and_not_in_the_whole_picture() -> None:
    picture = picture_with(SMALL)
    ((_, whole),), _ = detect([picture], tile=900)
    ((_, tiled),), _ = detect([picture], tile=120)
    assert boxes_of(whole) == []
    found = np.array(boxes_of(tiled))
    expected = np.array(sorted([left, top, left + side, top + side] for left, top, side in SMALL))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2)


def average_precision(picture: ImageDetections, squares: list[tuple[int, int, int]]) -> float:
    """COCO's AP of what is found in one picture of one class."""
    height, width = picture.size
    truth = {
        "images": [{"id": 1, "file_name": "1.png", "height": height, "width": width}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "bbox": [left, top, side, side], "area": side**2, "iscrowd": 0}
            for i, (left, top, side) in enumerate(squares, start=1)
        ],
        "categories": [{"id": 1, "name": "square"}],
    }
    results = [
        {"image_id": 1, "category_id": 1, "bbox": [x, y, right - x, bottom - y], "score": score}
        for score, (x, y, right, bottom) in zip(picture.scores.tolist(), picture.boxes.tolist(), strict=True)
        if score > 0
    ]
    return coco_scores(truth, results)["AP"]


def test_objects_of_20_pixels_in_a_picture_of_6000x4000_pixels_have_an_ap_of_1_with_tiles_and_0_without() -> None:
    rng = np.random.default_rng(0)
    cells = [(x, y) for y in range(0, 4000, 500) for x in range(0, 6000, 500)]
    squares = [(x + dx, y + dy, 20) for (x, y), (dx, dy) in zip(cells, rng.integers(0, 470, (96, 2)), strict=True)]
    # Tiles of 640 pixels begin every 512 pixels. These lie on their edges.
    assert sum((left % 512 > 492) or (top % 512 > 492) for left, top, _ in squares) > 5
    picture = picture_with(squares, (4000, 6000))
    ((_, whole),), _ = detect([picture], 6000, 640, (640, 640))
    ((_, tiled),), finder = detect([picture], 640, 640, (640, 640))
    assert (average_precision(whole, squares), average_precision(tiled, squares)) == (0, 1)
    assert set(finder.shapes) == {(ROWS, 640, 640, 3)}


def test_objects_larger_than_a_tile_and_objects_that_tiles_cut_are_found_once() -> None:
    squares = [(10, 10, 300), (400, 30, 110), (600, 300, 60), (700, 100, 20)]
    ((_, found),), _ = detect([picture_with(squares)], tile=120)
    expected = sorted([left, top, left + side, top + side] for left, top, side in squares)
    np.testing.assert_allclose(boxes_of(found), expected, atol=10)  # A pixel of the whole view is nine of the picture.


def test_pictures_of_all_sizes_share_batches_of_one_shape_and_come_in_their_order() -> None:
    pictures: list[np.ndarray | UserError] = [
        picture_with([(5, 5, 30)], (60, 40)),
        UserError("broken"),
        picture_with(SMALL),
        picture_with([(150, 20, 20)], (100, 300)),
    ]
    found, finder = detect(pictures, tile=120)
    assert sorted(index for index, _ in found) == [0, 1, 2, 3]
    outcomes = dict(found)
    assert str(outcomes[1]) == "broken"
    assert outcomes[0].size == (60, 40)
    np.testing.assert_allclose(boxes_of(outcomes[0]), [[5, 5, 35, 35]], atol=1)
    np.testing.assert_allclose(boxes_of(outcomes[3]), [[150, 20, 170, 40]], atol=2)
    assert set(finder.shapes) == {(ROWS, 112, 112, 3)}


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    return Detector.from_pretrained(save_detector(tmp_path_factory.mktemp("detector") / "checkpoint"))


def test_a_detector_compiles_one_program_for_all_tiles(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(tmp_path / "a.png")
    first = detector.predict(tmp_path / "a.png", threshold=0, tiles=40, batch_size=4)
    assert first.source == str(tmp_path / "a.png")
    assert len(first) > detector.max_detections / 2
    assert (np.diff(first.scores) <= 0).all()
    monkeypatch.setattr(network, "top_detections", None)  # so that it cannot be traced again
    (tmp_path / "b.png").write_bytes(b"no image")
    second = dict(detector.predict_each([np.zeros((200, 50, 3), np.uint8), tmp_path / "b.png"], tiles=64, batch_size=4))
    assert second[0].image_size == (200, 50)  # type: ignore[union-attr]
    assert isinstance(second[1], UserError)


def test_a_small_picture_is_seen_whole_alone(detector: Detector) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    tiled = detector.predict(picture, threshold=0, tiles=64, batch_size=1)
    plain = detector.predict(picture, threshold=0, batch_size=1)
    np.testing.assert_allclose(tiled.scores, plain.scores, atol=1e-5)
