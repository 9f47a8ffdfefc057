"""The command line's edge: a person's mistake becomes one sentence on stderr and a non-zero exit, never a traceback.

A script defines its flags with absl, asks for `--config` by `define_config`, and hands its `main` to `run`:

    read_config = cli.define_config()
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)

    def main() -> None:
        config = read_config()
        ...

    if __name__ == "__main__":
        cli.run(main)

Any setting of the experiment file can be changed beside it: `--config configs/shapes.py --config.train.epochs=20`.
"""

import ast
import contextlib
import os
import re
import runpy
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from logging import LogRecord
from typing import TYPE_CHECKING, Any, NoReturn

import ml_collections
from absl import app, flags, logging
from PIL import Image

from anchordetr_jax.config import Config, config_from_dict, config_to_dict, default_config, flat_settings
from anchordetr_jax.errors import UserError
from anchordetr_jax.exit_status import exit_status as exit_status  # Scripts without flags of absl use it alone.
from anchordetr_jax.setting_names import nearest_setting

if TYPE_CHECKING:
    from anchordetr_jax.prediction.detector import Detector

flags.disclaim_key_flags()  # --help lists --config among the flags of the script that asked for it.


class ReadConfig:
    """Reads the settings that the parsed flags ask for, when it is called."""

    def __init__(self, path: flags.FlagHolder, changes: flags.FlagHolder):
        self._path, self._changes = path, changes

    def __call__(self, otherwise: Config | None = None) -> Config:
        """The settings; without an experiment file `otherwise`, with the changes in it. Raises as `load_config`."""
        if self._path.value is None and otherwise is not None:
            return change_config(config_to_dict(otherwise), self._changes.value)
        return load_config(self._path.value or "", self._changes.value)

    def given(self) -> frozenset[str]:
        """Names of the settings ("model.dilation") that the command line sets, or the experiment file to something else
        than the default. Raises as `load_config`.
        """
        names = {change.partition("=")[0] for change in self._changes.value}
        if self._path.value is not None:
            default = flat_settings(default_config().to_dict())
            from_file = flat_settings(_run_file(self._path.value).to_dict())
            names |= {name for name, value in from_file.items() if name not in default or default[name] != value}
        return frozenset(names)


def define_config(flag_values: flags.FlagValues = flags.FLAGS, *, required: bool = True) -> ReadConfig:
    """Defines the flag `--config FILE.py`, whose settings `--config.SETTING=VALUE` changes.

    Returns what reads the file once the flags are parsed. Where the flag is not required, it takes the settings to
    start from without a file, say those of a checkpoint.
    """
    path = flags.DEFINE_string(
        "config", None, "Experiment file, one of configs/; --config.train.epochs=20 changes a setting.", flag_values
    )
    changes = flags.DEFINE_multi_string(
        "config_change", [], "What --config.SETTING=VALUE stands for: --config_change=SETTING=VALUE.", flag_values
    )
    if required:
        flags.mark_flag_as_required("config", flag_values)

    return ReadConfig(path, changes)


def load_config(path: str, changes: Iterable[str] = ()) -> Config:
    """The settings of an experiment file, with `changes` ("train.epochs=20") made to them, checked.

    Raises `UserError` if the file is missing or fails, and for a setting with a wrong name, type or value.
    """
    return change_config(_run_file(path).to_dict(), changes)


def change_config(settings: dict[str, Any], changes: Iterable[str]) -> Config:
    """`settings` (nested dicts; altered) with `changes` made to them, checked. Raises like `load_config`."""
    for change in changes:
        name, _, text = change.partition("=")
        *groups, last = name.split(".")
        group = settings
        for position, part in enumerate(groups):
            group = group.setdefault(part, {})  # A group that does not exist is for config_from_dict to name.
            if not isinstance(group, dict):
                raise UserError(f"Setting '{'.'.join(groups[: position + 1])}' is no group: there is no '{name}'.")
        group[last] = _value(text, group.get(last))
    return config_from_dict(settings)


def define_detector(flag_values: flags.FlagValues = flags.FLAGS) -> Callable[[], "Detector"]:
    """Defines `--checkpoint`, `--dilation`, `--annotations` and `--dtype`.

    Returns what loads the detector that they name, once the flags are parsed.
    """
    checkpoint = flags.DEFINE_string(
        "checkpoint", None, "A run's workdir, one checkpoint, or a file of official weights.", flag_values
    )
    flags.mark_flag_as_required("checkpoint", flag_values)
    dilation = flags.DEFINE_bool(
        "dilation", None, "For a weight file that does not say: DC5; --nodilation: C5.", flag_values
    )
    annotations = flags.DEFINE_string(
        "annotations", None, "For a weight file: the COCO-format file whose categories it was trained on.", flag_values
    )
    dtype = flags.DEFINE_enum(
        "dtype", None, ["float32", "bfloat16"], "What the network computes in; as trained if unset.", flag_values
    )

    def load() -> "Detector":
        from anchordetr_jax.prediction.detector import Detector  # Here, for only some scripts detect.

        assert checkpoint.value is not None  # It is required.
        return Detector.from_pretrained(
            checkpoint.value, dilation=dilation.value, annotations=annotations.value, dtype=dtype.value
        )

    return load


