"""Checkpoints, written and read by Orbax. Each one is complete: its weights can be used without the run that made it.

A checkpoint is a folder with up to three items. `model`: all variables of the model by path, as it is evaluated (the
moving average of the weights, if one is kept). `training`: the optimiser state and counters, and the weights themselves
if `model` holds their average; not in converted weights. `meta`: JSON with the format version, step, settings,
categories and, in checkpoints of a run, its record. A run keeps its checkpoints in `WORKDIR/checkpoints/STEP`.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any

import jax
from absl import logging
from etils import epath
from orbax.checkpoint import v1 as ocp

from anchordetr_jax.checkpoints.failures import DamagedCheckpointError, brief, not_written
from anchordetr_jax.checkpoints.integrity import RESCUE_COMMAND, find_damage, write_checksums
from anchordetr_jax.config import Config, config_from_dict, config_to_dict
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import stored_path
from anchordetr_jax.kernels.building import Variables, definition_of
from anchordetr_jax.model.anchor_detr import AnchorDETR

FORMAT_VERSION = 1
"""Increases when older code can no longer read new checkpoints."""
CHECKPOINTS_FOLDER = "checkpoints"
BEST_FOLDER = "best"
"""Folder in a workdir for the best checkpoint of a run with `train.keep_best`."""
DAMAGED_PREFIX = "damaged-"
"""Damaged checkpoints are renamed: this goes before their name."""


@dataclasses.dataclass(frozen=True)
class CheckpointMeta:
    """The item `meta` of a checkpoint."""

    config: Config
    """Settings of the run, with the real `model.num_classes`."""
    categories: Categories | None
    """The classes. None if they are not known (some converted weights)."""
    step: int
    path: str
    """Folder of this checkpoint."""
    run: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What a training run keeps in it to continue. Empty in converted weights and in checkpoints of older versions."""


def saved_steps(root: epath.PathLike) -> list[int]:
    """Steps of the checkpoints in a checkpoints folder, ascending. Damaged ones count, half-written ones do not."""
    root = absolute(root)
    if not root.is_dir():
        return []
    return sorted(int(path.name) for path in root.iterdir() if path.name.isdecimal())


def load_model(
    path: epath.PathLike, *, sharding: jax.sharding.Sharding | None = None, **overrides: Any
) -> tuple[AnchorDETR, CheckpointMeta]:
    """The model of a checkpoint with its weights, ready to call. The training state is not read.

    Args:
        path: a workdir, its checkpoints folder, or one checkpoint. The newest sound one is used.
        sharding: where the weights are placed, for example `replicated(mesh)`. Default: the first local device.
        overrides: settings of `ModelConfig` that differ from the checkpoint's, for example `padding="official"`.

    Raises:
        UserError: there is no checkpoint at `path`, it is damaged, or an override asks for another architecture.
    """
    directory = find_checkpoint(path)
    meta = read_meta(directory)
    model_config = dataclasses.replace(meta.config.model, **overrides)
    meta = dataclasses.replace(meta, config=dataclasses.replace(meta.config, model=model_config))
    found = saved_shapes(directory)
    refuse_backbone_alone(found, f"Checkpoint {directory}")
    definition = definition_of(model_config)
    if differences := compare_shapes(definition.shapes, found):
        raise other_architecture(directory, differences)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = {
        name: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=sharding)
        for name, shape in definition.shapes.items()
    }
    return definition.merge(load_variables(directory, wanted)), meta


def refuse_backbone_alone(names: Iterable[str], holder: str) -> None:
    """Raises `UserError` if these are the variables of a backbone alone. `holder`: what has them, for the message."""
    if all(name.startswith("backbone/") for name in names):
        raise UserError(
            f"{holder} holds only a backbone, which detects nothing: train a detector with it as init_from."
        )


def save_variables(
    path: epath.PathLike, variables: Mapping[str, Any], categories: Categories | None, config: Config, *, step: int = 0
) -> None:
    """Writes a checkpoint without training state into the folder `path` itself.

    All processes must call it.

    Args:
        path: folder of the checkpoint. An older checkpoint there is replaced.
        variables: arrays by path. They may be a part of a model, such as a backbone.
        categories: the classes, if they are known.
        config: the settings of the model and of its training.
        step: the number of steps of its training, if it is known.

    Raises:
        UserError: `path` holds something that is not a checkpoint, or cannot be written.
    """
    directory = absolute(path)
    if directory.exists() and not (directory.is_dir() and (is_checkpoint(directory) or not any(directory.iterdir()))):
        raise UserError(f"{directory} exists and is not a checkpoint: give another folder for the weights.")
    items = {"model": dict(variables), "meta": meta_to_dict(config, categories, step=step)}
    context = orbax_context()
    context.memory.deepcopy_host_arrays = False  # No one changes them before this call returns.
    context.array.saving.use_compression = False  # It saves 8 % of the size, and takes longer than the writing.
    try:
        with context:
            response = ocp.save_checkpointables_async(directory, items, overwrite=directory.exists())
        complete_save(directory, response, shapes_of(items))
    except DamagedCheckpointError:
        raise
    except Exception as error:
        raise not_written(directory, error) from error


