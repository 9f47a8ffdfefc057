"""Reads an HTML page as a person sees it: its text, tables and pictures, and everything that it refers to."""

import html.parser
from pathlib import Path


class Page(html.parser.HTMLParser):
    """A page that was read. Raises where an element is not closed."""

    VOID = frozenset({"meta", "img", "br", "hr"})

    def __init__(self, text: str):
        super().__init__()
        self.text = ""
        self.headings: list[str] = []
        self.tables: list[list[list[str]]] = []
        """The rows of each table, with its header."""
        self.numbers: dict[str, str] = {}
        """The values of definition lists by name."""
        self.pictures: list[dict[str, str | None]] = []
        """The attributes of each picture."""
        self.references: list[str] = []
        """All addresses in the page."""
        self.tags: set[str] = set()
        self._open: list[str] = []
        self._name = ""
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    @classmethod
    def of(cls, path: Path) -> "Page":
        return cls(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.pictures.append(dict(attrs))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        inside = self._open[-1] if self._open else ""
        if inside == "style":
            assert "url(" not in data
            assert "@import" not in data
            return
        self.text += data
        if inside in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if inside in ("h1", "h2"):
            self.headings.append(data)
        if inside == "dt":
            self._name = data
        if inside == "dd":
            self.numbers[self._name] = data
