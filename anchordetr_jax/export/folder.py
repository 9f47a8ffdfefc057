"""Reads the folder of an exported detector back: what is in it, and what its metadata tell."""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anchordetr_jax.config import Config, config_from_dict
from anchordetr_jax.data.categories import Categories, LabelScheme
from anchordetr_jax.errors import UserError

METADATA_FILE = "metadata.json"
ANY = "any"
"""Instead of a batch size: the program takes batches of every size, and JAX compiles it again for each size."""
KINDS = {"jax": "the program for JAX", "onnx": "the ONNX model", "onnx_float16": "the ONNX model in float16"}
"""The kinds of programs, by their names in the metadata."""


@dataclasses.dataclass(frozen=True)
class Program:
    """One program of an exported detector."""

    kind: str
    """One of `KINDS`."""
    file: str
    """Its name in the folder."""
    rows: int | None
    """The batch size; None if it takes every size."""


@dataclasses.dataclass(frozen=True)
class ExportedFolder:
    """A detector that `export_detector` wrote."""

    path: Path
    metadata: Mapping[str, Any]

    @property
    def config(self) -> Config | None:
        """The settings of the run that made the detector, those that an evaluation needs; None if unknown."""
        trained = self.metadata.get("trained")
        return None if trained is None else config_from_dict(trained["settings"])

    @property
    def scores(self) -> Mapping[str, Any] | None:
        """The evaluation of the checkpoint that was exported, as `Scores.to_dict` gives it; None if unknown."""
        return (self.metadata.get("trained") or {}).get("scores")

    @property
    def classes(self) -> Categories:
        """The classes, and the class output of each."""
        found = {int(label): entry for label, entry in self.metadata["classes"].items()}
        by_id = sorted((int(entry["category_id"]), label, str(entry["name"])) for label, entry in found.items())
        raw = all(category_id == label for category_id, label, _ in by_id)
        scheme: LabelScheme = "raw" if raw else "contiguous"
        return Categories(tuple(i for i, _, _ in by_id), tuple(name for _, _, name in by_id), scheme)

    def programs(self) -> tuple[Program, ...]:
        """One program of each kind that the folder has: the one for every batch size, or the first."""
        found = []
        for kind in KINDS:
            files = self.metadata.get(kind) or {}
            if files:
                batch = ANY if ANY in files else next(iter(files))
                found.append(Program(kind, files[batch], None if batch == ANY else int(batch)))
        return tuple(found)


def is_exported(path: str | os.PathLike[str]) -> bool:
    """Whether this is the folder of an exported detector, as far as its metadata tell."""
    try:
        metadata = json.loads((Path(path).expanduser() / METADATA_FILE).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(metadata, dict) and {"shape", "classes", "jax", "weights"} <= metadata.keys()


def read_exported(path: str | os.PathLike[str]) -> ExportedFolder:
    """The folder of an exported detector. Raises `UserError` if it is none, or a program in it is missing."""
    folder = Path(path).expanduser()
    if not is_exported(folder):
        raise UserError(f"{folder} is not the folder of an exported detector: its {METADATA_FILE} does not say so.")
    exported = ExportedFolder(folder, json.loads((folder / METADATA_FILE).read_text()))
    programs = exported.programs()
    if not programs:
        raise UserError(f"{folder} has no program to run: export the detector again.")
    needed = [*(program.file for program in programs), exported.metadata["weights"]]
    if missing := [name for name in needed if not (folder / name).exists()]:
        raise UserError(f"{folder} is not whole: {missing[0]} is missing. Export the detector again.")
    return exported