Shapes = dict[str, dict[str, tuple[int, ...]]]
"""Shape of every array, by item and path."""


def shapes_of(items: Mapping[str, Any]) -> Shapes:
    """The shapes of the arrays that are to be saved."""
    return {
        item: {name: tuple(array.shape) for name, array in arrays.items()}
        for item, arrays in items.items()
        if item != "meta"
    }


def complete_save(directory: epath.Path, response: Any, shapes: Shapes) -> None:
    """Waits until a save is on disk, reads its index back, and records its checksums.

    Args:
        directory: folder of the checkpoint.
        response: what Orbax returned when it began the save.
        shapes: what was to be saved.

    Raises:
        Exception: a failure in this process, at once, even if other processes still write.
        DamagedCheckpointError: the checkpoint cannot be read. It is renamed, so that no run takes it for a good one.
    """
    # After a failure `result` first waits for all other writes, which may wait for another process that has failed
    # elsewhere. Orbax has no public way to ask for the failure alone.
    written = getattr(getattr(response, "_thread_runner", None), "_future", None)
    if written is not None and jax.process_count() > 1:
        written.result()
    response.result()
    if jax.process_index() == 0:
        _read_back(directory, shapes)
        write_checksums(directory)


def _read_back(directory: epath.Path, shapes: Shapes) -> None:
    """Reads the index of a checkpoint: every array must be there, with its shape."""
    try:
        read_meta(directory)
        found = saved_items(directory, shapes)
        differences = [
            f"{item}/{difference}"
            for item, arrays in shapes.items()
            for difference in shape_differences(arrays, found[item])
        ]
        if differences:
            raise DamagedCheckpointError(differences[0])
    except Exception as error:
        aside = directory.parent / f"{DAMAGED_PREFIX}{directory.name}"
        if aside.exists():
            aside.rmtree()
        directory.rename(aside)
        raise DamagedCheckpointError(
            f"Checkpoint {directory} was written, but its index cannot be read back ({brief(error)}). It is renamed "
            f"{aside.name}; earlier checkpoints are unharmed: check the disk, then give the same command again."
        ) from error


def find_checkpoint(path: epath.PathLike) -> epath.Path:
    """Folder of the newest sound checkpoint at `path` (a workdir, its checkpoints folder, or one checkpoint).

    Raises `UserError` if nothing is there, or everything is damaged or incomplete.
    """
    given = absolute(path)
    if not given.exists():
        raise UserError(f"There is no checkpoint {given}: no such folder.")
    if is_checkpoint(given):
        if problem := find_problem(given):
            refuse_incomplete(given, problem)
            raise UserError(f"Checkpoint {given} is damaged ({problem}): use another one.")
        return given
    root = given / CHECKPOINTS_FOLDER if (given / CHECKPOINTS_FOLDER).is_dir() else given
    steps = saved_steps(root)
    for step in reversed(steps):
        problem = find_problem(root / str(step))
        if problem is None:
            return root / str(step)
        refuse_incomplete(root / str(step), problem)
        if len(steps) == 1:
            raise UserError(
                f"Checkpoint {root / str(step)} is damaged ({problem}) and the only one in its folder: use another."
            )
        warn_of_damage(root / str(step), problem)
    if steps:
        raise UserError(f"Every checkpoint in {root} is damaged: use another folder.")
    raise UserError(
        f"There is no checkpoint in {given}: give a workdir, its '{CHECKPOINTS_FOLDER}' folder, or one checkpoint."
    )


def refuse_incomplete(directory: epath.Path, problem: str | None) -> None:
    """Raises `UserError` if a command can repair what `find_problem` found: then no work need be lost."""
    if problem is not None and RESCUE_COMMAND in problem:
        raise UserError(f"Checkpoint {directory} is incomplete: {problem}")


@functools.cache  # A resumed run looks twice: for the settings, and for the state.
def warn_of_damage(directory: epath.Path, problem: str) -> None:
    """Warns once, on process 0, that a checkpoint is not used."""
    if jax.process_index() == 0:
        logging.warning("Checkpoint %s is damaged (%s): the one before it is used.", directory, problem)


