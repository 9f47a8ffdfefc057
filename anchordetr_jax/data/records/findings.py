"""What is wrong with the records of a data set, and what was left out, changed or assumed: by kind, with counts."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from anchordetr_jax.data.source import Split
from anchordetr_jax.errors import UserError

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
"""`error`: it stops training, or makes a score wrong. `warning`: it is dealt with (left out, clipped, changed), but
somebody should look at it. `note`: good to know."""


class Finding(NamedTuple):
    """One thing that is wrong, or good to know."""

    severity: Severity
    kind: str
    """A few words, the same for all findings of a kind."""
    file: str
    """The file (and line) of the record, or the image file."""
    detail: str
    image_id: Any = None
    annotation_id: Any = None
    stops: bool = False
    """Whether neither training nor evaluation can start."""

    @property
    def place(self) -> str:
        """File, image and annotation, for a line of text."""
        ids = [f"image {self.image_id}"] if self.image_id is not None else []
        ids += [f"annotation {self.annotation_id}"] if self.annotation_id is not None else []
        return printable(f"{self.file}{' (' + ', '.join(ids) + ')' if ids else ''}")


class Findings:
    """All findings about one split.

    Args:
        source: the annotation file or folder: the place of findings without a file of their own.
        inspectable: whether anchordetr inspect can list the findings.
    """

    def __init__(self, source: str, *, inspectable: bool = True):
        self.source, self.inspectable = source, inspectable
        self.all: list[Finding] = []

    def error(self, kind: str, detail: str, file: object = None, *, stops: bool = True, **ids: Any) -> None:
        """Adds something that stops training, or (without `stops`) only makes a score wrong."""
        self._add("error", kind, detail, file, stops, ids)

    def warning(self, kind: str, detail: str, file: object = None, **ids: Any) -> None:
        """Adds something that is dealt with."""
        self._add("warning", kind, detail, file, False, ids)

    def note(self, kind: str, detail: str, file: object = None, **ids: Any) -> None:
        """Adds something that is good to know."""
        self._add("note", kind, detail, file, False, ids)

    def unreadable(self, kind: str, detail: str, file: object, split: Split, image_id: Any) -> None:
        """Adds an image that cannot be read: it falsifies the score of an evaluation; training goes on without it."""
        if split == "train":
            self.warning(kind, f"{detail}; training goes on without it", file, image_id=image_id)
        else:
            detail = f"{detail}; it counts as an image without detections"
            self.error(kind, detail, file, image_id=image_id, stops=False)

    def _add(
        self, severity: Severity, kind: str, detail: str, file: object, stops: bool, ids: Mapping[str, Any]
    ) -> None:
        place = printable(str(file or self.source))
        self.all.append(Finding(severity, kind, place, printable(detail), **ids, stops=stops))

    def stop_if_needed(self) -> None:
        """Raises `UserError` for the first finding that stops training, with the number of others of its kind."""
        stopping = [finding for finding in self.all if finding.stops]
        if not stopping:
            return
        first = stopping[0]
        same = sum(finding.kind == first.kind for finding in stopping)
        more = f" There are {same} of this kind in all." if same > 1 else ""
        others = len({finding.kind for finding in stopping}) - 1
        more += f" There are errors of {others} other kind{'s' if others > 1 else ''}." if others else ""
        more += " anchordetr inspect lists all of them." if more and self.inspectable else ""
        place = first.place if first.file == self.source else f"{self.source}: {first.place}"
        raise UserError(f"{place}: {first.detail}.{more}")

    def lines(self) -> list[str]:
        """One line per kind: severity, kind, count and the first example."""
        lines = []
        for (severity, kind), count in count_kinds(self.all).items():
            first = next(finding for finding in self.all if (finding.severity, finding.kind) == (severity, kind))
            lines.append(f"{severity.capitalize()}: {kind}: {count}, such as {first.place}: {first.detail}.")
        return lines


def count_kinds(findings: Iterable[Finding]) -> dict[tuple[Severity, str], int]:
    """The number of findings of each kind, the worst kinds first."""
    counts = Counter((finding.severity, finding.kind) for finding in findings)
    return dict(sorted(counts.items(), key=lambda item: (SEVERITIES.index(item[0][0]), -item[1])))


def printable(text: str) -> str:
    """A text on one line, with escapes for characters that cannot be printed."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
