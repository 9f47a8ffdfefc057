"""The checkpoints of a run: saved in the background, the newest ones kept, the newest sound one restored."""

import concurrent.futures
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from anchordetr_jax.checkpoints.checkpoint import (
    CHECKPOINTS_FOLDER,
    DAMAGED_PREFIX,
    CheckpointMeta,
    Shapes,
    absolute,
    compare_shapes,
    complete_save,
    find_problem,
    meta_to_dict,
    orbax_context,
    other_architecture,
    read_meta,
    refuse_incomplete,
    remove_old,
    saved_items,
    saved_steps,
    shapes_of,
    warn_of_damage,
)
from anchordetr_jax.checkpoints.failures import DamagedCheckpointError, brief, not_written
from anchordetr_jax.config import ARITHMETIC, Config
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError
from anchordetr_jax.training.run_record import RunRecord
from anchordetr_jax.training.state import TrainState, evaluated_variables, with_average

_HALF_WRITTEN = ".orbax-checkpoint-tmp"
_MAY_CHANGE = frozenset(ARITHMETIC) - {"padding"}
"""Settings of the model that may change in a run: they change its results only by rounding."""
_WEIGHTS = "params/"
"""Stands before the paths of the trained parameters in the item `training`, if an average is kept."""
_LONGEST = 1000
"""Bytes of a sentence that process 0 sends to the others."""


class CheckpointWriter:
    """Saves the states of a run in the background and keeps the newest ones. A context manager for all processes."""

    def __init__(self, workdir: epath.PathLike, config: Config, categories: Categories | None):
        self._root = absolute(workdir) / CHECKPOINTS_FOLDER
        self._meta = meta_to_dict(config, categories, step=0)
        self._keep = config.train.keep_checkpoints
        self._patience = config.train.timeout_seconds if jax.process_count() > 1 else None
        self._thread = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._pending: concurrent.futures.Future[None] | None = None
        self._pending_step = -1
        if jax.process_index() == 0:
            for path in _half_written(self._root):
                path.rmtree()

    def save(self, step: int, state: TrainState, record: RunRecord) -> None:
        """Waits for the end of the last save, begins this one, and returns when the arrays have left the devices.

        Raises:
            UserError: this save could not begin, or the last one could not be finished (the disk is full, for example).
        """
        self.finish()
        items = {
            "model": evaluated_variables(state),
            "training": {**_flatten_training(state), **_weights_beside_average(state)},
            "meta": {**self._meta, "step": step, "run": record.to_dict()},
        }
        try:
            # Orbax's Checkpointer would report a failure in this process only after all others have written their part.
            with orbax_context():
                response = ocp.save_checkpointables_async(self._root / str(step), items, overwrite=True)
        except Exception as error:
            raise not_written(self._root / str(step), error) from error
        self._pending, self._pending_step = (
            self._thread.submit(self._complete, response, step, shapes_of(items)),
            step,
        )

    def finish(self, *, within: float | None = None) -> None:
        """Waits until the last save is on disk, at most `within` seconds. Raises `UserError` if it failed."""
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result(within)
        except DamagedCheckpointError:
            raise
        except Exception as error:
            raise not_written(self._root / str(self._pending_step), error) from error

    def _complete(self, response: Any, step: int, shapes: Shapes) -> None:
        complete_save(self._root / str(step), response, shapes)
        if jax.process_index() == 0:
            for old in saved_steps(self._root)[: -self._keep]:
                remove_old(self._root / str(old))

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        try:
            # After an error here another process may have failed in the save, which then never ends.
            self.finish(within=None if error is None else self._patience)
        except Exception:
            if error is None:  # Otherwise the first error is the one to report.
                raise
        finally:
            self._thread.shutdown(wait=False)


def restore_newest(
    workdir: epath.PathLike, abstract: TrainState, config: Config, categories: Categories | None = None
) -> tuple[TrainState, CheckpointMeta] | None:
    """The state of the newest sound checkpoint of a run, placed as `abstract` says. None if there is no checkpoint yet.

    A half-written or damaged checkpoint is named in a warning, and the one before is used. Damaged ones are then
    renamed. The number of devices and processes may have changed since the save.

    Args:
        workdir: folder of the run.
        abstract: shapes, dtypes and shardings of the state.
        config: settings to continue with.
        categories: those of the data set to continue with, if they are to be compared.

    Raises:
        UserError: the checkpoint is of another architecture, optimiser or data set, or every checkpoint is damaged, or
            one is incomplete that a command can complete.
    """
    root = absolute(workdir) / CHECKPOINTS_FOLDER
    first = jax.process_index() == 0
    if first:
        for path in _half_written(root):
            logging.warning("Checkpoint %s was only half written and is ignored.", path)
    damaged: list[epath.Path] = []
    for step in reversed(saved_steps(root)):
        path = root / str(step)
        problem = _agreed(find_problem(path) if first else None)
        refuse_incomplete(path, problem)
        if problem is None:
            try:
                meta = read_meta(path)
                saved = saved_items(path, ("model", "training"))
                _check_same_run(meta, saved, abstract, config, categories)
                state = _restore(path, saved, abstract)
            except Exception as error:
                if isinstance(error, UserError) and not isinstance(error, DamagedCheckpointError):
                    raise
                if jax.process_count() > 1:  # Others may have read it, so not all would go back to the one before.
                    raise UserError(
                        f"Checkpoint {path} cannot be read ({brief(error)}): move it away to use the one before."
                    ) from error
                problem = brief(error)
            else:
                if first:
                    _set_aside(damaged)
                return state, meta
        warn_of_damage(path, problem)
        damaged.append(path)
    if damaged:
        raise UserError(
            f"Every checkpoint in {root} is damaged: give another --workdir, or remove that folder to begin again."
        )
    return None


