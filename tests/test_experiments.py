"""Experiment files and presets; a mistake in one costs one sentence."""

from pathlib import Path

import pytest

from anchordetr_jax.config import Config
from anchordetr_jax.errors import UserError
from anchordetr_jax.experiments import find_experiment, preset_names, read_experiment

CONFIGS = Path(__file__).parents[1] / "configs"

EXPERIMENT = """
from anchordetr_jax.config import default_config

def get_config():
    config = default_config()
    config.train.epochs = 3
    {line}
    return config
"""


def test_each_file_in_configs_is_a_preset() -> None:
    assert preset_names() == sorted(path.stem.replace("_", "-") for path in CONFIGS.glob("*.py"))


@pytest.mark.parametrize("name", ["finetune-cpu", "finetune_cpu"])
def test_a_preset_is_found_by_its_name(name: str) -> None:
    assert Path(find_experiment(name)) == CONFIGS / "finetune_cpu.py"


def test_a_file_counts_more_than_the_preset_of_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("finetune").write_text(EXPERIMENT.format(line="config.train.epochs = 4"))
    assert read_experiment("finetune").config.train.epochs == 4


def test_the_file_of_a_preset_that_is_not_here_is_answered_with_its_name() -> None:
    with pytest.raises(UserError, match=r"does not exist; --config finetune-cpu takes the preset"):
        find_experiment("elsewhere/configs/finetune_cpu.py")


def test_texts_and_values_change_settings_and_are_known_as_given(tmp_path: Path) -> None:
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT.format(line="pass"))
    experiment = read_experiment(
        str(path), ["train.batch_size=2"], {"augment.train_sizes": (96,), "data.root": "here", "train.seed": 42}
    )
    config = experiment.config
    assert (config.train.epochs, config.train.batch_size, config.augment.train_sizes) == (3, 2, (96,))
    assert config.train.seed == Config().train.seed  # Given all the same.
    assert experiment.given == {"train.epochs", "train.batch_size", "augment.train_sizes", "data.root", "train.seed"}


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.py' does not exist"):
        read_experiment(str(tmp_path / "none.py"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import no_such_module", "fails in line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\ndef get_config(:", "is not Python, line 2: "),
        ("x = 1", "must have a function get_config()"),
        ("def get_config(): return 3", "must have a function get_config()"),
        (EXPERIMENT.format(line="config.modle.remat = True"), "fails in line 7: AttributeError: 'modle' Did you mean"),
        (EXPERIMENT.format(line="config.train.epochs = 'x'"), "fails in line 7: TypeError"),
        (EXPERIMENT.format(line="config.train.epoch = 3"), "no setting 'train.epoch'; did you mean 'train.epochs'?"),
    ],
)
def test_a_broken_file_is_named_with_the_line(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        read_experiment(str(path))
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)
