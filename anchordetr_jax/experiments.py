"""Experiment files: Python files with a function `get_config()`, and the presets, which come with the package.

The presets are the files in `configs/`. A wheel holds them in the folder `presets` of the package.
"""

import ast
import contextlib
import dataclasses
import os
import runpy
import traceback
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_collections

from anchordetr_jax.config import Config, config_from_dict, config_to_dict, default_config
from anchordetr_jax.errors import UserError
from anchordetr_jax.settings.names import flat_settings


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What an experiment file and changes of it say."""

    config: Config
    given: Collection[str] = frozenset()
    """Names ("model.dilation") of the settings that were changed, and of those that have another value in the
    experiment file than by default."""


def preset_names() -> list[str]:
    """The names of all presets, such as "finetune-cpu"."""
    return sorted(_name(path) for path in presets_folder().glob("*.py"))


def presets_folder() -> Path:
    """The folder with the files of the presets: inside the package, or in the clone that a wheel takes it from."""
    package = Path(__file__).resolve().parent
    inside = package / "presets"
    return inside if inside.is_dir() else package.parent / "configs"


def find_experiment(name: str) -> str:
    """The path of an experiment file. Of a path and a preset of the same name, the path counts.

    Args:
        name: the path of a file, or the name of a preset.

    Raises:
        UserError: there is no such file and no such preset.
    """
    if os.path.isfile(name):
        return name
    files = {_name(path): path for path in sorted(presets_folder().glob("*.py"))}
    if found := files.get(name.replace("_", "-")):
        return str(found)
    preset = _name(Path(name))
    hint = f"--config {preset} takes the preset of this name" if preset in files else f"presets: {', '.join(files)}"
    raise UserError(f"The config file {name!r} does not exist; {hint}.")


def read_experiment(
    source: str | Config | ml_collections.ConfigDict,
    changes: Iterable[str] = (),
    values: Mapping[str, Any] | None = None,
) -> Experiment:
    """The settings of an experiment file or preset, with changes, checked.

    Args:
        source: see `find_experiment`; or the settings themselves.
        changes: texts such as "train.epochs=20".
        values: {"train.epochs": 20}.

    Raises:
        UserError: the file is missing or fails, or a setting has a wrong name, type or value.
    """
    changes, values = list(changes), dict(values or {})
    settings = _settings_of(source)
    default = flat_settings(default_config().to_dict())
    chosen = flat_settings(settings).items()
    given = {setting for setting, value in chosen if setting not in default or default[setting] != value}
    given |= {change.partition("=")[0] for change in changes} | values.keys()
    for setting, value in values.items():
        _set(settings, setting, value)
    return Experiment(change_config(settings, changes), frozenset(given))


def change_config(settings: dict[str, Any], changes: Iterable[str]) -> Config:
    """`settings` (nested dicts, changed in place) with texts such as "train.epochs=20", checked.

    Raises:
        UserError: a setting has a wrong name, type or value.
    """
    for change in changes:
        name, _, text = change.partition("=")
        _set(settings, name, text, parse=True)
    return config_from_dict(settings)


def change_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The settings with some changed, such as {"train.epochs": 20}. Raises like `change_config`."""
    settings = config_to_dict(config)
    for name, value in values.items():
        _set(settings, name, value)
    return config_from_dict(settings)


def _settings_of(source: str | Config | ml_collections.ConfigDict) -> dict[str, Any]:
    """Nested dicts, which the caller may change."""
    if isinstance(source, Config):
        return config_to_dict(source)
    read = source if isinstance(source, ml_collections.ConfigDict) else _run_file(find_experiment(source))
    settings: dict[str, Any] = read.to_dict()
    return settings


def _set(settings: dict[str, Any], name: str, value: Any, *, parse: bool = False) -> None:
    """Sets one setting by its dotted name. With `parse`, the value is a text."""
    *groups, last = name.split(".")
    group = settings
    for position, part in enumerate(groups):
        group = group.setdefault(part, {})  # config_from_dict reports a group that does not exist.
        if not isinstance(group, dict):
            raise UserError(
                f"Setting '{'.'.join(groups[: position + 1])}' is not a group of settings: there is no '{name}'."
            )
    group[last] = _value(value, group.get(last)) if parse else value


def _name(path: Path) -> str:
    return path.stem.replace("_", "-")


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
