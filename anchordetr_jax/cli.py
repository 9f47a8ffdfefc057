"""What all commands share: the flag `--config`, and an answer in one sentence to a mistake on the command line.

A script defines its flags with absl, its `--config` by `define_config`, and gives its `main` to `run`:

    read_config = cli.define_config()
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)

    def main() -> None:
        config = read_config()
        ...

    if __name__ == "__main__":
        cli.run(main)

The command line can change any setting of the experiment file: `--config configs/shapes.py --config.train.epochs=20`.
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
from logging import LogRecord, StreamHandler, getLogger
from typing import TYPE_CHECKING, Any, NoReturn

import ml_collections
from absl import app, flags, logging
from PIL import Image

from anchordetr_jax.config import Config, config_from_dict, config_to_dict, default_config
from anchordetr_jax.errors import UserError
from anchordetr_jax.errors import exit_status as exit_status  # Scripts without flags of absl use it alone.
from anchordetr_jax.settings.names import OLD_SWITCHES, flat_settings, nearest_setting

if TYPE_CHECKING:
    from anchordetr_jax.prediction.detector import Detector

flags.disclaim_key_flags()  # So that --help lists --config among the flags of the script, not of this module.


class ReadConfig:
    """Called after the flags are parsed, it reads the settings that they name."""

    def __init__(self, path: flags.FlagHolder, changes: flags.FlagHolder):
        self._path, self._changes = path, changes

    def __call__(self, otherwise: Config | None = None) -> Config:
        """The settings of the experiment file, with the command line's changes. Raises like `load_config`.

        Args:
            otherwise: the settings to change if there is no experiment file.
        """
        if self._path.value is None and otherwise is not None:
            return change_config(config_to_dict(otherwise), self._changes.value)
        return load_config(self._path.value or "", self._changes.value)

    def given(self) -> frozenset[str]:
        """Names ("model.dilation") of the settings that the command line sets, and of those that have another value
        than the default in the experiment file. Raises like `load_config`.
        """
        names = {change.partition("=")[0] for change in self._changes.value}
        if self._path.value is not None:
            default = flat_settings(default_config().to_dict())
            from_file = flat_settings(_run_file(self._path.value).to_dict())
            names |= {name for name, value in from_file.items() if name not in default or default[name] != value}
        return frozenset(names)


def define_config(flag_values: flags.FlagValues = flags.FLAGS, *, required: bool = True) -> ReadConfig:
    """Defines the flag `--config FILE.py`; `--config.SETTING=VALUE` changes its settings.

    Returns:
        A function that reads the file. Call it after the flags are parsed. If the flag is not required, give it the
        settings to use without a file, for example those of a checkpoint.
    """
    path = flags.DEFINE_string(
        "config",
        None,
        "Experiment file, such as those in configs/; --config.train.epochs=20 changes a setting.",
        flag_values,
    )
    changes = flags.DEFINE_multi_string(
        "config_change", [], "The long form of --config.SETTING=VALUE: --config_change=SETTING=VALUE.", flag_values
    )
    if required:
        flags.mark_flag_as_required("config", flag_values)

    return ReadConfig(path, changes)


def load_config(path: str, changes: Iterable[str] = ()) -> Config:
    """The settings of an experiment file with `changes` such as "train.epochs=20", checked.

    Raises:
        UserError: the file is missing or fails, or a setting has a wrong name, type or value.
    """
    return change_config(_run_file(path).to_dict(), changes)


def change_config(settings: dict[str, Any], changes: Iterable[str]) -> Config:
    """`settings` (nested dicts, changed in place) with `changes`, checked. Raises like `load_config`."""
    for change in changes:
        name, _, text = change.partition("=")
        *groups, last = name.split(".")
        group = settings
        for position, part in enumerate(groups):
            group = group.setdefault(part, {})  # config_from_dict reports a group that does not exist.
            if not isinstance(group, dict):
                raise UserError(
                    f"Setting '{'.'.join(groups[: position + 1])}' is not a group of settings: there is no '{name}'."
                )
        group[last] = _value(text, group.get(last))
    return config_from_dict(settings)


def define_weights(
    flag_values: flags.FlagValues = flags.FLAGS,
) -> Callable[[], tuple[str, dict[str, Any]]]:
    """Defines `--checkpoint`, `--dilation` and `--annotations`.

    Returns:
        A function that gives the name of the weights and options of `open_pretrained`. Call it after the flags are
        parsed.
    """
    checkpoint = flags.DEFINE_string(
        "checkpoint",
        None,
        "A run's workdir, one checkpoint, a weight file (FILE#ENTRY if it has several sets), a folder of "
        "save_pretrained, hf://ORGANISATION/NAME, or a published model such as anchordetr-r50-dc5.",
        flag_values,
    )
    flags.mark_flag_as_required("checkpoint", flag_values)
    dilation = flags.DEFINE_bool(
        "dilation", None, "For a weight file that does not say it: DC5; --no-dilation: C5.", flag_values
    )
    annotations = flags.DEFINE_string(
        "annotations", None, "For a weight file: the COCO-format file whose categories are its classes.", flag_values
    )

    def read() -> tuple[str, dict[str, Any]]:
        assert checkpoint.value is not None  # It is required.
        return checkpoint.value, {"dilation": dilation.value, "annotations": annotations.value}

    return read


def define_detector(flag_values: flags.FlagValues = flags.FLAGS) -> Callable[[], "Detector"]:
    """Defines the flags of `define_weights`, and `--dtype`.

    Returns:
        A function that loads the detector that these flags name. Call it after the flags are parsed.
    """
    read_weights = define_weights(flag_values)
    dtype = flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "bfloat16"],
        "The dtype that the network computes in; by default the one that it was trained with.",
        flag_values,
    )

    def load() -> "Detector":
        from anchordetr_jax.prediction.detector import Detector  # Here, because only some scripts detect.

        name, options = read_weights()
        detector = Detector.from_pretrained(name, dtype=dtype.value, **options)
        say(detector.remarks)
        return detector

    return load


def define_processes(flag_values: flags.FlagValues = flags.FLAGS) -> Callable[..., None]:
    """Defines `--distributed`, `--coordinator`, `--num_processes` and `--process_id`.

    Returns a function that connects the processes that the parsed flags describe, if any; it takes the keyword
    arguments of `initialize_distributed`. Call it before anything asks JAX for devices.
    """
    distributed = flags.DEFINE_bool("distributed", False, "Run as one of several processes (hosts).", flag_values)
    coordinator = flags.DEFINE_string(
        "coordinator", "", "HOST:PORT of process 0, where JAX cannot find it itself.", flag_values
    )
    num_processes = flags.DEFINE_integer(
        "num_processes", None, "Number of processes, with --coordinator.", flag_values=flag_values
    )
    process_id = flags.DEFINE_integer(
        "process_id", None, "Number of this process, from 0, with --coordinator.", flag_values=flag_values
    )

    def connect(**options: Any) -> None:
        from anchordetr_jax.devices import initialize_distributed  # Here, as JAX takes a second to import.

        if distributed.value or coordinator.value:
            initialize_distributed(coordinator.value or "", num_processes.value, process_id.value, **options)

    return connect


def say(remarks: Sequence[str]) -> None:
    """Prints sentences about what was found and assumed, one per line, on stderr."""
    for remark in remarks:
        print(remark, file=sys.stderr, flush=True)


def prepare_computation(*, keep_compiled: bool = True) -> None:
    """Prepares the process for CPUs, and turns the compilation cache on if `keep_compiled`.

    A command calls it before JAX starts its backends.
    """
    from anchordetr_jax.compilation import keep_compilations  # Here, because only some scripts compute.
    from anchordetr_jax.kernels.cpu import prepare_process

    prepare_process()
    if keep_compiled:
        keep_compilations()


def parse_shape(text: str) -> tuple[int, int]:
    """`"800x1088"` -> (800, 1088), height and width. Raises `UserError` for anything else."""
    sides = text.lower().split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() and int(side) for side in sides):
        raise UserError(f"A shape is HEIGHTxWIDTH in pixels, such as 800x1088, not {text!r}.")
    return int(sides[0]), int(sides[1])


def run(main: Callable[..., None], *, takes_arguments: bool = False) -> NoReturn:
    """Parses the flags, calls `main` and exits. `exit_status` says with which status.

    Args:
        takes_arguments: `main` gets the list of the arguments that are not flags. By default such an argument is a
            mistake, and `main` gets none.
    """

    def call(arguments: Sequence[str]) -> None:
        if takes_arguments:
            main(list(arguments[1:]))
        elif len(arguments) > 1:
            raise UserError(f"This command takes flags only, not {arguments[1]!r}; --help lists the flags.")
        else:
            main()

    def parse_quietly(argv: Sequence[str]) -> list[str]:
        left = parse(argv)
        if flags.FLAGS["verbosity"].using_default_value:
            logging.set_verbosity(logging.WARNING)  # absl's default is INFO, which prints every step of Orbax.
            logging.get_absl_logger().addFilter(_is_not_a_repetition)
        log_lines_once()
        return left

    # Images of more than 89 million pixels are read like others. Pillow would print two lines that help nobody.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    sys.unraisablehook = _print_unraisable
    sys.exit(exit_status(lambda: app.run(call, flags_parser=parse_quietly)))


def _print_unraisable(what: "sys.UnraisableHookArgs") -> None:
    """Like Python's own hook, but silent about the further writes of a save that has failed already. All that
    tensorstore says here about each of them is that nobody waits for it.
    """
    if not (isinstance(what.exc_value, RuntimeError) and str(what.exc_value) == "Event loop is closed"):
        sys.__unraisablehook__(what)


def log_lines_once() -> None:
    """Removes the second handler, which absl adds when a library logs while it is imported, as Orbax does."""
    root = getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is StreamHandler]:
        root.removeHandler(handler)


def _is_not_a_repetition(record: LogRecord) -> bool:
    """False for the traceback that Orbax logs of an exception that it raises as well."""
    return not (record.exc_info and f"{os.sep}orbax{os.sep}" in record.pathname)


def parse(argv: Sequence[str], flag_values: flags.FlagValues = flags.FLAGS) -> list[str]:
    """Parses `argv` (program name first) and returns the arguments that are not flags. Raises `UserError`."""
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
            result.append(re.sub(r"^--no-(?=\w+$)", "--no", argument))  # The other commands spell it --no-FLAG.
            if argument == "--":
                result.extend(remaining)
            continue
        no, name, text = match.groups()
        if text is None and (no or isinstance(_default(name), bool) or name in OLD_SWITCHES):
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
    """`text` as a Python value, or as it is if it replaces a string. Its type is checked elsewhere."""
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
            f"The config file {path!r} must have a function get_config() that returns a changed default_config()."
        )
    return settings
