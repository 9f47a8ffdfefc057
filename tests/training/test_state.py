"""Which variables of a model are trained."""

import pytest

from anchordetr_jax.config import OptimizerConfig
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import ModelDefinition, count, variables_of
from anchordetr_jax.training.state import split_variables, trainable_paths
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


def test_a_pattern_that_is_no_regular_expression_is_named() -> None:
    with pytest.raises(UserError, match=r"optimizer\.freeze.*\(unclosed"):
        trainable_paths(ModelDefinition.abstract(build_stand_in), ("(unclosed",))


def test_a_pattern_that_matches_no_parameter_is_named() -> None:
    with pytest.raises(UserError, match=r"optimizer\.freeze.*'layers/0', which matches no parameter"):
        trainable_paths(ModelDefinition.abstract(build_stand_in), (r"backbone/.*", "layers/0"))


def test_the_default_may_match_nothing() -> None:
    definition = ModelDefinition.abstract(build_stand_in)
    assert trainable_paths(definition, OptimizerConfig().freeze) == definition.param_paths


def test_freezing_everything_is_a_mistake() -> None:
    with pytest.raises(UserError, match="matches every parameter"):
        trainable_paths(ModelDefinition.abstract(build_stand_in), (".*",))
