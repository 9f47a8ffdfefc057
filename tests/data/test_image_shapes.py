"""Shapes of images that training shows, and the warning about all others."""

import numpy as np
import pytest

from anchordetr_jax.data.image_shapes import never_shown, shape_remark, shown_ratios

LYING = np.tile([480, 640], (200, 1))


def test_every_shape_of_some_images_is_shown_once() -> None:
    sizes = np.concatenate([LYING, LYING[:, ::-1], [[100, 900]]])  # One strange image teaches nothing.
    assert shown_ratios(sizes) == pytest.approx((0.75, 1.33), rel=0.01)
    assert shown_ratios(2 * sizes) == shown_ratios(sizes)


@pytest.mark.parametrize(
    ("size", "strange"),
    [((480, 640), False), ((960, 1280), False), ((400, 600), False), ((720, 1280), True), ((640, 480), True)],
)
def test_an_image_of_another_shape_was_never_shown(size: tuple[int, int], strange: bool) -> None:
    assert never_shown(np.array([size]), shown_ratios(LYING)).tolist() == [strange]


def test_a_square_was_not_shown_among_lying_and_upright_images() -> None:
    shown = shown_ratios(np.concatenate([LYING, LYING[:, ::-1]]))
    assert never_shown(np.array([[500, 500], [640, 480]]), shown).tolist() == [True, False]


def test_images_of_all_shapes_leave_nothing_strange() -> None:
    shown = shown_ratios(np.random.default_rng(0).integers(300, 600, (1000, 2)))
    assert not never_shown(np.array([[300, 580], [400, 400], [580, 300]]), shown).any()


def test_the_remark_counts_such_images_and_says_what_to_do() -> None:
    sizes = np.concatenate([LYING[:5], [[720, 1280], [640, 480]]])
    remark = shape_remark(sizes, shown_ratios(LYING))
    assert "2 of 7 images have shapes that training never showed, such as 1280x720 (height to width 0.56;" in remark
    assert "augment.shape_jitter_probability=0.5" in remark
    assert "An image of 480x640 pixels has a shape" in shape_remark(sizes[-1:], shown_ratios(LYING))


def test_nothing_is_said_where_all_shapes_were_shown_or_none_is_known() -> None:
    assert shape_remark(LYING, shown_ratios(LYING)) == ""
    assert shape_remark(LYING, ()) == ""
