"""Parts run in processes of their own, within their time, and the report says what came of them."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from anchordetr_jax.benchmark.gpu.parts import Part, results_path
from anchordetr_jax.benchmark.gpu.running import run_all
from anchordetr_jax.benchmark.gpu.settings import Settings
from anchordetr_jax.errors import UserError

RESULTS = (
    '{"tables": [{"title": "T", "rows": [{"program": "x", "ms": 2.5}]}], "planned": ["x", "y"], "measured": ["x"]}'
)


def python(code: str) -> Callable[[Part, Path, float], Sequence[str]]:
    """The command of every part: this code, with the path of its results as `path` and its name as `name`."""

    def command(part: Part, work: Path, seconds: float) -> Sequence[str]:
        start = f"import pathlib, time; path = pathlib.Path({str(results_path(work, part.name))!r}); "
        return [sys.executable, "-S", "-c", f"{start}name = {part.name!r}; results = {RESULTS!r}\n{code}"]

    return command


def states(output: Path) -> dict[str, str]:
    """How each part ended, as the report says it."""
    parts = json.loads((output / "report.json").read_text())["parts"]
    return {name: part["state"] for name, part in parts.items()}


def test_the_report_has_what_every_part_found(tmp_path: Path) -> None:
    assert run_all(Settings(output=str(tmp_path)), python("path.write_text(results)"))
    assert set(states(tmp_path)) == {"a", "b", "c", "d", "e", "f"}
    assert set(states(tmp_path).values()) == {"done"}
    text = (tmp_path / "report.md").read_text()
    assert text.count("| x       | 2.5 |") == 5
    assert "Not measured: y." in text


def test_a_part_that_fails_does_not_keep_the_next_from_running(tmp_path: Path) -> None:
    code = "path.write_text(results); assert name != 'b', 'this text is in the log'"
    assert not run_all(Settings(output=str(tmp_path), only=("b", "c")), python(code))
    assert states(tmp_path) == {"b": "failed: its process ended with status 1; see log.txt", "c": "done"}
    assert "this text is in the log" in (tmp_path / "log.txt").read_text()
    assert "| x       | 2.5 |" in (tmp_path / "report.md").read_text()


def test_a_part_is_stopped_when_its_time_is_over_and_keeps_what_it_found(tmp_path: Path) -> None:
    settings = Settings(output=str(tmp_path), only=("b", "e"), minutes=0.15)
    code = "path.write_text(results); time.sleep(60 if name == 'b' else 0)"
    run_all(settings, python(code))
    assert states(tmp_path)["b"] == "stopped: its time was over"
    assert "This part is stopped: its time was over." in (tmp_path / "report.md").read_text()
    assert "| x       | 2.5 |" in (tmp_path / "report.md").read_text()


def test_parts_without_time_are_named(tmp_path: Path) -> None:
    run_all(Settings(output=str(tmp_path), only=("c",), minutes=0.01), python("path.write_text(results)"))
    assert states(tmp_path) == {"c": "not begun: no time was left"}


def test_the_official_code_is_measured_where_a_checkout_is_given(tmp_path: Path) -> None:
    run_all(Settings(output=str(tmp_path), only=("b",), official="repo"), python("path.write_text(results)"))
    assert states(tmp_path) == {"b": "done", "b-official": "done"}


def test_an_unknown_part_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no part 'g'"):
        run_all(Settings(output=str(tmp_path), only=("g",)), python(""))