def _half_written(root: epath.Path) -> list[epath.Path]:
    return [path for path in root.iterdir() if _HALF_WRITTEN in path.name] if root.is_dir() else []


def _set_aside(damaged: list[epath.Path]) -> None:
    """Renames damaged checkpoints, so that they do not count as the newest ones any more."""
    for path in damaged:
        name = path.parent / f"{DAMAGED_PREFIX}{path.name}"
        if name.exists():
            path.rmtree()
        else:
            path.rename(name)


def _check_same_run(
    meta: CheckpointMeta, found: Shapes, abstract: TrainState, config: Config, categories: Categories | None
) -> None:
    path = epath.Path(meta.path)
    if categories is not None and meta.categories is not None and meta.categories != categories:
        raise UserError(
            f"Checkpoint {path} was trained on other classes ({_few(meta.categories)}) than the data set has "
            f"({_few(categories)}): give another --workdir, and this checkpoint as init_from."
        )
    saved, wanted = (dataclasses.asdict(meta.config.model), dataclasses.asdict(config.model))
    changed = [
        f"model.{name} was {saved[name]!r} and is now {wanted[name]!r}"
        for name in wanted
        if saved[name] != wanted[name] and name not in _MAY_CHANGE
    ]
    differences = changed or compare_shapes({**abstract.params, **abstract.frozen}, found["model"])
    if differences:
        raise other_architecture(path, differences)
    training = found["training"]
    if not training:
        raise UserError(f"Checkpoint {path} holds weights only: give it as init_from, with another --workdir.")
    training = {name: shape for name, shape in training.items() if not name.startswith(_WEIGHTS)}
    differences = compare_shapes(_flatten_training(abstract), training)
    if differences:
        raise UserError(
            f"Checkpoint {path} was trained with another optimiser or other frozen parameters ({differences[0]}): "
            "restore those settings, or give another --workdir, and this checkpoint as init_from."
        )


def _few(categories: Categories) -> str:
    return ", ".join(categories.names[:3]) + (", …" if len(categories.names) > 3 else "")


def _restore(path: epath.Path, found: Shapes, abstract: TrainState) -> TrainState:
    averaged = any(name.startswith(_WEIGHTS) for name in found["training"])
    weights = {_WEIGHTS + name: shape for name, shape in abstract.params.items()} if averaged else {}
    wanted = {
        "model": {**abstract.params, **abstract.frozen},
        "training": {**_flatten_training(abstract), **weights},
    }
    with orbax_context():
        items = ocp.load_checkpointables(path, wanted)
    evaluated = {name: items["model"][name] for name in abstract.params}
    state = dataclasses.replace(
        _unflatten_training(abstract, items["training"]),
        params={name: items["training"][_WEIGHTS + name] for name in abstract.params} if averaged else evaluated,
        frozen={name: items["model"][name] for name in abstract.frozen},
        ema=evaluated if averaged and abstract.ema else {},
    )
    return with_average(state) if abstract.ema and not averaged else state


def _weights_beside_average(state: TrainState) -> dict[str, Any]:
    """The trained weights, if the item `model` holds their average (which is what is evaluated)."""
    return {_WEIGHTS + name: value for name, value in state.params.items()} if state.ema else {}


def _without_variables(state: TrainState) -> TrainState:
    return dataclasses.replace(state, params={}, frozen={}, ema={})


def _flatten_training(state: TrainState) -> dict[str, Any]:
    """All leaves except the variables of the model, named by their place in the state."""
    leaves = jax.tree_util.tree_leaves_with_path(_without_variables(state))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def _unflatten_training(state: TrainState, values: Mapping[str, Any]) -> TrainState:
    """The state with the leaves of `_flatten_training`, and without the variables of the model."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: values[jax.tree_util.keystr(path, simple=True, separator="/")], _without_variables(state)
    )


def _agreed(problem: str | None) -> str | None:
    """What process 0 found, on all processes."""
    if jax.process_count() == 1:
        return problem
    text = (problem or "").encode()[:_LONGEST]
    shared = multihost_utils.broadcast_one_to_all(np.frombuffer(text.ljust(_LONGEST), np.uint8))
    return bytes(np.asarray(shared)).decode(errors="replace").strip() or None
