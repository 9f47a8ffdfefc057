import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.data.sources.coco_categories import coco_categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.class_outputs import BIAS, KERNEL, gather_outputs, output_places, spread_outputs

BLOOD = Categories(ids=(1, 2, 7), names=("platelets", "red", "white"), scheme="contiguous")


def head(classes: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {KERNEL: generator.normal(size=(4, classes)).astype(np.float32), BIAS: np.arange(classes, dtype=np.float32)}


def test_the_output_of_a_class_is_its_category_id() -> None:
    variables = spread_outputs(head(3), output_places(BLOOD, 3, 91), 91)
    assert variables[BIAS][[1, 2, 7]].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(variables[KERNEL][:, 7], head(3)[KERNEL][:, 2])


def test_an_output_that_is_no_class_scores_nothing_whatever_the_input() -> None:
    variables = spread_outputs(head(3), output_places(BLOOD, 3, 91), 91)
    others = np.delete(np.arange(91), [1, 2, 7])
    assert not variables[KERNEL][:, others].any()
    assert (1 / (1 + np.exp(-variables[BIAS][others].astype(np.float64))) < np.finfo(np.float32).tiny).all()


def test_raw_labels_keep_their_places() -> None:
    raw = Categories(ids=(1, 3), names=("a", "b"), scheme="raw")
    assert output_places(raw, 4, 91).tolist() == [0, 1, 2, 3]


def test_coco_has_its_91_outputs_in_either_numbering() -> None:
    assert coco_categories("raw").num_labels == 91
    places = output_places(coco_categories("contiguous"), 80, 91)
    assert (places[0], places[-1], len(set(places.tolist()))) == (1, 90, 80)


@given(data=st.data())
def test_gathering_is_the_inverse_of_spreading(data: st.DataObject) -> None:
    ids = tuple(sorted(data.draw(st.sets(st.integers(0, 90), min_size=1, max_size=20))))
    scheme: LabelScheme = data.draw(st.sampled_from(["raw", "contiguous"]))
    categories = Categories(ids=ids, names=tuple(map(str, ids)), scheme=scheme)
    classes = data.draw(st.integers(categories.num_labels, 91))
    places = output_places(categories, classes, 91)
    assert len(set(places.tolist())) == classes
    back = gather_outputs(spread_outputs(head(classes), places, 91), places)
    for name, array in head(classes).items():
        np.testing.assert_array_equal(back[name], array)


def test_a_category_id_beyond_the_official_outputs_is_refused_with_a_way_out() -> None:
    categories = Categories(ids=(1, 115), names=("a", "b"), scheme="contiguous")
    with pytest.raises(UserError, match=r"115 has no place among 91 .*--class-outputs=116"):
        output_places(categories, 2, 91)


def test_outputs_that_nobody_named_cannot_be_moved() -> None:
    with pytest.raises(UserError, match=r"--annotations FILE, or --class-outputs=3"):
        output_places(None, 3, 91)
    assert output_places(None, 3, 3).tolist() == [0, 1, 2]
