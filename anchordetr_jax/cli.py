"""What all commands share: the flag `--config`, and an answer in one sentence to a mistake on the command line.

A command (a file in `commands/`) defines its flags with absl in flag values of its own, its `--config` by
`define_config`, and gives its `main` to `run`:

    FLAGS = flags.FlagValues()
    read_config = cli.define_config(FLAGS)
    WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", FLAGS, required=True)

    def main(arguments: list[str]) -> None:
        config = read_config()
        ...

    def run(arguments: Sequence[str]) -> int:
        return cli.run(main, FLAGS, arguments, text=__doc__)

The command line can change any setting of the experiment file: `--config shapes --config.train.epochs=20`.
"""

import contextlib
import faulthandler
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from logging import LogRecord, StreamHandler, getLogger
from typing import TYPE_CHECKING, Any

import ml_collections
from absl import flags, logging
from PIL import Image

from anchordetr_jax.config import Config, config_to_dict, default_config
from anchordetr_jax.errors import UserError
from anchordetr_jax.errors import exit_status as exit_status  # Commands without flags of absl use it alone.
from anchordetr_jax.experiments import Experiment, change_config, preset_names, read_experiment
from anchordetr_jax.settings.names import OLD_SWITCHES, flat_settings, nearest_setting

if TYPE_CHECKING:
    from anchordetr_jax.prediction.detector import Detector

ReadWeights = Callable[..., tuple[str, dict[str, Any]]]
ReadDetector = Callable[..., "Detector"]

flags.disclaim_key_flags()  # So that --help lists --config among the flags of the command, not of this module.

HELP = ("--help", "-help", "-h", "--helpshort", "--helpfull")


class ReadConfig:
    """Called after the flags are parsed, it reads the settings that they name."""

    def __init__(self, name: flags.FlagHolder, changes: flags.FlagHolder):
        self._name, self._changes = name, changes

    def __call__(self, otherwise: Config | None = None) -> Config:
        """The settings of the experiment file, with the command line's changes. Raises like `read_experiment`.

        Args:
            otherwise: the settings to change if there is no experiment file.
        """
        if self._name.value is None and otherwise is not None:
            return change_config(config_to_dict(otherwise), self._changes.value)
        return self.experiment().config

    def experiment(self, otherwise: str = "", changes: Iterable[str] = ()) -> Experiment:
        """The experiment file, with the command line's changes. Raises like `read_experiment`.

        Args:
            otherwise: the experiment file, or preset, if the command line names none.
            changes: more of them, such as "data.root=MY_DATA". Those of the command line come after them.
        """
        return read_experiment(self._name.value or otherwise, [*changes, *self._changes.value])

    @property
    def is_named(self) -> bool:
        """Whether the command line names an experiment file."""
        return self._name.value is not None

    def changes(self, setting: str) -> bool:
        """Whether the command line changes a setting, such as "data.root"."""
        return any(change.partition("=")[0] == setting for change in self._changes.value)


def define_config(flag_values: flags.FlagValues, *, required: bool = True) -> ReadConfig:
    """Defines the flag `--config NAME`; `--config.SETTING=VALUE` changes its settings.

    Returns:
        A function that reads the file. Call it after the flags are parsed. If the flag is not required, give it the
        settings to use without a file, for example those of a checkpoint.
    """
    name = flags.DEFINE_string(
        "config",
        None,
        f"Experiment file, or one of the presets {', '.join(preset_names())}; --config.train.epochs=20 changes a "
        "setting.",
        flag_values,
    )
    changes = flags.DEFINE_multi_string(
        "config_change", [], "The long form of --config.SETTING=VALUE: --config_change=SETTING=VALUE.", flag_values
    )
    if required:
        flags.mark_flag_as_required("config", flag_values)

    return ReadConfig(name, changes)


def define_weights(flag_values: flags.FlagValues) -> ReadWeights:
    """Defines `--checkpoint`, `--dilation` and `--annotations`.

    Returns:
        A function that gives the name of the weights and options of `open_pretrained`. Call it after the flags are
        parsed; a command that takes the name without a flag, too, gives it its arguments.
    """
    checkpoint = flags.DEFINE_string(
        "checkpoint",
        None,
        "A run's workdir, one checkpoint, a weight file (FILE#ENTRY if it has several sets), a folder of "
        "save_pretrained, hf://ORGANISATION/NAME, or a published model such as anchordetr-r50-dc5.",
        flag_values,
    )
    dilation = flags.DEFINE_bool(
        "dilation", None, "For a weight file that does not say it: DC5; --no-dilation: C5.", flag_values
    )
    annotations = flags.DEFINE_string(
        "annotations", None, "For a weight file: the COCO-format file whose categories are its classes.", flag_values
    )

    def read(arguments: Sequence[str] = ()) -> tuple[str, dict[str, Any]]:
        name = one_of(arguments, checkpoint.value, "--checkpoint")
        if name is None:
            raise UserError(f"The flag --checkpoint is missing: {flag_values['checkpoint'].help}")
        return name, {"dilation": dilation.value, "annotations": annotations.value}

    return read


def one_of(arguments: Sequence[str], value: str | None, flag: str) -> str | None:
    """What the command line names, either as its one argument or by a flag with this `value`; None: neither.

    Raises:
        UserError: it names two.
    """
    named = [*arguments, *([] if value is None else [value])]
    if len(named) > 1:
        raise UserError(f"This command takes one of {', '.join(named)}: give one argument, or {flag}.")
    return named[0] if named else None


