"""Starting from the weights of another run."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.initial_weights import load_initial_weights
from anchordetr_jax.training.state import TrainState
from anchordetr_jax.weights.class_rows import load_rows, rows_to_keep
from anchordetr_jax.weights.pretrained import open_pretrained
from tests.detector import MODEL, save_detector
from tests.training.tiny import CATEGORIES, CONFIG, changed, equal, to_host, trainer

FIVE = Categories(ids=(1, 2, 3, 4, 5), names=("a", "b", "c", "d", "e"), scheme="contiguous")
FIVE_CLASSES = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, num_classes=5))
Arrays = dict[str, Any]
HEAD = {"class_head/kernel", "class_head/bias"}


def all_of(state: TrainState) -> Arrays:
    return to_host({**state.params, **state.frozen})


@pytest.fixture(scope="module")
def other_weights() -> Arrays:
    """Weights unlike any first state's."""
    return {name: np.full_like(value, 7) for name, value in all_of(trainer().state).items()}


@pytest.fixture
def checkpoint(other_weights: Arrays, tmp_path: Path) -> str:
    save_variables(tmp_path / "start", other_weights, CATEGORIES, CONFIG)
    return str(tmp_path / "start")


def test_all_weights_are_loaded_if_the_classes_are_the_same(checkpoint: str, other_weights: Arrays) -> None:
    state, report = load_initial_weights(checkpoint, trainer(devices=4, fsdp=2).state, CONFIG.model, CATEGORIES)
    for name, value in all_of(state).items():
        np.testing.assert_array_equal(value, other_weights[name])
    assert report.random == ()


def test_the_optimiser_and_the_counters_are_those_of_a_new_run(checkpoint: str) -> None:
    before = trainer().state
    state, _ = load_initial_weights(checkpoint, before, CONFIG.model, CATEGORIES)
    assert int(state.step) == 0
    assert state.opt_state is before.opt_state


def test_loaded_weights_keep_the_shardings_of_the_state(checkpoint: str) -> None:
    before = trainer(devices=4, fsdp=2).state
    state, _ = load_initial_weights(checkpoint, before, CONFIG.model, CATEGORIES)
    assert {n: v.sharding for n, v in state.params.items()} == {n: v.sharding for n, v in before.params.items()}


def test_a_moving_average_begins_with_the_loaded_weights(checkpoint: str) -> None:
    averaged = trainer(changed(CONFIG, train={"ema_decay": 0.9}), devices=4, fsdp=2).state
    state, _ = load_initial_weights(checkpoint, averaged, CONFIG.model, CATEGORIES)
    assert equal(to_host(state.ema), to_host(state.params))
    assert {n: v.sharding for n, v in state.ema.items()} == {n: v.sharding for n, v in state.params.items()}


def test_a_class_head_of_another_size_is_not_loaded(checkpoint: str, other_weights: Arrays) -> None:
    before = trainer(FIVE_CLASSES).state
    state, report = load_initial_weights(checkpoint, before, CONFIG.model, FIVE)
    old, new = all_of(before), all_of(state)
    assert set(report.random) == HEAD
    for name, value in new.items():
        np.testing.assert_array_equal(value, old[name] if name in HEAD else other_weights[name])
    assert "random weights: class_head" in str(report)


def test_a_class_head_for_other_classes_is_not_loaded(checkpoint: str) -> None:
    renamed = dataclasses.replace(CATEGORIES, names=("cat", "dog", "emu"))
    _, report = load_initial_weights(checkpoint, trainer().state, CONFIG.model, renamed)
    assert set(report.random) == HEAD


def test_classes_of_the_same_name_keep_their_rows(tmp_path: Path) -> None:
    known = Categories(ids=(1, 4, 9), names=("Cats", "emu", "dog"), scheme="raw")
    ten = changed(CONFIG, model={"num_classes": 10})
    theirs = {
        name: np.random.default_rng(0).normal(size=value.shape) for name, value in all_of(trainer(ten).state).items()
    }
    save_variables(tmp_path / "coco", theirs, known, ten)
    before = trainer(FIVE_CLASSES, devices=4, fsdp=2).state
    wanted = Categories(ids=(1, 2, 3, 4, 5), names=("dog", "pony", "cat", "lorry", "bird"))
    state, report = load_initial_weights(str(tmp_path / "coco"), before, CONFIG.model, wanted, {"bird": "emu"})
    old, new = all_of(before), all_of(state)
    for name in HEAD:
        np.testing.assert_array_equal(new[name][..., [0, 2, 4]], theirs[name].astype(np.float32)[..., [9, 1, 4]])
        np.testing.assert_array_equal(new[name][..., [1, 3]], old[name][..., [1, 3]])
        assert (state.params | state.frozen)[name].sharding == (before.params | before.frozen)[name].sharding
    assert report.random == ()
    assert "3 (dog, cat (from Cats), bird (from emu))" in str(report)
    assert "start new: 2 (pony, lorry)" in str(report)


