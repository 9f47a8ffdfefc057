"""Shapes of images that training shows, and the warning about all others."""

import numpy as np
import pytest

from anchordetr_jax.data.image_shapes import FEW, never_shown, shape_remark, shown_ratios, tile_remark
from tests.data.coco_sizes import coco_sizes

LYING = np.tile([480, 640], (200, 1))


def test_every_shape_of_some_images_is_shown_once() -> None:
    sizes = np.concatenate([*[LYING] * 3, LYING[:, ::-1], [[100, 900]]])  # One strange image teaches nothing.
    assert shown_ratios(sizes) == (0.75, 1.333)
    assert shown_ratios(2 * sizes) == (0.75, 1.333)


@pytest.mark.parametrize(
    ("size", "strange"),
    [
        ((480, 640), False),
        ((960, 1280), False),
        ((400, 600), False),
        ((480, 640 * 1.14), False),
        ((480, 640 * 1.16), True),
        ((480, 640 / 1.16), True),
        ((640, 480), True),
    ],
)
def test_an_image_of_another_shape_was_never_shown(size: tuple[int, int], strange: bool) -> None:
    assert never_shown(np.array([size]), shown_ratios(LYING)).tolist() == [strange]


def test_a_square_was_not_shown_among_lying_and_upright_images() -> None:
    shown = shown_ratios(np.concatenate([LYING, LYING[:, ::-1]]))
    assert never_shown(np.array([[500, 500], [640, 480]]), shown).tolist() == [True, False]


def test_images_of_all_shapes_leave_nothing_strange() -> None:
    shown = shown_ratios(np.random.default_rng(0).integers(300, 600, (1000, 2)))
    assert not never_shown(np.array([[300, 580], [400, 400], [580, 300]]), shown).any()


def test_images_of_a_large_data_set_are_not_remarked_upon_after_training_on_it() -> None:
    sizes = coco_sizes(20_000)
    assert shape_remark(sizes, shown_ratios(sizes)) == ""
    assert never_shown(sizes, shown_ratios(sizes)).any()  # A few are extreme.


def test_few_strange_images_among_many_are_not_worth_a_word() -> None:
    enough = round(1 / FEW)
    strange = np.array([[720, 1280]])
    assert shape_remark(np.concatenate([LYING[: enough - 2], strange]), (0.75,))
    assert not shape_remark(np.concatenate([LYING[: enough - 1], strange]), (0.75,))


@pytest.mark.parametrize(
    ("size", "tiles", "tile"),
    [((480, 640), 640, ""), ((480, 1200), 640, ""), ((960, 1280), 640, "640x640"), ((300, 1280), 640, "640x300")],
)
def test_tiles_have_shapes_of_their_own(size: tuple[int, int], tiles: int, tile: str) -> None:
    remark = tile_remark(np.array([size]), tiles, (0.75,))
    assert remark.startswith(f"A tile of {tile} pixels has a shape") if tile else remark == ""


def test_the_remark_counts_such_images_and_says_what_to_do() -> None:
    sizes = np.concatenate([LYING[:5], [[720, 1280], [640, 480]]])
    remark = shape_remark(sizes, shown_ratios(LYING))
    assert "2 of 7 images have shapes that the detector's training hardly or never showed, such as " in remark
    assert "1280x720 pixels (height to width 0.56; shown: 0.75)." in remark
    assert "augment.shape_jitter_probability=0.5" in remark
    assert "An image of 480x640 pixels has a shape" in shape_remark(sizes[-1:], shown_ratios(LYING))


def test_nothing_is_said_where_all_shapes_were_shown_or_none_is_known() -> None:
    assert shape_remark(LYING, shown_ratios(LYING)) == ""
    assert shape_remark(LYING, ()) == ""
