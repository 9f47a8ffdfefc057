"""The moving average of the weights in checkpoints: it is what is loaded, and training goes on with both."""

from pathlib import Path
from typing import Any

import pytest

from anchordetr_jax.checkpoints.checkpoint import load_variables
from anchordetr_jax.config import Config
from anchordetr_jax.training.run_checkpoints import CheckpointWriter, restore_newest
from anchordetr_jax.training.state import TrainState, evaluated_variables
from tests.training.tiny import CATEGORIES, CONFIG, RECORD, Trainer, batch, changed, equal, run, to_host, trainer

AVERAGED = changed(CONFIG, train={"ema_decay": 0.9})


def train(config: Config, steps: int = 2, *, devices: int = 4, fsdp: int = 2) -> Trainer:
    made = trainer(config, devices=devices, fsdp=fsdp)
    run(made, [batch(seed) for seed in range(steps)])
    return made


def save(workdir: Path, made: Trainer) -> None:
    with CheckpointWriter(workdir, made.config, CATEGORIES) as checkpoints:
        checkpoints.save(2, made.state, RECORD)


def restore(workdir: Path, made: Trainer) -> TrainState:
    restored = restore_newest(workdir, made.abstract, made.config)
    assert restored is not None
    return restored[0]


@pytest.fixture(scope="module")
def averaged() -> Trainer:
    return train(AVERAGED)


@pytest.fixture(scope="module")
def workdir(averaged: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaged")
    save(folder, averaged)
    return folder


def test_weights_and_average_come_back_bit_for_bit(averaged: Trainer, workdir: Path) -> None:
    restored = restore(workdir, averaged)
    assert not equal(to_host(restored.ema), to_host(restored.params))
    assert equal(to_host(restored), to_host(averaged.state))


def test_what_is_evaluated_and_loaded_is_the_average(averaged: Trainer, workdir: Path) -> None:
    evaluated = evaluated_variables(averaged.state)
    assert equal({path: evaluated[path] for path in averaged.state.ema}, averaged.state.ema)
    wanted: Any = evaluated_variables(averaged.abstract)
    loaded = load_variables(workdir / "checkpoints/2", wanted)
    assert equal(to_host(loaded), to_host(evaluated))


def test_an_average_that_is_switched_on_later_begins_with_the_weights(tmp_path: Path) -> None:
    plain = train(CONFIG)
    save(tmp_path, plain)
    made = trainer(AVERAGED, devices=4, fsdp=2)
    made.state = restore(tmp_path, made)
    assert equal(to_host(made.state.ema), to_host(plain.state.params))
    run(made, [batch(2)])  # The step can take both: no array stands twice in the state.
    run(plain, [batch(2)])
    assert equal(to_host(made.state.params), to_host(plain.state.params))


def test_training_continues_with_the_weights_when_the_average_is_switched_off(averaged: Trainer, workdir: Path) -> None:
    state = restore(workdir, trainer(devices=4, fsdp=2))
    assert equal(to_host(state.params), to_host(averaged.state.params))
    assert state.ema == {}
