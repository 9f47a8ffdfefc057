import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.pictures.boxes import class_colour, draw_detections


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


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


@pytest.mark.parametrize("name", ["two\nlines", "\r\n", "tab\tand\x00null", "$1\\frac$", "猫 قطة 🦘", ""])
def test_names_of_any_characters_are_drawn_on_one_line(name):
    box = np.array([[100.0, 100.0, 300.0, 300.0]])
    picture = draw_detections(grey(700, 700), box, [0], [name], [0.5])
    assert has_colour(picture, class_colour(0))
