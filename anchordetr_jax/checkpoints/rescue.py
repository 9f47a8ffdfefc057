"""Completing checkpoints whose parts were never joined.

Each process writes its arrays into a part of its own (`model/ocdbt.process_0`); at the end of a save Orbax joins the
indexes of the parts. Older versions of this project did not do that if the path held `[`, `*` or `?`.
"""

import asyncio
import json

from etils import epath
from orbax.checkpoint import type_handlers

from anchordetr_jax.checkpoints.checkpoint import (
    DAMAGED_PREFIX,
    absolute,
    find_problem,
    is_checkpoint,
    saved_shapes,
)
from anchordetr_jax.checkpoints.integrity import CHECKSUMS_FILE, unjoined_items, write_checksums
from anchordetr_jax.errors import UserError


def rescue(path: epath.PathLike) -> list[str]:
    """Completes every checkpoint at `path` whose parts were never joined.

    Args:
        path: a workdir, its checkpoints folder, or one checkpoint.

    Returns:
        A sentence about each checkpoint.

    Raises:
        UserError: there is no checkpoint at `path`.
    """
    root = absolute(path)
    if not root.is_dir():
        raise UserError(f"There is no checkpoint {root}: no such folder.")
    folders = [root, *_subfolders(root), *(inner for folder in _subfolders(root) for inner in _subfolders(folder))]
    checkpoints = [folder for folder in folders if is_checkpoint(folder)]
    if not checkpoints:
        raise UserError(f"There is no checkpoint in {root}: give a workdir, its checkpoints folder, or one checkpoint.")
    return [_rescue_one(checkpoint) for checkpoint in checkpoints]


def _subfolders(folder: epath.Path) -> list[epath.Path]:
    if is_checkpoint(folder):
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _rescue_one(directory: epath.Path) -> str:
    items = unjoined_items(directory)
    if not items:
        problem = find_problem(directory)
        return f"{directory}: {'sound' if problem is None else f'cannot be rescued ({problem})'}."
    (directory / CHECKSUMS_FILE).unlink(missing_ok=True)  # Of the files before.
    for item in items:
        _join(directory / item)
    arrays = sum(len(saved_shapes(directory, item)) for item in items)  # Reads the index: an error if one is missing.
    write_checksums(directory)
    home = directory.parent / directory.name.removeprefix(DAMAGED_PREFIX)
    if not home.exists():
        directory.rename(home)
        directory = home
    return f"{directory}: rescued ({arrays} arrays)."


def _join(item: epath.Path) -> None:
    """Joins the indexes of the parts, as Orbax does it at the end of a save."""
    use_zarr3 = json.loads((item / "_METADATA").read_text())["use_zarr3"]
    asyncio.run(type_handlers.merge_ocdbt_per_process_files(item, type_handlers.get_ts_context(), use_zarr3))
