"""Finds out what the name of a detector means: a run, a weight file, a saved folder or a published model."""

import os
from pathlib import Path
from typing import Literal, NamedTuple

from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path
from anchordetr_jax.weights.cache import fetch
from anchordetr_jax.weights.folder import CONFIG_FILE, WEIGHTS_FILE, is_saved_folder
from anchordetr_jax.weights.hub import SCHEME, HubOptions, download_repository
from anchordetr_jax.weights.published import NAMES, PublishedModel, model_of_file, nearest_name, published_model
from anchordetr_jax.weights.state_dict_file import split_entry

ACCEPTED = (
    "a run's workdir, a checkpoint, a .pth or .safetensors file, a folder of save_pretrained, hf://ORGANISATION/NAME, "
    f"or a published model ({', '.join(NAMES)})"
)
"""Everything that `locate` takes, for messages."""


class Location(NamedTuple):
    """Where weights are."""

    kind: Literal["checkpoint", "file", "folder"]
    """A workdir or checkpoint; a weight file (maybe FILE#ENTRY); a folder that `folder.write_folder` wrote."""
    path: str
    name: str
    """What the person called it."""
    published: PublishedModel | None = None
    """The published model that the file is."""


def locate(text: str | os.PathLike[str], hub: HubOptions | None = None, *, setting: str = "") -> Location:
    """Finds weights, and downloads them if they are a published model or on the Hugging Face Hub.

    A path that exists is that path, also where a published model has the same name.

    Args:
        text: see `ACCEPTED`.
        hub: how the Hub is asked.
        setting: where the person gave the name, for errors: "init_from".

    Raises:
        UserError: there is nothing of this name, or it cannot be downloaded.
    """
    name = os.fspath(text)
    shown = f"{setting}={name}" if setting else name
    if name.startswith(SCHEME):
        return _local(str(download_repository(name, hub or HubOptions())), name)
    if hub is not None and hub != HubOptions():
        raise UserError(f"revision, token, cache_dir and local_files_only are for {SCHEME} addresses, not for {name}.")
    if "://" in name:
        if not stored_path(name).exists():
            raise UserError(f"There is nothing at {shown}. Give {ACCEPTED}.")
        return Location("checkpoint", name, name)
    path = os.path.expanduser(name)
    if os.path.exists(split_entry(path)[0]):
        return _local(path, name)
    model = published_model(name)
    if model is not None:
        return Location("file", str(fetch(model)), name, model)
    near = nearest_name(name) if os.sep not in name else None
    hint = f"Did you mean {near}? Otherwise give" if near else "Give"
    raise UserError(f"There is nothing at {shown}. {hint} {ACCEPTED}.")


def _local(path: str, name: str) -> Location:
    if os.path.isdir(path):
        return Location("folder" if is_saved_folder(path) else "checkpoint", path, name)
    file = Path(split_entry(path)[0])
    if file.name == WEIGHTS_FILE and (file.parent / CONFIG_FILE).is_file():
        return Location("folder", str(file.parent), name)
    return Location("file", path, name, model_of_file(file))
