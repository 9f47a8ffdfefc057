"""Mistakes on the command line and in experiment files cost one sentence each."""

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from absl import flags

from anchordetr_jax import cli
from anchordetr_jax.config import Config, DataConfig, TrainConfig
from anchordetr_jax.errors import UserError

EXPERIMENT = """
from anchordetr_jax.config import default_config

def get_config():
    config = default_config()
    config.train.epochs = 3
    {line}
    return config
"""

ReadSettings = Callable[..., Config]


@pytest.fixture
def experiment(tmp_path: Path) -> str:
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT.format(line="pass"))
    return str(path)


@pytest.fixture
def settings_of(experiment: str) -> ReadSettings:
    """Parses `--config experiment.py` with further arguments as a script would, and gives the settings."""

    def read(*arguments: str) -> Config:
        flag_values = flags.FlagValues()
        read_config = cli.define_config(flag_values)
        cli.parse(["script.py", *arguments, "--config", experiment], flag_values)
        return read_config()

    return read


@pytest.mark.parametrize("flag", ["--num_processes=2", "--process_id=1"])
def test_numbers_of_processes_without_their_coordinator_are_refused(flag: str) -> None:
    flag_values = flags.FlagValues()
    connect = cli.define_processes(flag_values)
    cli.parse(["script.py", flag, "--distributed"], flag_values)
    with pytest.raises(UserError, match=rf"{flag.partition('=')[0]} has no effect without --coordinator=HOST:PORT"):
        connect()


def test_settings_come_from_the_experiment_file(settings_of: ReadSettings) -> None:
    assert settings_of().train.epochs == 3


def test_a_setting_on_the_command_line_overrides_the_file(settings_of: ReadSettings) -> None:
    assert settings_of("--config.train.epochs=7").train.epochs == 7


def test_settings_of_the_file_and_of_the_command_line_are_known_as_given(experiment: str) -> None:
    flag_values = flags.FlagValues()
    read_config = cli.define_config(flag_values)
    # One of them at its default value: it is given all the same.
    cli.parse(["script.py", "--config", experiment, "--config.model.dilation=True"], flag_values)
    assert read_config.experiment().given == {"train.epochs", "model.dilation"}


def test_without_a_file_the_given_settings_are_changed() -> None:
    flag_values = flags.FlagValues()
    read_config = cli.define_config(flag_values, required=False)
    cli.parse(["script.py", "--config.train.epochs=7"], flag_values)
    given = Config(data=DataConfig(root="here"))
    assert read_config(given) == Config(data=DataConfig(root="here"), train=TrainConfig(epochs=7))


def test_a_setting_may_stand_apart_from_its_value(settings_of: ReadSettings) -> None:
    assert settings_of("--config.train.epochs", "7").train.epochs == 7


def test_the_last_of_two_values_wins(settings_of: ReadSettings) -> None:
    assert settings_of("--config.train.epochs=7", "--config.train.epochs=8").train.epochs == 8


@pytest.mark.parametrize("text", ["96,112", "(96, 112)", "[96,112]"])
def test_a_tuple_may_be_written_with_and_without_brackets(settings_of: ReadSettings, text: str) -> None:
    assert settings_of(f"--config.augment.train_sizes={text}").augment.train_sizes == (96, 112)


def test_one_value_is_a_tuple_of_one(settings_of: ReadSettings) -> None:
    assert settings_of("--config.augment.train_sizes=96").augment.train_sizes == (96,)


def test_a_regular_expression_needs_no_quotes(settings_of: ReadSettings) -> None:
    assert settings_of("--config.optimizer.freeze=backbone/.*").optimizer.freeze == ("backbone/.*",)


def test_an_empty_tuple_can_be_given(settings_of: ReadSettings) -> None:
    assert settings_of("--config.optimizer.freeze=()").optimizer.freeze == ()


def test_text_that_looks_like_a_number_stays_text(settings_of: ReadSettings) -> None:
    assert settings_of("--config.data.root=2017").data.root == "2017"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("--config.model.remat", True),
        ("--config.model.remat=true", True),
        ("--config.model.remat=False", False),
        ("--noconfig.model.remat", False),
    ],
)
def test_a_switch_is_set_like_any_flag(settings_of: ReadSettings, argument: str, value: bool) -> None:
    assert settings_of("--config.model.remat=True", argument).model.remat is value