def test_a_subset_of_the_classes_is_scored_as_before(tmp_path: Path) -> None:
    network = dataclasses.replace(MODEL, num_classes=4, decoder_layers=1)
    save_detector(tmp_path / "all", network, Categories(ids=(1, 2, 3, 4), names=("a", "b", "c", "d")))
    found = open_pretrained(tmp_path / "all")
    subset = Categories(ids=(7, 8), names=("d", "b"))
    smaller = definition_of(dataclasses.replace(network, num_classes=2))
    rows = rows_to_keep(found.categories, subset, {}, same_size=False)
    assert rows is not None
    theirs = found.variables()
    head = {name: jnp.zeros(smaller.shapes[name].shape) for name in HEAD}
    kept = load_rows(tmp_path / "all", head, {name: theirs[name].shape for name in HEAD}, rows)
    images, sizes = jnp.ones((1, 32, 48, 3)), jnp.array([[32, 48]])
    # Compiled: without `jit` each of a thousand operations is a program of its own.
    before = jax.jit(lambda variables: definition_of(network).merge(variables)(images, sizes))(theirs)
    after = jax.jit(lambda variables: smaller.merge(variables)(images, sizes))({**theirs, **kept})
    np.testing.assert_allclose(after.logits, before.logits[..., [3, 1]], rtol=0, atol=1e-6)
    np.testing.assert_allclose(after.boxes, before.boxes, rtol=0, atol=1e-6)


def test_a_backbone_alone_can_be_loaded(other_weights: Arrays, tmp_path: Path) -> None:
    backbone = {name: value for name, value in other_weights.items() if name.startswith("backbone/")}
    save_variables(tmp_path / "backbone", backbone, None, CONFIG)
    state, report = load_initial_weights(str(tmp_path / "backbone"), trainer().state, CONFIG.model, CATEGORIES)
    assert set(report.loaded) == backbone.keys()
    np.testing.assert_array_equal(state.params["backbone/kernel"], backbone["backbone/kernel"])


def test_another_architecture_is_refused(checkpoint: str) -> None:
    wider = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, hidden_dim=64))
    with pytest.raises(UserError, match=r"another architecture.*backbone/bias has shape \(32,\) instead of \(64,\)"):
        load_initial_weights(checkpoint, trainer(wider).state, CONFIG.model, CATEGORIES)


def test_weights_of_another_number_of_heads_are_refused_although_their_shapes_agree(checkpoint: str) -> None:
    one = changed(CONFIG, model={"num_heads": 1})
    with pytest.raises(UserError, match=r"another architecture.*model\.num_heads is 2 and not 1"):
        load_initial_weights(checkpoint, trainer().state, one.model, CATEGORIES)


def test_settings_that_shapes_do_not_tell_are_named_where_they_differ(checkpoint: str) -> None:
    other = changed(CONFIG, model={"dilation": False, "anchor_border": 1e-3, "spatial_prior": "grid", "num_anchors": 9})
    _, report = load_initial_weights(checkpoint, trainer().state, other.model, CATEGORIES)
    assert str(report).endswith(
        "They were trained with model.dilation=True (here False), model.anchor_border=1e-05 (here 0.001), "
        "model.spatial_prior=learned (here grid): they have to adapt to this."
    )
    _, report = load_initial_weights(checkpoint, trainer().state, CONFIG.model, CATEGORIES)
    assert "trained with" not in str(report)


def test_a_grid_of_another_size_is_named(other_weights: Arrays, tmp_path: Path) -> None:
    four, nine = (changed(CONFIG, model={"spatial_prior": "grid", "num_anchors": number}) for number in (4, 9))
    save_variables(tmp_path / "grid", other_weights, CATEGORIES, four)
    _, report = load_initial_weights(str(tmp_path / "grid"), trainer().state, nine.model, CATEGORIES)
    assert "trained with model.num_anchors=4 (here 9):" in str(report)


def test_a_backbone_alone_suits_every_network(other_weights: Arrays, tmp_path: Path) -> None:
    backbone = {name: value for name, value in other_weights.items() if name.startswith("backbone/")}
    save_variables(tmp_path / "backbone", backbone, None, CONFIG)
    other = changed(CONFIG, model={"dilation": False, "num_heads": 1})
    _, report = load_initial_weights(str(tmp_path / "backbone"), trainer().state, other.model, CATEGORIES)
    assert report.differences == ()


def test_a_checkpoint_without_any_part_of_the_model_is_refused(tmp_path: Path) -> None:
    save_variables(tmp_path / "other", {"neck/kernel": np.zeros(3)}, None, CONFIG)
    with pytest.raises(UserError, match="has no part of this model"):
        load_initial_weights(str(tmp_path / "other"), trainer().state, CONFIG.model, CATEGORIES)
