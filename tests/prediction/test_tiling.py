"""Tiles cover a picture, and the detections of all views become one list with each object once."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.errors import UserError
from anchordetr_jax.prediction.tiling import Found, check_tiles, cut_sides, merged, tile_rectangles

TILES = tile_rectangles((100, 180), 100, 0.2)
"""A picture of 180 x 100 pixels: the whole, and the tiles 0…100 and 80…180."""
WHOLE, LEFT, RIGHT = range(3)


def found(*detections: tuple[int, Sequence[float], float]) -> Found:
    """(view, box, score) of detections of one class."""
    return Found(
        scores=np.array([score for *_, score in detections], np.float32),
        labels=np.zeros(len(detections), np.int32),
        boxes=np.array([box for _, box, _ in detections], np.float32).reshape(-1, 4),
        views=np.array([view for view, *_ in detections], np.int64),
    )


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(32, 1000), st.floats(0, 0.9))
def test_tiles_cover_the_picture_with_their_overlap(height: int, width: int, tile: int, overlap: float) -> None:
    views = tile_rectangles((height, width), tile, overlap)
    assert views[0].tolist() == [0, 0, width, height]
    tiles = views[1:]
    assert (len(tiles) == 0) == (max(height, width) <= tile)
    for start, end, side in ((0, 2, width), (1, 3, height)) if len(tiles) else ():
        intervals = sorted({(int(t[start]), int(t[end])) for t in tiles})
        assert {stop - begin for begin, stop in intervals} == {min(tile, side)}
        assert (intervals[0][0], intervals[-1][1]) == (0, side)
        for (_, stop), (begin, _) in itertools.pairwise(intervals):
            assert stop - begin >= overlap * tile - 1


@pytest.mark.parametrize(("tiles", "overlap"), [(16, 0.2), (640, 0.95), (640, -0.1)])
def test_impossible_tiles_are_refused(tiles: int, overlap: float) -> None:
    with pytest.raises(UserError, match="of the tiles must be"):
        check_tiles(tiles, overlap)


def test_a_box_is_cut_by_an_edge_inside_the_picture_alone() -> None:
    boxes = found((LEFT, (0, 10, 50, 99), 1), (LEFT, (60, 10, 99.5, 50), 1), (RIGHT, (80.5, 5, 99, 50), 1))
    left, right, none = [True, False, False, False], [False, False, True, False], [False] * 4
    assert cut_sides(boxes, TILES).tolist() == [none, right, left]
    assert not cut_sides(found((WHOLE, (0, 0, 180, 100), 1)), TILES).any()


def test_an_object_that_two_views_see_stands_there_once_with_its_best_box() -> None:
    one = merged(
        found((LEFT, (84, 20, 96, 40), 0.7), (RIGHT, (84, 21, 96, 41), 0.9), (WHOLE, (83, 19, 97, 42), 0.5)), TILES
    )
    assert one.scores.tolist() == pytest.approx([0.9])
    assert one.boxes.tolist() == [[84, 21, 96, 41]]


def test_two_pieces_of_an_object_are_joined() -> None:
    one = merged(found((LEFT, (30, 20, 100, 80), 0.8), (RIGHT, (80, 22, 140, 79), 0.6)), TILES)
    assert one.boxes.tolist() == [[30, 20, 140, 80]]
    assert one.scores.tolist() == pytest.approx([0.8])


def test_joined_pieces_that_are_still_cut_are_a_part_of_the_whole_object() -> None:
    views = tile_rectangles((180, 180), 100, 0.2)
    pieces = [(2, (80, 80, 95, 99), 0.9), (4, (80, 82, 95, 99), 0.8)]  # Both tiles of the right side cut it.
    one = merged(found(*pieces, (1, (70, 81, 95, 98), 0.7)), views)
    assert one.boxes.tolist() == [[70, 81, 95, 98]]


def test_pieces_of_two_objects_are_not_joined() -> None:
    two = merged(found((LEFT, (60, 0, 100, 20), 0.8), (RIGHT, (80, 50, 120, 90), 0.6)), TILES)
    assert len(two.scores) == 2


def test_a_piece_of_an_object_that_is_seen_whole_is_left_out() -> None:
    one = merged(found((LEFT, (70, 20, 100, 60), 0.9), (WHOLE, (70, 20, 160, 60), 0.5)), TILES)
    assert one.boxes.tolist() == [[70, 20, 160, 60]]


def test_boxes_of_one_view_and_boxes_of_other_classes_stay_as_they_are() -> None:
    boxes = found((LEFT, (10, 10, 40, 40), 0.9), (LEFT, (11, 11, 41, 41), 0.8), (WHOLE, (10, 10, 41, 40), 0.7))
    assert merged(boxes, TILES).scores.tolist() == pytest.approx([0.9, 0.8])
    other = boxes._replace(labels=np.array([0, 0, 1], np.int32))
    assert merged(other, TILES).labels.tolist() == [0, 0, 1]


def test_nothing_found_is_merged_to_nothing() -> None:
    assert len(merged(found(), TILES).scores) == 0
