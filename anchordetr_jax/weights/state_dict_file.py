"""Finds the state dict in a `.pth` or `.safetensors` file."""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from anchordetr_jax.errors import UserError
from anchordetr_jax.weights.architecture import heads_kept_once
from anchordetr_jax.weights.correspondence import form_of
from anchordetr_jax.weights.torch_file import is_safetensors, read_safetensors, read_torch_file
from anchordetr_jax.weights.wrappers import (
    ENTRIES,
    MOST_ENTRIES,
    PREFIXES,
    bare_names,
    other_state_dicts_in,
    state_dicts_in,
    why_no_state_dict,
)


class StateDictFile(NamedTuple):
    """What a weight file contains."""

    state_dict: dict[str, np.ndarray]
    """Arrays by name, without the prefixes of wrappers."""
    arguments: dict[str, Any] | None
    """The settings that are saved beside it as `args`. None where there are none."""
    remarks: tuple[str, ...] = ()
    """Sentences that say where in the file the state dict was found."""


def split_entry(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Splits "FILE#ENTRY" into the file and the entry of it that holds the wanted weights. Without "#ENTRY": None."""
    text = os.fspath(path)
    file, separator, entry = text.rpartition("#")
    if separator and not os.path.exists(text):
        return file, entry
    return text, None


def read_state_dict(path: str | os.PathLike[str]) -> StateDictFile:
    """Reads the weights in a `.pth` or `.safetensors` file. The content decides which of the two it is.

    The state dict is the whole content of the file, or one of its entries (see `wrappers.ENTRIES`). If there are
    several, as with a moving average (`ema`), or if an entry has another name, FILE#ENTRY names the wanted one:
    "run.pth#model" or "run.pth#ema".

    Raises:
        UserError: the file cannot be read, has no state dict, or has several and `path` does not say which.
    """
    file, entry = split_entry(path)
    if is_safetensors(Path(file)):
        tensors, shared = read_safetensors(file)
        if entry is not None:
            raise UserError(f"{file} is a safetensors file, which has no entries: leave '#{entry}' out.")
        known = {name: kept for name, kept in shared.items() if kept in tensors and name not in tensors}
        tensors |= {name: tensors[kept] for name, kept in known.items()}
        remark = f"{len(known)} of its tensors are kept once for several names, as safetensors' save_model does."
        return _with_all_heads(_bare(tensors, None, (remark,) if known else ()))
    content = read_torch_file(file)
    found = state_dicts_in(content)
    place, weights = _choose(file, found, other_state_dicts_in(content, found), entry, content)
    remarks = () if place in ("", "model") else (f"Its weights are in its entry '{place}'.",)
    args = content.get("args") if isinstance(content, dict) else None
    settings = vars(args) if isinstance(args, argparse.Namespace) else args
    if place == "" or not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        settings = None
    return _bare(weights, settings, remarks)


def is_official_file(path: str | os.PathLike[str]) -> bool:
    """True if the official code can load this file as it is: official names in the entry "model" of a `.pth` file."""
    content = read_state_dict(path)
    file, entry = split_entry(path)
    plain = entry is None and not content.remarks and not is_safetensors(Path(file))
    return plain and form_of(content.state_dict) == "official"


def _choose(
    file: str,
    found: dict[str, dict[str, np.ndarray]],
    others: dict[str, dict[str, np.ndarray]],
    entry: str | None,
    content: Any,
) -> tuple[str, dict[str, np.ndarray]]:
    """The place and the state dict that are wanted."""
    known, found = found, found | others
    if entry is not None:
        wanted = {place: weights for place, weights in found.items() if f"{place}/".startswith(f"{entry}/")}
        if not wanted:
            there = ", ".join(f"'{place}'" for place in found if place) or "none"
            raise UserError(f"{file} has no weights in an entry '{entry}'; entries with weights: {there}.")
        found = wanted
    if len(found) > 1:
        names = ", ".join(f"'{place}' ({ENTRIES.get(place.split('/')[0], 'of an unknown kind')})" for place in found)
        ways = " or ".join(f"{file}#{place}" for place in found)
        raise UserError(f"{file} has several sets of weights: {names}. Say which one: {ways}.")
    if entry is None and found and not known:
        (place,) = found
        raise UserError(
            f"{file} has weights in an entry '{place}', which is not known: say {file}#{place} to take them."
        )
    if not found:
        inner = content
        for _ in range(MOST_ENTRIES):
            key = next((key for key in ENTRIES if key in inner), None) if isinstance(inner, dict) else None
            inner = inner if key is None else inner[key]
        raise UserError(
            f"{file} has no state dict (names with tensors): {why_no_state_dict(inner)}; save model.state_dict() with "
            "PyTorch."
        )
    return next(iter(found.items()))


def _with_all_heads(found: StateDictFile) -> StateDictFile:
    """With the names of shared heads that a safetensors file leaves out without saying so in its metadata."""
    missing = heads_kept_once(found.state_dict)
    if not missing:
        return found
    found.state_dict.update({name: found.state_dict[kept] for name, kept in missing.items()})
    remark = (
        f"Its shared heads are there once: their {len(missing)} tensors of the other decoder layers were filled in."
    )
    return found._replace(remarks=(*found.remarks, remark))


def _bare(weights: dict[str, np.ndarray], arguments: dict[str, Any] | None, remarks: tuple[str, ...]) -> StateDictFile:
    names = bare_names(weights)
    if names.duplicates:  # The conversion names them.
        return StateDictFile(dict(weights), arguments, remarks)
    if names.prefixes:
        shown = ", ".join(f"'{prefix}' ({PREFIXES[prefix]})" for prefix in names.prefixes)
        remarks += (f"Prefixes of its tensor names were removed: {shown}.",)
    return StateDictFile({bare: weights[name] for bare, name in names.originals.items()}, arguments, remarks)
