"""Which variables of a model are trained, and how their moving average follows them."""

import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.config import OptimizerConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import ModelDefinition, count, variables_of
from anchordetr_jax.training.state import average_of, split_variables, trainable_paths
from tests.tolerances import EXACT64
from tests.training.tiny import build_stand_in


def test_only_parameters_are_trained() -> None:
    definition = ModelDefinition.abstract(build_stand_in)
    assert definition.shapes.keys() - trainable_paths(definition, ()) == {"scale"}


def test_a_freeze_pattern_must_match_the_whole_path() -> None:
    definition = ModelDefinition.abstract(build_stand_in)
    frozen = definition.shapes.keys() - trainable_paths(definition, (r"backbone/.*", r"patterns?"))
    assert frozen == {"scale", "backbone/kernel", "backbone/bias", "patterns"}


def test_splitting_keeps_every_variable_once() -> None:
    variables = variables_of(build_stand_in())
    params, rest = split_variables(
        variables, trainable_paths(ModelDefinition.abstract(build_stand_in), (r"layers/.*",))
    )
    assert not params.keys() & rest.keys()
    assert {**params, **rest}.keys() == variables.keys()
    assert count(params) + count(rest) == count(variables)


def test_a_pattern_that_matches_no_parameter_is_named() -> None:
    with pytest.raises(UserError, match=r"optimizer\.freeze.*'layers/0', which matches no parameter"):
        trainable_paths(ModelDefinition.abstract(build_stand_in), (r"backbone/.*", "layers/0"))


def test_the_default_may_match_nothing() -> None:
    definition = ModelDefinition.abstract(build_stand_in)
    assert trainable_paths(definition, OptimizerConfig().freeze) == definition.param_paths


def test_freezing_everything_is_a_mistake() -> None:
    with pytest.raises(UserError, match="matches every parameter"):
        trainable_paths(ModelDefinition.abstract(build_stand_in), (".*",))


@pytest.mark.parametrize(
    ("warmup", "updates", "decay"),
    [(9, 0, 1 / 10), (9, 90, 91 / 100), (9, 891, 0.99), (1, 0, 1 / 2), (1, 97, 98 / 99), (1, 99, 0.99), (0, 0, 0.99)],
)
def test_the_decay_of_the_average_rises_as_its_warm_up_says(
    warmup: float, updates: int, decay: float, x64: None
) -> None:
    before, now = {"a": jnp.array([1.0, 2.0])}, {"a": jnp.array([5.0, -2.0])}
    found = average_of(before, now, decay=0.99, warmup=warmup, updates=jnp.asarray(updates))
    np.testing.assert_allclose(found["a"], decay * before["a"] + (1 - decay) * now["a"], rtol=0, atol=EXACT64)


def test_with_a_warm_up_of_one_and_no_limit_it_is_the_mean_of_all_weights(x64: None) -> None:
    weights = [jnp.array([value]) for value in (3.0, 5.0, 1.0, 8.0)]
    average = {"a": weights[0]}
    for updates, value in enumerate(weights[1:]):
        average = average_of(average, {"a": value}, decay=1.0, warmup=1, updates=jnp.asarray(updates))
    np.testing.assert_allclose(average["a"], [17 / 4], rtol=0, atol=EXACT64)
