"""Whole images are computed in batches of few shapes. A stand-in takes the place of the network."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from anchordetr_jax.config import AugmentConfig
from anchordetr_jax.detection.postprocess import TopDetections
from anchordetr_jax.errors import UserError
from anchordetr_jax.prediction.batched import detect_in_batches, plan_batches
from anchordetr_jax.prediction.inputs import GivenImage
from anchordetr_jax.prediction.network import ImageDetections
from anchordetr_jax.prediction.static_shapes import StaticShapes

SHAPES = StaticShapes(AugmentConfig(eval_size=32, max_size=64))
UPRIGHT, WIDE = (60, 40), (40, 60)


class SizeFinder:
    """Stands in for a network: each image has one detection, the whole image, scored by its first pixel."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, pixels: np.ndarray, image_sizes: np.ndarray, original_sizes: np.ndarray) -> TopDetections:
        self.shapes.append(pixels.shape)
        for image, (height, width) in zip(pixels, image_sizes, strict=True):
            assert not image[height:].any()
            assert not image[:, width:].any()
        boxes = np.concatenate([np.zeros_like(original_sizes), original_sizes[:, ::-1]], axis=1)[:, None]
        labels = np.zeros((len(pixels), 1), np.int32)
        return TopDetections(pixels[:, 0, :1, 0] / np.float32(255), labels, boxes)  # type: ignore[arg-type]


def image_of(value: int, size: tuple[int, int]) -> GivenImage:
    return GivenImage(f"image {value}", content=np.full((*size, 3), value, np.uint8))


def detect(images: list[GivenImage], batch_size: int) -> tuple[dict[int, ImageDetections | UserError], SizeFinder]:
    finder = SizeFinder()
    with ThreadPoolExecutor(2) as pool:
        return dict(detect_in_batches(images, finder, pool, SHAPES, batch_size)), finder


def test_images_of_one_shape_share_batches_and_a_batch_is_filled_up_to_a_power_of_two() -> None:
    sizes = dict(enumerate([WIDE, UPRIGHT, WIDE, WIDE, WIDE, (36, 60), UPRIGHT, UPRIGHT]))
    plan = plan_batches(sizes, SHAPES, 4)
    assert [batch.members for batch in plan] == [[0, 2, 3, 4], [1, 6, 7], [5]]
    assert [batch.rows for batch in plan] == [4, 4, 4]
    assert plan[0].shape == plan[2].shape == plan[1].shape[::-1]
    assert [batch.rows for batch in plan_batches({0: WIDE, 1: WIDE, 2: UPRIGHT}, SHAPES, 8)] == [2, 1]
    assert plan_batches({}, SHAPES, 4) == []


def test_each_image_gets_its_own_detections() -> None:
    sizes = [WIDE, UPRIGHT, (120, 90), WIDE, (16, 64), UPRIGHT, WIDE]
    found, finder = detect([image_of(10 * i + 5, size) for i, size in enumerate(sizes)], batch_size=2)
    assert sorted(found) == list(range(len(sizes)))
    for index, (height, width) in enumerate(sizes):
        one = found[index]
        assert isinstance(one, ImageDetections)
        assert (one.size, one.boxes.tolist()) == ((height, width), [[0, 0, width, height]])
        np.testing.assert_allclose(one.scores, [(10 * index + 5) / 255], rtol=1e-6)
    assert {shape[0] for shape in finder.shapes} <= {1, 2}
    assert len({shape[1:] for shape in finder.shapes}) < len(sizes)


def test_an_image_that_cannot_be_read_gives_its_error_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "torn.png"  # Its header is whole, so its size is known before it is read.
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*WIDE, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:200])
    given = [GivenImage(str(path), str(path)), image_of(9, WIDE), GivenImage("nothing", str(tmp_path / "none.png"))]
    found, _ = detect(given, batch_size=2)
    assert isinstance(found[0], UserError)
    assert "torn.png" in str(found[0])
    assert isinstance(found[1], ImageDetections)
    assert isinstance(found[2], UserError)