def define_detector(flag_values: flags.FlagValues) -> ReadDetector:
    """Defines the flags of `define_weights`, and `--dtype`.

    Returns:
        A function that loads the detector that these flags name. Call it as that of `define_weights`.
    """
    read_weights = define_weights(flag_values)
    dtype = flags.DEFINE_enum(
        "dtype",
        None,
        ["float32", "bfloat16"],
        "The dtype that the network computes in; by default the one that it was trained with.",
        flag_values,
    )

    def load(arguments: Sequence[str] = ()) -> "Detector":
        from anchordetr_jax.prediction.detector import Detector  # Here, because only some commands detect.

        name, options = read_weights(arguments)
        detector = Detector.from_pretrained(name, dtype=dtype.value, **options)
        say(detector.remarks)
        return detector

    return load


def define_processes(flag_values: flags.FlagValues) -> Callable[..., None]:
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

        alone = [flag.name for flag in (num_processes, process_id) if flag.value is not None]
        if alone and not coordinator.value:
            raise UserError(f"--{alone[0]} has no effect without --coordinator=HOST:PORT, the address of process 0.")
        if distributed.value or coordinator.value:
            initialize_distributed(coordinator.value or "", num_processes.value, process_id.value, **options)

    return connect


def define_tiles(flag_values: flags.FlagValues) -> Callable[[], tuple[int | None, float]]:
    """Defines `--tiles` and `--overlap`. Returns a function that gives both, when the flags are parsed."""
    tiles = flags.DEFINE_integer(
        "tiles",
        None,
        "The side of a tile in pixels: the network sees each image whole and in overlapping tiles, for small objects.",
        flag_values=flag_values,
    )
    overlap = flags.DEFINE_float(
        "overlap",
        0.2,
        "With --tiles: the share of a tile's side that it shares with the next.",
        flag_values=flag_values,
    )

    def read() -> tuple[int | None, float]:
        from anchordetr_jax.prediction.tiling import check_tiles  # Here, because only some commands detect.

        if tiles.value is not None:
            check_tiles(tiles.value, overlap.value)
        elif not flag_values["overlap"].using_default_value:
            raise UserError("--overlap needs --tiles: say how large the tiles are.")
        return tiles.value, overlap.value

    return read


def say(remarks: Sequence[str]) -> None:
    """Prints sentences about what was found and assumed, one per line, on stderr."""
    for remark in remarks:
        print(remark, file=sys.stderr, flush=True)


def prepare_computation(*, keep_compiled: bool = True) -> None:
    """Prepares the process for CPUs, and turns the compilation cache on if `keep_compiled`.

    A command calls it before JAX starts its backends.
    """
    from anchordetr_jax.compilation import keep_compilations  # Here, because only some commands compute.
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


def run(
    main: Callable[..., None],
    flag_values: flags.FlagValues,
    arguments: Sequence[str],
    *,
    takes_arguments: bool = True,
    text: str | None = "",
) -> int:
    """Parses the flags and calls `main`. Returns the status to exit with; `exit_status` says which.

    Args:
        flag_values: the flags of the command. Those that libraries define are taken, too.
        arguments: the command line, without the name of the command.
        takes_arguments: `main` gets the list of the arguments that are not flags. Otherwise such an argument is a
            mistake, and `main` gets none.
        text: what `--help` prints before the flags.
    """

    def call() -> None:
        if any(argument in HELP for argument in arguments):
            print(help_text(flag_values, text or ""))
            return
        for name in flag_values:
            flag_values[name].unparse()  # A process may run a command twice.
        every = flags.FlagValues()
        every.append_flag_values(flag_values)
        every.append_flag_values(flags.FLAGS)
        left = parse(["", *arguments], every)[1:]
        for parsed in (flag_values, flags.FLAGS):
            parsed.mark_as_parsed()
        _prepare_logging()
        if takes_arguments:
            main(left)
        elif left:
            raise UserError(f"This command takes flags only, not {left[0]!r}; --help lists the flags.")
        else:
            main()

    # Images of more than 89 million pixels are read like others. Pillow would print two lines that help nobody.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    sys.unraisablehook = _print_unraisable
    return exit_status(call)


def help_text(flag_values: flags.FlagValues, text: str) -> str:
    """The text of a command, and its flags."""
    listed = flag_values.get_help(include_special_flags=False)
    return f"{text.rstrip()}\n\nFlags:\n" + listed.strip().partition("\n")[2]  # Without the name of the module.


def _prepare_logging() -> None:
    """The log of libraries: one line each, and only what a user should read, unless --verbosity asks for more."""
    logging.use_absl_handler()
    with contextlib.suppress(AttributeError, ValueError, io.UnsupportedOperation):  # stderr may be no file.
        faulthandler.enable()
    if flags.FLAGS["verbosity"].using_default_value:
        logging.set_verbosity(logging.WARNING)  # absl's default is INFO, which prints every step of Orbax.
        flags.FLAGS["verbosity"].using_default_value = True  # Setting it is no wish of the user.
        logging.get_absl_logger().addFilter(_is_not_a_repetition)
    log_lines_once()


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


def parse(argv: Sequence[str], flag_values: flags.FlagValues) -> list[str]:
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
