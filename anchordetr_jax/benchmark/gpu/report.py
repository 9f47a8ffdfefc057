"""The report of a measurement: `report.md` for a person, `report.json` for programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from anchordetr_jax.benchmark.gpu.settings import GPU_SIZES, Cell
from anchordetr_jax.benchmark.tables import Row, table
from anchordetr_jax.files import write_atomically, write_json

ORDER = ("a", "b", "b-official", "c", "c-official", "d", "e", "f")


class Target(NamedTuple):
    """What the project wants to reach on an H100 (80 GB)."""

    text: str
    wanted: str
    measured: float | None
    reached: bool | None
    """None: not measured."""
    unit: str

    def row(self) -> Row:
        verdict = "not measured" if self.reached is None else "reached" if self.reached else "missed"
        measured = None if self.measured is None else f"{self.measured:.3g}{self.unit}"
        return {"what": self.text, "target on an H100": self.wanted, "measured": measured, "verdict": verdict}


def write_report(output: Path, report: Mapping[str, Any]) -> None:
    """Writes both files, each in one piece."""
    write_json(output / "report.json", report, indent=1)
    write_atomically(output / "report.md", markdown(report).encode())


def markdown(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    parts: Mapping[str, Any] = report["parts"]
    title = "Rehearsal of the GPU measurement (tiny sizes: no figure means anything)"
    lines = [
        f"# {title if report['rehearsal'] else 'GPU measurement'}",
        "",
        f"- Device: {'; '.join(report['devices'])}",
        f"- Host: {report['host']}",
        f"- Date: {report['date']}",
        f"- Versions: Python {report['python']}, "
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items()),
        f"- Command: `{report['command']}` ({report['minutes']:g} minutes)",
        "",
    ]
    overview: list[Row] = [
        {
            "part": name,
            "what": parts[name]["title"],
            "state": parts[name]["state"],
            "seconds": f"{parts[name]['seconds']:.0f}" if "seconds" in parts[name] else None,
            "failed": str(len(parts[name].get("failed", []))),
            "not measured": str(len(_not_measured(parts[name]))),
        }
        for name in ORDER
        if name in parts
    ]
    lines += [table(overview), ""]
    if not report["rehearsal"]:
        lines += ["## Targets", "", table([target.row() for target in targets(parts)]), ""]
    for name in ORDER:
        if name in parts:
            lines += _section(name, parts[name])
    return "\n".join(lines)


def targets(parts: Mapping[str, Any]) -> list[Target]:
    """The targets, with what was measured. They are for R50-DC5 in bfloat16 on images of 800x1344 pixels."""
    figures: dict[str, float] = {}
    for part in parts.values():
        figures |= part.get("figures", {})
    eight, one = GPU_SIZES.forward[0], GPU_SIZES.forward[1]
    train = GPU_SIZES.train[0]

    def rate(key: str, images: int) -> float | None:
        return images / figures[key] if key in figures else None

    def ratio(what: str, cell: Cell, way: str) -> float | None:
        ours, official = f"{what}: {cell.name}: latency", f"{what}: official, {way}, {cell.workload}"
        return figures[official] / figures[ours] if ours in figures and official in figures else None

    def at_least(text: str, wanted: float, excellent: float | None, value: float | None, unit: str) -> Target:
        more = "" if excellent is None else f" (excellent: {excellent:g}{unit})"
        return Target(text, f"at least {wanted:g}{unit}{more}", value, None if value is None else value >= wanted, unit)

    def at_most(text: str, wanted: float, excellent: float | None, value: float | None, unit: str) -> Target:
        more = "" if excellent is None else f" (excellent: {excellent:g}{unit})"
        return Target(text, f"at most {wanted:g}{unit}{more}", value, None if value is None else value <= wanted, unit)

    latency = figures.get(f"forward: {one.name}: latency")
    callback = figures.get("train: matching on the host")
    peak = figures.get(f"train: {train.name}: peak bytes")
    official_peak = figures.get(f"train: official, AMP, {train.workload}: peak bytes")
    return [
        at_least("forward, batch 8", 600, 900, rate(f"forward: {eight.name}: throughput", eight.images), " images/s"),
        at_most("forward, batch 1", 5, 3, None if latency is None else latency * 1e3, " ms"),
        at_least("forward, batch 8, against AMP", 3, None, ratio("forward", eight, "AMP"), "x"),
        at_least("forward, batch 8, against torch.compile", 2, None, ratio("forward", eight, "torch.compile"), "x"),
        at_least(
            "forward, batch 8, against torch.compile and AMP",
            2,
            None,
            ratio("forward", eight, "torch.compile and AMP"),
            "x",
        ),
        at_least(
            "training step, batch 8", 225, None, rate(f"train: {train.name}: throughput", train.images), " images/s"
        ),
        at_least("training step, batch 8, against AMP", 2, None, ratio("train", train, "AMP"), "x"),
        at_most("host callback's share of the step", 5, None, None if callback is None else 100 * callback, " %"),
        at_most(
            "peak memory, against AMP",
            0.5,
            None,
            peak / official_peak if peak and official_peak else None,
            "x",
        ),
    ]


def _section(name: str, part: Mapping[str, Any]) -> list[str]:
    lines = [f"## {name}. {part['title']}", ""]
    if part["state"] != "done":
        lines += [f"This part is {part['state']}.", ""]
    for one in part.get("tables", []):
        if len(part["tables"]) > 1 or one["title"] != part["title"]:
            lines += [f"### {one['title']}", ""]
        lines += [table(one["rows"]), ""]
    lines += [f"- {note}" for note in part.get("notes", [])]
    left_out = _not_measured(part)
    if left_out:
        lines.append(f"- Not measured: {'; '.join(left_out)}.")
    if lines[-1]:
        lines.append("")
    for picture in part.get("pictures", []):
        lines += [f"![{part['title']}]({picture})", ""]
    return lines


def _not_measured(part: Mapping[str, Any]) -> list[str]:
    """What was planned, and neither measured nor tried."""
    tried = {*part.get("measured", []), *part.get("failed", [])}
    return [name for name in part.get("planned", []) if name not in tried]
