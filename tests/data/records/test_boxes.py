"""Boxes that are not x, y, width and height in pixels are named as what they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.data.records.boxes import look_for_another_form
from anchordetr_jax.errors import UserError
from tests.data.records.folder import change_split, opened, write_image, write_split


def boxes(seed: int, n: int, size: tuple[int, int], largest: float) -> np.ndarray:
    """float64 [n, 4]: xywh inside an image of size (h, w), up to `largest` of its sides."""
    rng = np.random.default_rng(seed)
    height, width = size
    spans = rng.uniform(0.02, largest, (n, 2)) * (width, height)
    corners = rng.random((n, 2)) * ((width, height) - spans)
    return np.concatenate([corners, spans], axis=1)


SIZES = st.tuples(st.integers(40, 900), st.integers(40, 900))


@given(
    seed=st.integers(0, 9999), n=st.integers(1, 60), size=SIZES, largest=st.floats(0.05, 1.0), share=st.floats(0.3, 1)
)
def test_boxes_in_pixels_are_never_taken_for_another_form(
    seed: int, n: int, size: tuple[int, int], largest: float, share: float
) -> None:
    xywh = boxes(seed, n, size, largest)
    for areas in (xywh[:, 2] * xywh[:, 3], share * xywh[:, 2] * xywh[:, 3], np.full(n, np.nan)):
        assert look_for_another_form(xywh, areas, np.tile(size, (n, 1))) is None


@given(seed=st.integers(0, 9999), n=st.integers(6, 60), size=SIZES, share=st.floats(0.3, 1))
def test_corners_and_shares_are_named(seed: int, n: int, size: tuple[int, int], share: float) -> None:
    xywh, sizes = boxes(seed, n, size, 0.5), np.tile(size, (n, 1))
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    found = look_for_another_form(corners, xywh[:, 2] * xywh[:, 3], sizes)
    assert found is not None
    assert found[0] == "boxes given by their corners"
    relative = xywh / np.tile(sizes[:, ::-1], 2)
    found = look_for_another_form(relative, np.full(n, np.nan), sizes)
    assert found is not None
    assert found[1].startswith(f"{n} of {n} boxes")


def corners(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x, y, x + width, y + height]


def shares(content: dict[str, Any]) -> None:
    for annotation in content["annotations"]:
        x, y, width, height = annotation["bbox"]
        annotation["bbox"] = [x / 30, y / 20, width / 30, height / 20]


@pytest.mark.parametrize(
    ("change", "message"), [(corners, r"x1, y1, x2, y2 .*5 of 5 areas"), (shares, "5 of 5 boxes lie within 0 and 1")]
)
def test_a_data_set_in_another_form_is_an_error_with_the_count_that_speaks_for_it(
    tmp_path: Path, change: Any, message: str
) -> None:
    names = {f"{number}.png": (20, 30) for number in range(5)}
    for name in names:
        write_image(tmp_path / "val2017" / name)
    write_split(tmp_path, "val", names)
    assert opened(tmp_path).box_counts.sum() == 5
    change_split(tmp_path, change)
    with pytest.raises(UserError, match=message):
        opened(tmp_path)
