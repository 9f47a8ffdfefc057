"""What people put around a state dict, as two tables: entries of a checkpoint, and prefixes of tensor names."""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

ENTRIES: Mapping[str, str] = {
    "model": "weights",
    "state_dict": "weights",
    "model_state_dict": "weights",
    "module": "weights",
    "ema": "moving average",
    "model_ema": "moving average",
    "ema_model": "moving average",
    "ema_state": "moving average",
    "ema_state_dict": "moving average",
    "model_ema_state_dict": "moving average",
    "state_dict_ema": "moving average",
}
"""Entry of a checkpoint: what its state dict is. An entry may contain another one, such as `ema` with `module`."""

MOST_ENTRIES = 3
"""Entries are looked for in this many levels; a damaged file may contain itself."""

COMPILED = "_orig_mod."

PREFIXES: Mapping[str, str] = {
    "module.": "DataParallel",
    COMPILED: "torch.compile",
    "model.": "Lightning",
    "detr.": "a module around the detector",
}
"""Prefix of tensor names: what adds it. Several may follow each other."""


class BareNames(NamedTuple):
    """Tensor names without the prefixes of `PREFIXES`."""

    originals: dict[str, str]
    """Bare name: name in the state dict."""
    prefixes: tuple[str, ...]
    """The prefixes that were removed, each once."""
    duplicates: tuple[str, ...]
    """Bare names that several tensors have."""


def bare_names(names: Iterable[str]) -> BareNames:
    """Removes the prefixes of wrappers from tensor names.

    A prefix counts if more than half of the names have it: a wrapper adds it to all, but a state dict may contain other
    tensors, which the conversion then names. torch.compile may wrap a part of a model, so its prefix counts everywhere.
    """
    originals = {name: name for name in names}
    prefixes: list[str] = []
    duplicates: list[str] = []
    if any(COMPILED in name for name in originals):
        prefixes.append(COMPILED)
        originals = _without(re.escape(COMPILED), originals, duplicates)
    while prefix := next((prefix for prefix in PREFIXES if _is_common(prefix, originals)), None):
        prefixes.append(prefix)
        originals = _without(f"^{re.escape(prefix)}", originals, duplicates)
    return BareNames(originals, tuple(dict.fromkeys(prefixes)), tuple(duplicates))


def _is_common(prefix: str, names: Collection[str]) -> bool:
    return 2 * sum(name.startswith(prefix) for name in names) > len(names)


def _without(pattern: str, originals: dict[str, str], duplicates: list[str]) -> dict[str, str]:
    result: dict[str, str] = {}
    for name, original in originals.items():
        bare = re.sub(pattern, "", name)
        if bare in result:
            duplicates.append(bare)
        result[bare] = original
    return result


def state_dicts_in(content: Any, place: str = "") -> dict[str, dict[str, np.ndarray]]:
    """All state dicts in a checkpoint's content by place: "" for the content itself, else "model" or "ema/module"."""
    if not isinstance(content, dict):
        return {}
    if why_no_state_dict(content) == "":
        return {place: content}
    found: dict[str, dict[str, np.ndarray]] = {}
    for entry in ENTRIES if place.count("/") < MOST_ENTRIES else ():
        found |= state_dicts_in(content.get(entry), f"{place}/{entry}" if place else entry)
    return found


def other_state_dicts_in(
    content: Any, found: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, dict[str, np.ndarray]]:
    """The state dicts in entries that `ENTRIES` does not name, such as "teacher". Nobody knows which one is meant.

    Args:
        content: a checkpoint's content.
        found: what `state_dicts_in` found in it. If it found any, others count only with the same tensor names.
    """
    if not isinstance(content, dict) or "" in found:
        return {}
    names = [bare_names(weights).originals.keys() for weights in found.values()]
    return {
        entry: value
        for entry, value in content.items()
        if isinstance(entry, str)
        and entry not in ENTRIES
        and why_no_state_dict(value) == ""
        and (not names or bare_names(value).originals.keys() in names)
    }


def why_no_state_dict(value: Any) -> str:
    """Why a value is not a state dict (names with tensors), in a few words. Empty if it is one."""
    if not isinstance(value, dict):
        return f"it is of type {type(value).__name__}"
    if not value:
        return "it is an empty dict"
    others = [name for name, item in value.items() if not (isinstance(name, str) and isinstance(item, np.ndarray))]
    if not others:
        return ""
    shown = ", ".join(f"{_short(name)} is of type {type(value[name]).__name__}" for name in others[:5])
    return shown + (f", and {len(others) - 5} more are not tensors" if len(others) > 5 else "")


def _short(name: Any) -> str:
    return repr(name[:60]) if isinstance(name, str) else f"a key of type {type(name).__name__}"
