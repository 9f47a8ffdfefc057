"""Starting from the weights of another run."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from anchordetr_jax.checkpoints.checkpoint import save_variables
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.devices import to_host
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.initial_weights import load_initial_weights
from anchordetr_jax.training.state import TrainState
from tests.training.tiny import CATEGORIES, CONFIG, changed, equal, trainer

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


def test_all_weights_are_taken_where_the_classes_are_the_same(checkpoint: str, other_weights: Arrays) -> None:
    state, report = load_initial_weights(checkpoint, trainer(devices=4, fsdp=2).state, CATEGORIES)
    for name, value in all_of(state).items():
        np.testing.assert_array_equal(value, other_weights[name])
    assert report.random == ()


def test_the_rest_of_the_state_is_that_of_a_new_run(checkpoint: str) -> None:
    before = trainer().state
    state, _ = load_initial_weights(checkpoint, before, CATEGORIES)
    assert int(state.step) == 0
    assert state.opt_state is before.opt_state


def test_weights_keep_the_placement_of_the_state(checkpoint: str) -> None:
    before = trainer(devices=4, fsdp=2).state
    state, _ = load_initial_weights(checkpoint, before, CATEGORIES)
    assert {n: v.sharding for n, v in state.params.items()} == {n: v.sharding for n, v in before.params.items()}


def test_an_average_of_the_weights_starts_from_what_was_loaded(checkpoint: str) -> None:
    averaged = trainer(changed(CONFIG, train={"ema_decay": 0.9}), devices=4, fsdp=2).state
    state, _ = load_initial_weights(checkpoint, averaged, CATEGORIES)
    assert equal(to_host(state.ema), to_host(state.params))
    assert {n: v.sharding for n, v in state.ema.items()} == {n: v.sharding for n, v in state.params.items()}


def test_a_class_head_of_another_size_starts_anew(checkpoint: str, other_weights: Arrays) -> None:
    before = trainer(FIVE_CLASSES).state
    state, report = load_initial_weights(checkpoint, before, FIVE)
    old, new = all_of(before), all_of(state)
    assert set(report.random) == HEAD
    for name, value in new.items():
        np.testing.assert_array_equal(value, old[name] if name in HEAD else other_weights[name])
    assert "random weights: class_head" in str(report)


def test_a_class_head_for_other_classes_starts_anew(checkpoint: str) -> None:
    renamed = dataclasses.replace(CATEGORIES, names=("cat", "dog", "emu"))
    _, report = load_initial_weights(checkpoint, trainer().state, renamed)
    assert set(report.random) == HEAD


def test_a_backbone_alone_is_a_start(other_weights: Arrays, tmp_path: Path) -> None:
    backbone = {name: value for name, value in other_weights.items() if name.startswith("backbone/")}
    save_variables(tmp_path / "backbone", backbone, None, CONFIG)
    state, report = load_initial_weights(str(tmp_path / "backbone"), trainer().state, CATEGORIES)
    assert set(report.loaded) == backbone.keys()
    np.testing.assert_array_equal(state.params["backbone/kernel"], backbone["backbone/kernel"])


def test_another_architecture_is_refused(checkpoint: str) -> None:
    wider = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, hidden_dim=64))
    with pytest.raises(UserError, match=r"another architecture.*backbone/bias has shape \(32,\) instead of \(64,\)"):
        load_initial_weights(checkpoint, trainer(wider).state, CATEGORIES)


def test_a_checkpoint_with_nothing_of_use_is_refused(tmp_path: Path) -> None:
    save_variables(tmp_path / "other", {"neck/kernel": np.zeros(3)}, None, CONFIG)
    with pytest.raises(UserError, match="nothing in common"):
        load_initial_weights(str(tmp_path / "other"), trainer().state, CATEGORIES)
