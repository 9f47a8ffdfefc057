"""What a run starts from is made ready: weight files are converted, and the network follows where it may."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from anchordetr_jax.checkpoints.checkpoint import CHECKPOINTS_FOLDER, read_meta, save_variables, saved_shapes
from anchordetr_jax.config import ClassesConfig, Config, ModelConfig, OptimizerConfig
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.kernels.building import definition_of
from anchordetr_jax.training.initial_checkpoint import prepare_initial_weights
from anchordetr_jax.weights.state_dict import state_dict_from_variables
from anchordetr_jax.weights.torch_file import write_torch_file

CELLS = Categories(ids=(1, 2), names=("red", "white"))
NETWORK = ModelConfig(num_anchors=4, num_classes=2, encoder_layers=1, decoder_layers=1, dilation=False, ffn_dim=32)
START = Config(model=NETWORK)
FINETUNE = Config(architecture="init_from")


def zeros() -> dict[str, np.ndarray]:
    definition = definition_of(NETWORK)
    return {name: np.zeros(shape.shape, np.float32) for name, shape in definition.shapes.items()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "checkpoint"
    save_variables(path, {"class_head/bias": np.zeros(2, np.float32)}, CELLS, START)
    return path


def starting_from(path: object, **changes: object) -> Config:
    return dataclasses.replace(FINETUNE, init_from=str(path), **changes)  # type: ignore[arg-type]


def test_the_architecture_of_the_initial_weights_is_taken_over_except_for_the_classes(
    checkpoint: Path, tmp_path: Path
) -> None:
    config, _ = prepare_initial_weights(starting_from(checkpoint), (), tmp_path)
    assert config.model == dataclasses.replace(NETWORK, num_classes=0)
    assert config.init_from == str(checkpoint)


def test_model_settings_of_the_command_line_are_kept(checkpoint: Path, tmp_path: Path) -> None:
    given = starting_from(checkpoint, model=ModelConfig(num_anchors=300, dtype="bfloat16"))
    config, _ = prepare_initial_weights(given, {"model.num_anchors"}, tmp_path)
    assert (config.model.num_anchors, config.model.dilation, config.model.dtype) == (300, False, "bfloat16")


def test_the_architecture_is_not_taken_over_by_default(checkpoint: Path, tmp_path: Path) -> None:
    given = Config(init_from=str(checkpoint))
    assert prepare_initial_weights(given, (), tmp_path) == (given, ())


def test_with_detector_the_network_of_a_whole_detector_counts_and_else_that_of_the_settings(
    checkpoint: Path, tmp_path: Path
) -> None:
    backbone = tmp_path / "backbone"
    save_variables(backbone, {"backbone/stem/conv/kernel": np.zeros(2, np.float32)}, None, START)
    small = starting_from(checkpoint, architecture="detector", model=ModelConfig(num_anchors=7))
    config, remarks = prepare_initial_weights(small, {"model.num_anchors"}, tmp_path)
    assert config.model == dataclasses.replace(NETWORK, num_classes=0)
    assert remarks == (f"The network is that of {checkpoint}: settings in model are not used.",)
    config, remarks = prepare_initial_weights(dataclasses.replace(small, init_from=str(backbone)), (), tmp_path)
    assert (config.model, remarks) == (small.model, ())


def test_freeze_patterns_of_another_backbone_are_left_out_and_named(checkpoint: Path, tmp_path: Path) -> None:
    settings = starting_from(
        checkpoint,
        architecture="detector",
        model=ModelConfig(backbone="compact"),
        optimizer=OptimizerConfig(freeze=("class_head/.*", "backbone/.*/depthwise_conv/.*")),
    )
    config, remarks = prepare_initial_weights(settings, (), tmp_path)
    assert config.optimizer.freeze == ("class_head/.*",)
    assert remarks[1] == (
        "optimizer.freeze is for compact: backbone/.*/depthwise_conv/.* match nothing here and are left out."
    )
    before = dataclasses.replace(START, optimizer=config.optimizer)
    save_variables(tmp_path / CHECKPOINTS_FOLDER / "7", {"class_head/bias": np.zeros(2, np.float32)}, CELLS, before)
    config, _ = prepare_initial_weights(settings, (), tmp_path)
    assert config.optimizer.freeze == ("class_head/.*",)  # Also where the run goes on.


def test_a_weight_file_is_converted_into_the_workdir_when_its_dilation_is_given(tmp_path: Path) -> None:
    # Official weights without the arguments that would tell C5 from DC5.
    file = tmp_path / "weights.pth"
    write_torch_file(file, {"model": state_dict_from_variables(zeros(), NETWORK)})
    with pytest.raises(UserError, match=r"whether it is a C5 or a DC5 model: .*--config\.model\.dilation=True \(DC5\)"):
        prepare_initial_weights(starting_from(file), (), tmp_path / "run")
    said = starting_from(file, model=ModelConfig(dilation=False))
    config, remarks = prepare_initial_weights(said, {"model.dilation"}, tmp_path / "run")
    start = tmp_path / "run" / "initial_weights"
    assert config.init_from == str(start)
    assert config.model == dataclasses.replace(NETWORK, num_classes=0)
    assert saved_shapes(start).keys() == zeros().keys()
    assert f"Converted {file} into {start}" in remarks[0]


def test_a_weight_file_that_does_not_tell_its_heads_has_those_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    write_torch_file(file, {"model": state_dict_from_variables(zeros(), NETWORK)})
    said = starting_from(file, model=ModelConfig(dilation=False, num_heads=4))
    prepare_initial_weights(said, {"model.dilation", "model.num_heads"}, tmp_path / "run")
    assert read_meta(tmp_path / "run" / "initial_weights").config.model.num_heads == 4


def test_a_run_with_checkpoints_does_not_need_its_initial_weights(checkpoint: Path, tmp_path: Path) -> None:
    save_variables(tmp_path / CHECKPOINTS_FOLDER / "7", {"class_head/bias": np.zeros(2, np.float32)}, CELLS, START)
    config, _ = prepare_initial_weights(starting_from(tmp_path / "gone.pth"), (), tmp_path)
    assert config.model.num_anchors == NETWORK.num_anchors


def test_a_run_that_continues_names_the_settings_of_another_network(checkpoint: Path, tmp_path: Path) -> None:
    save_variables(tmp_path / CHECKPOINTS_FOLDER / "7", {"class_head/bias": np.zeros(2, np.float32)}, CELLS, START)
    other = Config(
        architecture="detector", model=dataclasses.replace(NETWORK, decoder_layers=NETWORK.decoder_layers + 1)
    )
    config, (remark,) = prepare_initial_weights(other, {"model.decoder_layers", "model.hidden_dim"}, tmp_path)
    assert config.model.decoder_layers == NETWORK.decoder_layers
    expected = f"The run continues with its own network: model.decoder_layers={NETWORK.decoder_layers!r}. "
    assert remark.startswith(expected)


def test_a_map_of_classes_is_refused_where_a_new_run_has_no_initial_weights(tmp_path: Path) -> None:
    config = Config(classes=ClassesConfig(map=("rbc=red",)))
    with pytest.raises(UserError, match=r"'classes\.map' has no effect .* name them in 'init_from'"):
        prepare_initial_weights(config, (), tmp_path)
    save_variables(tmp_path / CHECKPOINTS_FOLDER / "7", {"class_head/bias": np.zeros(2, np.float32)}, CELLS, START)
    assert prepare_initial_weights(config, (), tmp_path) == (config, ())


@pytest.mark.parametrize(
    ("init_from", "sentence"), [("", "'init_from' is empty"), ("nowhere.pth", "nothing at init_from=nowhere.pth")]
)
def test_initial_weights_that_do_not_exist_are_named(init_from: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        prepare_initial_weights(starting_from(init_from), (), tmp_path)
