import numpy as np
from PIL import Image

from anchordetr_jax.pictures.boxes import class_colour
from anchordetr_jax.pictures.grids import MISSED, Boxes, Example, ImageMistakes, mistakes_grid, prediction_grid


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


def test_the_grid_of_mistakes_marks_missed_objects(tmp_path):
    mistakes = ImageMistakes(
        image=grey(80, 120),
        missed=boxes([[5, 5, 40, 40]]),
        false_positives=boxes([[50, 5, 90, 40]], [0.9]),
        found=boxes([[50, 50, 70, 70]]),
        title="a.png",
    )
    mistakes_grid([mistakes], tmp_path / "misses.png", cell=300)
    picture = np.asarray(opened(tmp_path / "misses.png"))
    assert has_colour(picture[60:], MISSED)  # below the legend


def test_grids_of_nothing_are_still_pictures(tmp_path):
    prediction_grid([], tmp_path / "predictions.png")
    mistakes_grid([], tmp_path / "misses.png")
    for name in ("predictions.png", "misses.png"):
        assert opened(tmp_path / name).width > 0
