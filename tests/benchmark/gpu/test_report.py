"""The report says what was measured, on what, and how far it is from the targets."""

from pathlib import Path
from typing import Any

from anchordetr_jax.benchmark.gpu.report import markdown, targets
from anchordetr_jax.benchmark.gpu.results import Results, read_results

FIGURES = {
    "forward: R50-DC5, 800x1344, batch 8, bfloat16: latency": 0.012,
    "forward: R50-DC5, 800x1344, batch 8, bfloat16: throughput": 0.010,
    "forward: R50-DC5, 800x1344, batch 1, bfloat16: latency": 0.006,
    "forward: official, AMP, R50-DC5, 800x1344, batch 8": 0.048,
    "train: matching on the host": 0.04,
}


def report(**parts: Any) -> dict[str, Any]:
    """A report of these parts."""
    return {
        "date": "2026-11-28T09:00+00:00",
        "devices": ["NVIDIA H100, 81559 MiB of memory"],
        "host": "cpu (a model, 16 cores)",
        "python": "3.12.3",
        "versions": {"jax": "0.11.2"},
        "command": "bash scripts/measure_gpu.sh OUT",
        "rehearsal": False,
        "minutes": 9.0,
        "parts": parts,
    }


def test_targets_are_compared_with_what_was_measured() -> None:
    found = {target.text: target for target in targets({"b": {"figures": FIGURES}})}
    assert found["forward, batch 8"].measured == 800
    assert found["forward, batch 8"].reached
    assert found["forward, batch 1"].reached is False
    ratio = found["forward, batch 8, against AMP"]
    assert (ratio.measured, ratio.reached) == (4, True)
    assert found["host callback's share of the step"].reached
    assert found["training step, batch 8"].reached is None


def test_the_card_the_date_and_the_versions_are_in_the_report() -> None:
    text = markdown(report(c={"title": "Training step", "state": "stopped: its time was over", "planned": ["x"]}))
    for word in ("NVIDIA H100", "2026-11-28", "jax 0.11.2", "stopped: its time was over", "Not measured: x."):
        assert word in text


def test_a_measurement_that_fails_is_noted_and_the_next_one_runs(tmp_path: Path) -> None:
    results = Results(tmp_path / "b.json", seconds=60)
    results.plan(["first", "second", "third"])
    with results.measuring("first"):
        raise ValueError("too large\nmore")
    with results.measuring("second"):
        results.table("Table", [{"program": "second", "ms": 1.0}])
    found = read_results(tmp_path / "b.json")
    assert (found["failed"], found["measured"]) == (["first"], ["second"])
    assert found["notes"] == ["Failed: first. ValueError: too large"]
    text = markdown(report(b={"title": "Forward pass", "state": "done", **found}))
    assert "Not measured: third." in text
    assert "Failed: first." in text


def test_a_table_that_is_given_again_replaces_the_one_of_its_title(tmp_path: Path) -> None:
    results = Results(tmp_path / "b.json", seconds=60)
    for value in (1.0, 2.0):
        results.table("Table", [{"program": "x", "ms": value}])
    assert read_results(tmp_path / "b.json")["tables"] == [{"title": "Table", "rows": [{"program": "x", "ms": 2.0}]}]
