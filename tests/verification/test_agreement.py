"""Which differences between two sets of outputs are found, and which are none."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from anchordetr_jax.config import Config, ModelConfig
from anchordetr_jax.verification.agreement import compare_outputs
from anchordetr_jax.verification.cases import Case, DetectionArrays, Outputs, sample
from anchordetr_jax.verification.comparison import Table

L, B, Q, K, N = 2, 1, 6, 4, 3


def case(**settings) -> Case:
    model = ModelConfig(num_classes=K, **settings)
    return Case(name="case", config=Config(model=model), images=(np.zeros((20, 10, 3)),), state_dict={})


def outputs() -> Outputs:
    generator = np.random.default_rng(0)
    scores = np.sort(generator.uniform(size=(B, 5)))[:, ::-1]
    return Outputs(
        stages={"encoder/spatial/0": generator.normal(size=(B, 30, 40, 2))},
        layers=(0, 1),
        logits=generator.normal(size=(L, B, Q, K)),
        boxes=generator.uniform(size=(L, B, Q, 4)),
        detections=DetectionArrays(scores, generator.integers(0, K, (B, 5)), generator.uniform(0, 10, (B, 5, 4))),
        losses={"loss_ce": 1.5, "loss_bbox": 0.5, "class_error": 50.0},
        matches={(layer, 0): {0: 2, 1: 4, 2: 5} for layer in range(L)},
        costs=generator.uniform(size=(L, B, N, Q)),
        gradient_norms={"transformer.pattern.weight": 3.0, "transformer.class_embed.0.bias": 2.0},
        step_losses=np.array([3.0, 2.0]),
        step_gradient_norms=np.array([9.0, 8.0]),
        norms_after={"transformer.pattern.weight": 7.0},
        tensors_after={"transformer.pattern.weight": generator.normal(size=(2, 3))},
    )


def table_of(ours: Outputs, reference: Outputs, dtype: str = "float64", **settings) -> Table:
    table = Table("title")
    compare_outputs(table, ours, reference, case(**settings), dtype)
    return table


def test_outputs_agree_with_themselves() -> None:
    table = table_of(outputs(), outputs())
    assert table.passed, str(table)


def change_array(name: str) -> Callable[[Outputs], None]:
    def change(changed: Outputs) -> None:
        array = getattr(changed, name).copy()
        array.flat[-1] += 1e-7
        setattr(changed, name, array)

    return change


def change_entry(name: str, key: str) -> Callable[[Outputs], None]:
    def change(changed: Outputs) -> None:
        getattr(changed, name)[key] = getattr(changed, name)[key] * (1 + 1e-6)

    return change


def change_detections(part: str) -> Callable[[Outputs], None]:
    def change(changed: Outputs) -> None:
        array = getattr(changed.detections, part).copy()
        array.flat[0] += 1
        assert changed.detections is not None
        changed.detections = changed.detections._replace(**{part: array})

    return change


@pytest.mark.parametrize(
    ("change", "stage"),
    [
        (change_entry("stages", "encoder/spatial/0"), "encoder/spatial/0"),
        (change_array("logits"), "logits/layer 1"),
        (change_array("boxes"), "boxes/layer 1"),
        (change_detections("scores"), "detections/scores"),
        (change_detections("labels"), "detections/labels"),
        (change_detections("boxes"), "detections/boxes"),
        (change_entry("losses", "loss_bbox"), "loss/loss_bbox"),
        (change_entry("gradient_norms", "transformer.pattern.weight"), "gradient norms"),
        (change_array("step_losses"), "loss of each step"),
        (change_array("step_gradient_norms"), "gradient norm of each step"),
        (change_entry("norms_after", "transformer.pattern.weight"), "tensors' norms after"),
        (change_entry("tensors_after", "transformer.pattern.weight"), "after: transformer.pattern.weight"),
    ],
)
def test_a_difference_is_found_in_its_own_row(change: Callable[[Outputs], None], stage: str) -> None:
    changed = outputs()
    change(changed)
    assert stage in [row.stage for row in table_of(changed, outputs()).failed]


def test_a_figure_that_is_missing_here_is_found() -> None:
    ours = outputs()
    ours.stages, ours.losses, ours.step_losses = {}, {}, None
    failed = [row.stage for row in table_of(ours, outputs()).failed]
    assert {"encoder/spatial/0", "loss/loss_ce", "loss of each step"} <= set(failed)


def test_a_sample_of_a_stage_is_compared_with_the_same_sample() -> None:
    reference = outputs()
    whole = reference.stages["encoder/spatial/0"]
    reference.stages, reference.stage_shapes = {"encoder/spatial/0": sample(whole)}, {"encoder/spatial/0": whole.shape}
    assert table_of(outputs(), reference).passed
    reference.stages["encoder/spatial/0"][7] += 1e-6
    assert not table_of(outputs(), reference).passed


def test_another_matching_is_as_good_if_it_costs_the_same() -> None:
    reference = outputs()
    reference.matches = {**reference.matches, (1, 0): {0: 4, 1: 2, 2: 5}}
    ours = outputs()
    assert ours.costs is not None
    ours.costs[1, 0, :2, [2, 4]] = 0.25
    assert table_of(ours, reference).passed
    ours.costs[1, 0, 0, 4] = 0.2
    assert [row.stage for row in table_of(ours, reference).failed] == ["matching/layer 1"]


def test_detections_of_equal_score_may_come_in_another_order() -> None:
    reference = outputs()
    assert reference.detections is not None
    scores = reference.detections.scores.copy()
    scores[0, 2] = scores[0, 1]
    reference.detections = reference.detections._replace(scores=scores)
    ours = outputs()
    order = [0, 2, 1, 3, 4]
    ours.detections = DetectionArrays(*(part[:, order] for part in reference.detections))
    assert table_of(ours, reference).passed


def test_only_box_centres_of_grids_may_differ_by_a_float32_rounding() -> None:
    ours = outputs()
    assert ours.boxes is not None
    ours.boxes = ours.boxes + 5e-8
    assert table_of(ours, outputs(), spatial_prior="grid").passed
    assert not table_of(ours, outputs()).passed
    assert ours.logits is not None
    ours.logits = ours.logits + 5e-8
    assert not table_of(ours, outputs(), spatial_prior="grid").passed


def test_in_float32_parameters_after_the_steps_are_reported_and_not_judged() -> None:
    ours = outputs()
    ours.tensors_after = {name: tensor * 1.01 for name, tensor in ours.tensors_after.items()}
    table = table_of(ours, outputs(), "float32")
    assert table.passed
    assert not table_of(ours, outputs(), "float64").passed


def test_the_official_name_of_a_shared_heads_gradient_may_be_any_layers() -> None:
    reference = outputs()
    reference.gradient_norms["transformer.class_embed.1.bias"] = reference.gradient_norms.pop(
        "transformer.class_embed.0.bias"
    )
    assert table_of(outputs(), reference).passed


def test_several_images_with_several_levels_get_a_note() -> None:
    two = dataclasses.replace(case(num_feature_levels=3), images=(np.zeros((2, 2, 3)),) * 2)
    table = Table("title")
    compare_outputs(table, outputs(), Outputs(logits=outputs().logits, layers=(0, 1)), two, "float64")
    assert "attend to each other" in str(table)