def read_meta(directory: epath.PathLike) -> CheckpointMeta:
    """The item `meta` of the checkpoint in this folder. Raises `UserError` if a newer version wrote it."""
    directory = absolute(directory)
    meta = json.loads((directory / "meta" / "data.json").read_text())
    if meta["format"] > FORMAT_VERSION:
        raise UserError(
            f"Checkpoint {directory} has format {meta['format']}, and this version reads up to {FORMAT_VERSION}: "
            "update anchordetr_jax."
        )
    categories = None if meta["categories"] is None else Categories.from_dict(meta["categories"])
    config = config_from_dict(meta["config"])
    return CheckpointMeta(config, categories, int(meta["step"]), str(directory), meta.get("run", {}))


def saved_shapes(directory: epath.PathLike, item: str = "model") -> dict[str, tuple[int, ...]]:
    """Shape of every array of an item by path, without reading the arrays."""
    return saved_items(directory, [item])[item]


def saved_items(directory: epath.PathLike, items: Iterable[str]) -> Shapes:
    """The same of several items. The index of a checkpoint, which takes most of the time, is read once for all."""
    with orbax_context():
        metadata: Any = ocp.checkpointables_metadata(absolute(directory)).metadata
    found = {}
    for item in items:
        arrays = metadata.get(item, {})
        if arrays is None:
            raise DamagedCheckpointError(
                f"Checkpoint {directory} is damaged (item {item} is unreadable): use another one."
            )
        found[item] = {name: tuple(array.shape) for name, array in arrays.items()}
    return found


def load_variables(
    directory: epath.PathLike, wanted: Mapping[str, jax.ShapeDtypeStruct], item: str = "model"
) -> Variables:
    """Some or all arrays of an item, with the dtypes and shardings asked for.

    Raises `DamagedCheckpointError` if they cannot be read.
    """
    context = orbax_context()
    context.pytree.loading.partial_load = True
    try:
        with context:
            return ocp.load_checkpointables(absolute(directory), {item: dict(wanted)})[item]
    except Exception as error:
        raise DamagedCheckpointError(
            f"Checkpoint {directory} cannot be read ({brief(error)}): use another one."
        ) from error


def compare_shapes(expected: Mapping[str, Any], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Differences between the shapes of a model (values with `.shape`) and of a checkpoint, a few words each."""
    return shape_differences({name: tuple(value.shape) for name, value in expected.items()}, found)


def shape_differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Differences between two sets of shapes by path, a few words each."""
    differences = [f"{name} is missing" for name in sorted(expected.keys() - found.keys())]
    differences += [f"{name} is unknown" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if expected[name] != found[name]:
            differences.append(f"{name} has shape {found[name]} instead of {expected[name]}")
    return differences


def other_architecture(directory: epath.PathLike, differences: list[str]) -> UserError:
    """The error for a checkpoint whose variables are not those of the model."""
    shown = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
    return UserError(f"Checkpoint {directory} has another architecture than the settings describe: {shown}.")


def absolute(path: epath.PathLike) -> epath.Path:
    """The path as Orbax needs it: absolute, with any characters. Raises `UserError` as `stored_path` does."""
    text = os.fspath(path)
    return stored_path(text if "://" in text else os.path.abspath(text))


def is_checkpoint(directory: epath.Path) -> bool:
    """Whether a folder looks like one checkpoint, sound or not."""
    return (directory / "meta").is_dir() and (directory / "model").is_dir()


def find_problem(directory: epath.Path) -> str | None:
    """What is wrong with the files of a checkpoint, in a few words; None if they are sound."""
    if not is_checkpoint(directory):
        return "its items model and meta are not both there"
    try:
        read_meta(directory)
    except UserError:
        return None  # A newer version wrote it: it is sound, and `read_meta` raises this error for whoever reads it.
    except (OSError, ValueError, KeyError, TypeError):
        return "its meta item is unreadable"
    return find_damage(directory)


def orbax_context() -> ocp.Context:
    """The options with which this project uses Orbax."""
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="meta")  # A file that people can read.
    context = ocp.Context()
    context.checkpointables.registry = registry
    return context


def meta_to_dict(config: Config, categories: Categories | None, step: int) -> dict[str, Any]:
    """The contents of the item `meta`."""
    return {
        "format": FORMAT_VERSION,
        "step": step,
        "config": config_to_dict(config),
        "categories": None if categories is None else categories.to_dict(),
    }


def remove_old(path: epath.Path) -> None:
    """Removes a checkpoint that a newer one has replaced. If it cannot be removed, a warning says so."""
    try:
        path.rmtree()
    except OSError as error:
        logging.warning("The old checkpoint %s could not be removed: %s", path, error)