def test_a_switch_of_an_older_version_is_still_one(settings_of: ReadSettings) -> None:
    settings = settings_of("--config.model.tpu_forms", "--config.train.epochs=7")
    assert (settings.model.kernels, settings.train.epochs) == ("tpu", 7)


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--config.modle.remat=true", "There is no setting 'modle.remat'; did you mean 'model.remat'?"),
        ("--config.train.epoch=3", "There is no setting 'train.epoch'; did you mean 'train.epochs'?"),
        ("--config.train.epochs.x=3", "'train.epochs' is not a group of settings"),
        ("--config.train.epochs=many", "'train.epochs' must be of type int, not 'many'"),
        ("--config.train.epochs=1.5", "'train.epochs' must be of type int, not 1.5"),
        ("--config.train.epochs=0", "'train.epochs' must be at least 1, not 0"),
        ("--config.train=3", "'train' is a group of settings, not 3"),
        ("--config.model.remat=maybe", "'model.remat' must be of type bool, not 'maybe'"),
        ("--config.augment.train_sizes=a,b", "'augment.train_sizes' must be of type int, not 'a,b'"),
        ("--config.model.backbone=vgg", "'model.backbone' must be one of 'resnet50', "),
    ],
)
def test_a_wrong_setting_is_named_with_its_remedy(settings_of: ReadSettings, argument: str, sentence: str) -> None:
    with pytest.raises(UserError) as raised:
        settings_of(argument)
    assert sentence in str(raised.value)


def test_a_setting_without_a_value_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"--config\.train\.epochs needs a value"):
        cli.parse(["script.py", "--config.train.epochs"], flags.FlagValues())


def test_an_unknown_flag_is_named(settings_of: ReadSettings) -> None:
    with pytest.raises(UserError, match="'wrokdir'"):
        settings_of("--wrokdir=runs/x")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--lr=3", "There is no flag --lr; the setting is --config.optimizer.learning_rate=VALUE."),
        ("--batch-size=3", "There is no flag --batch-size; the setting is --config.train.batch_size=VALUE."),
        ("--train.epochs=3", "There is no flag --train.epochs; the setting is --config.train.epochs=VALUE."),
    ],
)
def test_a_flag_that_is_a_setting_gets_the_setting_s_name(
    settings_of: ReadSettings, argument: str, sentence: str
) -> None:
    with pytest.raises(UserError) as raised:
        settings_of(argument)
    assert str(raised.value) == sentence


def test_a_missing_flag_is_named_and_explained() -> None:
    flag_values = flags.FlagValues()
    cli.define_config(flag_values)
    with pytest.raises(UserError, match="flag --config is missing: Experiment file"):
        cli.parse(["script.py"], flag_values)


def test_arguments_behind_two_dashes_are_left_alone() -> None:
    assert cli.parse(["script.py", "--", "--config.x=1"], flags.FlagValues()) == ["script.py", "--config.x=1"]


SCRIPT = '''"""Prints how long it would train."""
import sys
from absl import flags
from anchordetr_jax import cli

FLAGS = flags.FlagValues()
read_config = cli.define_config(FLAGS)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", FLAGS, required=True)

def main() -> None:
    print(read_config().train.epochs, WORKDIR.value)

if __name__ == "__main__":
    sys.exit(cli.run(main, FLAGS, sys.argv[1:], takes_arguments=False))
'''


@pytest.mark.processes
@pytest.mark.parametrize(
    ("arguments", "status", "out", "err"),
    [
        (["--workdir=runs/x", "--config.train.epochs=5"], 0, "5 runs/x\n", ""),
        (["--workdir=runs/x", "--config.train.epoch=5"], 1, "", "did you mean 'train.epochs'?"),
        ([], 1, "", "Error: The flag --workdir is missing: Folder of the run.\n"),
        (["--workdir=runs/x", "stray"], 1, "", "takes flags only, not 'stray'"),
    ],
)
def test_a_script_answers_with_one_line(
    tmp_path: Path,
    experiment: str,
    script_environment: dict[str, str],
    arguments: list[str],
    status: int,
    out: str,
    err: str,
) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    root = str(Path(cli.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, str(script), f"--config={experiment}", *arguments],
        env={**script_environment, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (status, out)
    assert err in done.stderr
    assert done.stderr.count("\n") == (1 if status else 0)


@pytest.mark.parametrize("text", ["800", "800x", "0x32", "800x1088x3", "800,1088", "-32x32"])
def test_a_shape_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="HEIGHTxWIDTH"):
        cli.parse_shape(text)


def test_a_line_of_the_log_is_printed_by_one_handler() -> None:
    root = logging.getLogger()
    second = logging.StreamHandler()
    root.addHandler(second)
    try:
        cli.log_lines_once()
        assert second not in root.handlers
    finally:
        root.removeHandler(second)
