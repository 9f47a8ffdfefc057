"""What a part of the measurement has found so far, in a file that another process reads while the part runs."""

import contextlib
import json
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from anchordetr_jax.benchmark.tables import Row
from anchordetr_jax.files import write_json


class Results:
    """Writes the file again after every change, in one piece."""

    def __init__(self, path: Path, seconds: float):
        """Begins a part.

        Args:
            path: the file.
            seconds: how long the part may take. Whoever started it stops it then.
        """
        self._path = path
        self._deadline = time.monotonic() + seconds
        self.content: dict[str, Any] = {
            "tables": [],
            "notes": [],
            "pictures": [],
            "planned": [],
            "measured": [],
            "failed": [],
            "figures": {},
        }

    def seconds_left(self) -> float:
        """Until the part is stopped."""
        return self._deadline - time.monotonic()

    def plan(self, names: Sequence[str]) -> None:
        """Says what will be measured, so that the report can name what was not."""
        self.content["planned"] += list(names)
        self._write()

    @contextlib.contextmanager
    def measuring(self, name: str) -> Iterator[None]:
        """One planned measurement. If it fails, the report says so and the part goes on."""
        started = time.monotonic()
        print(f"{name} …", flush=True)
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            first_line = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
            self.content["failed"].append(name)
            self.note(f"Failed: {name}. {type(error).__name__}: {first_line}")
        else:
            print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
            self.content["measured"].append(name)
            self._write()

    def table(self, title: str, rows: Sequence[Row]) -> None:
        """Adds a table, or puts new rows into the one of this title."""
        tables = [one for one in self.content["tables"] if one["title"] != title]
        if len(tables) == len(self.content["tables"]):
            self.content["tables"].append({"title": title, "rows": list(rows)})
        else:
            next(one for one in self.content["tables"] if one["title"] == title)["rows"] = list(rows)
        self._write()

    def note(self, sentence: str) -> None:
        """Adds a sentence."""
        self.content["notes"].append(sentence)
        self._write()

    def fail(self, name: str) -> None:
        """Says that a measurement ran and a check in it failed."""
        self.content["failed"].append(name)
        self._write()

    def picture(self, name: str) -> None:
        """Adds a picture, by its file name in the folder of the report."""
        if name not in self.content["pictures"]:
            self.content["pictures"].append(name)
        self._write()

    def figure(self, name: str, value: float) -> None:
        """Keeps a number for other parts and for the report's summary."""
        self.content["figures"][name] = value
        self._write()

    def _write(self) -> None:
        write_json(self._path, self.content)


def read_results(path: Path) -> dict[str, Any]:
    """What a part has written, or {} if it has written nothing."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}
