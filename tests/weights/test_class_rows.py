"""Classes that keep their weights, by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anchordetr_jax.config import ClassesConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.data.sources.coco_categories import COCO_NAMES, coco_categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.class_rows import rows_to_keep, shared_classes

COCO = coco_categories("raw")


def categories(*names: str) -> Categories:
    return Categories(ids=tuple(range(1, len(names) + 1)), names=names)


def test_rows_are_found_by_name_whatever_their_order() -> None:
    rows = shared_classes(COCO, categories("dog", "forklift", "person"), {})
    assert (rows.here, rows.there) == ((0, 2), (18, 1))
    assert rows.new == ("forklift",)
    assert str(rows) == ("Classes that keep their weights: 2 (dog, person). Classes that start new: 1 (forklift).")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Person", "person"),
        ("people", "person"),
        ("CARS", "car"),
        ("knives", "knife"),
        ("buses", "bus"),
        ("traffic_light", "traffic light"),
        ("Traffic-Lights", "traffic light"),
        ("mice", "mouse"),
        ("ski", "skis"),
        (" dog ", "dog"),
    ],
)
def test_case_and_plural_are_forgiven(name: str, known: str) -> None:
    assert shared_classes(COCO, categories(name), {}).kept == ((name, known),)


@pytest.mark.parametrize("name", ["glass", "carrier", "dogfish", "p", "hot"])
def test_names_that_are_only_similar_are_other_classes(name: str) -> None:
    assert shared_classes(COCO, categories(name), {}).new == (name,)


def test_a_person_may_say_what_is_the_same_and_what_is_not() -> None:
    rows = shared_classes(COCO, categories("pedestrian", "mouse"), {"pedestrian": "person", "mouse": ""})
    assert rows.kept == (("pedestrian", "person"),)
    assert rows.new == ("mouse",)
    assert "pedestrian (from person)" in str(rows)


@pytest.mark.parametrize(
    ("renamed", "message"),
    [
        ({"pedestrain": "person"}, "the data set has no class 'pedestrain'; did you mean 'pedestrian'"),
        ({"pedestrian": "persn"}, "the initial weights have no class 'persn'; did you mean 'person'"),
    ],
)
def test_a_name_that_does_not_occur_is_refused(renamed: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        shared_classes(COCO, categories("pedestrian"), renamed)


def test_two_known_classes_that_could_be_meant_are_not_guessed() -> None:
    assert shared_classes(categories("Cat", "cat "), categories("CAT"), {}).new == ("CAT",)


def test_the_same_classes_need_no_rows() -> None:
    assert rows_to_keep(COCO, COCO, {}, same_size=True) is None
    assert rows_to_keep(None, COCO, {}, same_size=True) is None
    rows = rows_to_keep(COCO, coco_categories("contiguous"), {}, same_size=False)
    assert rows is not None
    assert rows.there == tuple(COCO_NAMES)
    assert rows.here == tuple(range(80))


def test_a_map_needs_initial_weights_that_know_their_classes() -> None:
    with pytest.raises(UserError, match="--annotations"):
        rows_to_keep(None, COCO, {"a": "b"}, same_size=True)


@given(st.lists(st.sampled_from(COCO.names), min_size=1, max_size=10, unique=True))
def test_each_class_of_coco_is_itself(names: list[str]) -> None:
    rows = shared_classes(COCO, categories(*names), {})
    assert [known for _, known in rows.kept] == names
    assert rows.new == ()


def test_the_setting_takes_one_entry_or_several_with_commas() -> None:
    expected = {"lorry": "truck", "kid": "person", "mouse": ""}
    assert ClassesConfig(map=("lorry=truck,kid=person", "mouse=")).renamed() == expected
    assert ClassesConfig(map=("lorry = truck", "kid=person", "mouse=")).renamed() == expected


@pytest.mark.parametrize(("entry", "message"), [("lorry", "not NAME=KNOWN"), ("=truck", "not NAME=KNOWN")])
def test_an_entry_of_another_form_is_refused(entry: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassesConfig(map=(entry,))


def test_a_class_that_is_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match="has the class 'a' twice"):
        ClassesConfig(map=("a=b", "a=c"))
