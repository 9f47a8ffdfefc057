"""Classes that a data set shares with initial weights, by name: their rows of the class head are kept."""

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from etils import epath

from anchordetr_jax.checkpoints.checkpoint import load_variables
from anchordetr_jax.data.categories import Categories
from anchordetr_jax.errors import UserError

IRREGULAR = {
    "person": "people",
    "man": "men",
    "woman": "women",
    "child": "children",
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "ox": "oxen",
}
"""English plurals without a rule: singular: plural."""
MOST_NAMES = 8
"""Class names that a sentence lists."""


class ClassRows(NamedTuple):
    """Which class outputs of a new detector begin with those of the initial weights."""

    here: tuple[int, ...]
    """Class outputs of the new detector…"""
    there: tuple[int, ...]
    """…and the outputs of the initial weights that they begin with, in the same order."""
    kept: tuple[tuple[str, str], ...]
    """Names of these classes: in the data set, and in the initial weights."""
    new: tuple[str, ...]
    """The data set's other classes."""

    def __str__(self) -> str:
        names = [here if here == there else f"{here} (from {there})" for here, there in self.kept]
        return f"Classes that keep their weights: {_listed(names)}. Classes that start new: {_listed(self.new)}."


def shared_classes(known: Categories, wanted: Categories, renamed: Mapping[str, str]) -> ClassRows:
    """Finds the classes that initial weights know.

    Names are compared without regard to case, spaces, hyphens, underscores and English plurals. A name that is exactly
    the same wins.

    Args:
        known: classes of the initial weights.
        wanted: classes of the data set.
        renamed: name in the data set: name in the initial weights, or "" for a class that is to start new.

    Raises:
        UserError: `renamed` has a name that does not occur.
    """
    for name, other in renamed.items():
        _require(name, wanted.names, f"'{name}={other}': the data set has no class {name!r}")
        if other:
            _require(other, known.names, f"'{name}={other}': the initial weights have no class {other!r}")
    pairs, new = [], []
    for category, name in zip(wanted.ids, wanted.names, strict=True):
        other = renamed.get(name, _same_class(name, known.names))
        if other:
            pairs.append((category, name, known.ids[known.names.index(other)], other))
        else:
            new.append(name)
    return ClassRows(
        here=tuple(wanted.label_of(here) for here, *_ in pairs),
        there=tuple(known.label_of(there) for *_, there, _ in pairs),
        kept=tuple((name, other) for _, name, _, other in pairs),
        new=tuple(new),
    )


def rows_to_keep(
    known: Categories | None, wanted: Categories | None, renamed: Mapping[str, str], *, same_size: bool
) -> ClassRows | None:
    """Which rows of the class head to keep, or None: the whole head fits as it is (or not at all, by its size).

    Args:
        known: classes of the initial weights. None: nobody knows them.
        wanted: classes of the data set. None: nobody knows them.
        renamed: see `shared_classes`.
        same_size: whether both heads have the same number of class outputs.

    Raises:
        UserError: `renamed` has a name that does not occur, or the classes are not known.
    """
    if known is None or wanted is None:
        if renamed:
            raise UserError(
                "Setting 'classes.map' needs initial weights that know their classes: import them with --annotations."
            )
        return None
    if same_size and not renamed and same_outputs(known, wanted):
        return None
    return shared_classes(known, wanted, renamed)


def load_rows(
    checkpoint: epath.PathLike, head: Mapping[str, jax.Array], sizes: Mapping[str, tuple[int, ...]], rows: ClassRows
) -> dict[str, jax.Array]:
    """The arrays of a new class head [..., K], with the rows of shared classes from a checkpoint.

    Args:
        checkpoint: its folder.
        head: the new arrays by variable path. Their shardings are kept.
        sizes: shape of every array in the checkpoint.
        rows: what to take.
    """
    wanted = {
        path: jax.ShapeDtypeStruct(sizes[path], value.dtype, sharding=_replicated(value.sharding))
        for path, value in head.items()
        if path in sizes
    }
    if not wanted or not rows.here:
        return {}
    saved = load_variables(checkpoint, wanted)
    here, there = np.array(rows.here), np.array(rows.there)

    def keep(value: jax.Array, other: jax.Array) -> jax.Array:
        return value.at[..., here].set(other[..., there])

    return {path: jax.jit(keep, out_shardings=head[path].sharding)(head[path], other) for path, other in saved.items()}


def same_outputs(known: Categories, wanted: Categories) -> bool:
    """True if each class output stands for the class of the same name in both."""
    return known.names == wanted.names and all(
        known.label_of(ours) == wanted.label_of(theirs) for ours, theirs in zip(known.ids, wanted.ids, strict=True)
    )


def _replicated(sharding: jax.sharding.Sharding) -> jax.sharding.Sharding:
    """A sharding that keeps a whole array on each of the same devices."""
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return sharding


def _same_class(name: str, known: Sequence[str]) -> str:
    """The known name of the same class; empty if there is none, or if several could be meant."""
    if name in known:
        return name
    plain = _plain(name)
    for found in (
        [other for other in known if _plain(other) == plain],
        [other for other in known if plain in _plurals(_plain(other)) or _plain(other) in _plurals(plain)],
    ):
        if found:
            return found[0] if len(found) == 1 else ""
    return ""


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def _plurals(name: str) -> set[str]:
    """Possible plurals of a name, by the rules of English."""
    head, last = name[: name.rfind(" ") + 1], name[name.rfind(" ") + 1 :]
    plurals = {f"{last}s", f"{last}es"}
    if last.endswith("y"):
        plurals.add(f"{last[:-1]}ies")
    if last.endswith("fe"):
        plurals.add(f"{last[:-2]}ves")
    elif last.endswith("f"):
        plurals.add(f"{last[:-1]}ves")
    if last in IRREGULAR:
        plurals.add(IRREGULAR[last])
    return {head + plural for plural in plurals}


def _require(name: str, names: Sequence[str], problem: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {_listed(names)}."
        raise UserError(f"Setting 'classes.map' has {problem}; {hint}")


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{len(names)} ({', '.join(names[:MOST_NAMES])}{more})"