def prepare_computation(*, keep_compiled: bool = True) -> None:
    """What a command does before JAX starts its backends: the process keeps the memory it frees, XLA joins loops, and
    what is compiled is kept for the next start, unless that is not wanted."""
    from anchordetr_jax.compilation import join_loops, keep_compilations  # Here, for only some scripts compute.
    from anchordetr_jax.kernels.cpu.host_memory import keep_host_memory

    keep_host_memory()
    join_loops()
    if keep_compiled:
        keep_compilations()


def parse_shape(text: str) -> tuple[int, int]:
    """`"800x1088"` -> (800, 1088), height and width. Raises `UserError` for anything else."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise UserError(f"A shape is HEIGHTxWIDTH in pixels, such as 800x1088, not {text!r}.")
    return int(sides[0]), int(sides[1])


def run(main: Callable[..., None], *, takes_arguments: bool = False) -> NoReturn:
    """Parses the flags, calls `main` and exits: 0 if all went well, 1 after a person's mistake, 130 after Ctrl-C.

    Without `takes_arguments`, `main` is called without any, and an argument on the command line that is not a flag is a
    mistake; with it, `main` gets the list of them.
    """

    def call(arguments: Sequence[str]) -> None:
        if takes_arguments:
            main(list(arguments[1:]))
        elif len(arguments) > 1:
            raise UserError(f"No use for {arguments[1]!r}: this command takes flags only; --help lists them.")
        else:
            main()

    def parse_quietly(argv: Sequence[str]) -> list[str]:
        left = parse(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # absl would now choose INFO, which tells of Orbax's every step
            logging.get_absl_logger().addFilter(_is_not_told_twice)
        return left

    # Images of more than 89 million pixels are read like others; Pillow would print two lines about its source code.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    sys.unraisablehook = _print_unraisable
    sys.exit(exit_status(lambda: app.run(call, flags_parser=parse_quietly)))


def _print_unraisable(what: "sys.UnraisableHookArgs") -> None:
    """Like Python's own, but silent about the writes of a save that fail after the first: of each, tensorstore says no
    more here than that nobody waits for it any longer.
    """
    if not (isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(what)


def _is_not_told_twice(record: LogRecord) -> bool:
    """Whether a message of the log is to be seen: Orbax writes the traceback of every exception that it raises, too."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses `argv` (program name first) and returns what is left of it. Raises `UserError` for a mistake in it."""
    try:
        return flag_values(_with_changes_as_flags(argv))
    except flags.UnrecognizedFlagError as error:
        settings = flat_settings(default_config().to_dict())
        near = nearest_setting(error.flagname, settings) if "config" in flag_values else None
        if near is None or "Did you mean" in str(error):
            raise UserError(f"{' '.join(str(error).split()).rstrip('.')}; --help lists the flags.") from error
        raise UserError(f"There is no flag --{error.flagname}; the setting is --config.{near}=VALUE.") from error
    except flags.Error as error:
        message = " ".join(str(error).split()).rstrip(".")
        if missing := re.search(r"Flag --(\w+) must have a value other than None", message):
            flag = missing.group(1)
            raise UserError(f"The flag --{flag} is missing: {flag_values[flag].help}") from error
        raise UserError(f"{message}; --help lists the flags.") from error


def _with_changes_as_flags(argv: Sequence[str]) -> list[str]:
    """Writes `--config.NAME=VALUE`, `--config.NAME VALUE`, `--config.NAME` and `--noconfig.NAME` as --config_change."""
    result: list[str] = []
    remaining = iter(argv)
    for argument in remaining:
        match = re.fullmatch(r"--?(no)?config\.([^=]*)(?:=(.*))?", argument, re.DOTALL)
        if match is None:
            result.append(argument)
            if argument == "--":
                result.extend(remaining)
            continue
        no, name, text = match.groups()
        if text is None and (no or isinstance(_default(name), bool)):
            text = str(not no)
        elif text is None and (text := next(remaining, None)) is None:
            raise UserError(f"The flag --config.{name} needs a value: --config.{name}=VALUE.")
        result.append(f"--config_change={name}={text}")
    return result


def _default(name: str) -> Any:
    value: Any = default_config()
    for part in name.split("."):
        value = value.get(part) if isinstance(value, ml_collections.ConfigDict) else None
    return value


def _value(text: str, like: Any) -> Any:
    """`text` as the Python value it spells, unless it is to replace a string; its type is checked elsewhere."""
    if isinstance(like, str):
        return text
    try:
        value = ast.literal_eval(text.capitalize() if text in ("true", "false") else text)
    except (ValueError, SyntaxError):
        value = text
    return (value,) if isinstance(like, tuple) and not isinstance(value, tuple | list) else value


def _run_file(path: str) -> ml_collections.ConfigDict:
    if not os.path.isfile(path):
        raise UserError(f"The config file {path!r} does not exist; ready-made ones are in configs/.")
    try:
        get_config = runpy.run_path(path).get("get_config")
        settings = None if get_config is None else get_config()
    except UserError:
        raise
    except SyntaxError as error:
        raise UserError(f"The config file {path!r} is not Python, line {error.lineno}: {error.msg}.") from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        where = f" in line {lines[-1]}" if lines else ""
        what = str(error)
        with contextlib.suppress(ValueError, SyntaxError):
            what = str(ast.literal_eval(what))  # A ConfigDict puts its message through repr.
        what = " ".join(what.split())
        raise UserError(f"The config file {path!r} fails{where}: {type(error).__name__}: {what}") from error
    if not isinstance(settings, ml_collections.ConfigDict):
        raise UserError(
            f"The config file {path!r} must have a function get_config() that returns what default_config() gave it."
        )
    return settings
