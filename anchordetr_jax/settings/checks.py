"""Checks settings by name, type and value: a wrong one is named in a sentence."""

import dataclasses
import math
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from anchordetr_jax.errors import UserError
from anchordetr_jax.settings.names import flat_settings, nearest_setting

Settings = TypeVar("Settings")


def require(condition: bool, name: str, value: Any, what: str) -> None:
    """Raises `UserError` if `condition` is false. `what` describes the allowed values of the setting `name`."""
    if not condition:
        raise UserError(f"Setting '{name}' must be {what}, not {value!r}.")


def require_weight(name: str, value: float) -> None:
    """Raises `UserError` for a weight or rate that is negative or not finite: it would spoil a sum without a word."""
    require(0 <= value < math.inf, name, value, "0 or more, and finite")


def require_pattern(pattern: str, name: str, entry: str) -> None:
    """Raises `UserError` unless the pattern in an entry of the setting `name` is a regular expression."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(
            f"Setting '{name}' has {entry!r}, and {pattern!r} is not a regular expression: {error}."
        ) from error


def checked_settings(cls: type[Settings], settings: Any) -> Settings:
    """A dataclass of settings, and of groups of them, from nested mappings. Missing settings take their defaults.

    Raises `UserError` that names the first setting with a wrong name or type. The dataclasses check values themselves.
    """
    result: Settings = _checked_group(cls, settings, prefix="", known=list(_names(cls)))
    return result


def _names(cls: type, prefix: str = "") -> Iterator[str]:
    """The dotted names of all settings and groups."""
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from _names(typing.cast(type, hint), f"{prefix}{name}.")


def _checked_group(cls: type, settings: Any, prefix: str, known: Sequence[str]) -> Any:
    if not isinstance(settings, Mapping):
        raise UserError(f"Setting {prefix.rstrip('.')!r} is a group of settings, not {settings!r}.")
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in settings.items():
        if name not in hints:
            raise _unknown(f"{prefix}{name}", value, hints, known)
        if dataclasses.is_dataclass(hints[name]):
            values[name] = _checked_group(hints[name], value, f"{prefix}{name}.", known)
        else:
            values[name] = _checked_value(value, hints[name], f"{prefix}{name}")
    return cls(**values)


def _unknown(name: str, value: Any, group: Mapping[str, Any], known: Sequence[str]) -> UserError:
    """What to say of a setting that does not exist, in a group with these settings."""
    if isinstance(value, Mapping) and value:
        name = next(iter(flat_settings({name: value})))
    near = nearest_setting(name, known)
    hint = f"did you mean '{near}'?" if near else f"known here: {', '.join(group)}."
    return UserError(f"There is no setting '{name}'; {hint}")


def _checked_value(value: Any, hint: Any, name: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        require(value in arguments, name, value, "one of " + ", ".join(map(repr, arguments)))
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, typing.Iterable):
            raise UserError(f"Setting '{name}' must be a tuple of {arguments[0].__name__}, not {value!r}.")
        return tuple(_checked_value(item, arguments[0], name) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise UserError(f"Setting '{name}' must be of type {hint.__name__}, not {value!r}.")
    return value
