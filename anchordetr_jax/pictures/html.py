"""HTML pages that need no other file: tables, and pictures that are part of the page.

`Html` is text that is safe to stand in a page. Everything that comes from data passes `escaped`.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import NewType

from PIL import Image

Html = NewType("Html", str)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1f24; --quiet: #5b636e; --ground: #ffffff; --panel: #f4f5f7;
  --line: #d9dde3; --right: 31 78 140; --wrong: 209 73 91; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #a2abb6; --ground: #15171b; --panel: #1f2329;
  --line: #363c45; --right: 70 130 215; --wrong: 225 85 105; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-top: 1px solid var(--line); padding-top: 1rem; }
p { margin: .4rem 0; max-width: 48rem; }
.quiet, figcaption { color: var(--quiet); font-size: .9rem; }
.scroll { overflow-x: auto; margin: .2rem 0 .8rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; overflow-wrap: normal; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--ground); white-space: normal;
  min-width: 6rem; max-width: 14rem; overflow-wrap: anywhere; }
thead th { font-weight: 600; vertical-align: bottom; }
@media (max-width: 40rem) { th, td { padding: .25rem .35rem; } }
.matrix thead th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left;
  padding: .6rem .25rem; max-height: 12rem; }
.matrix th:first-child { min-width: 8rem; }
.matrix td { text-align: center; min-width: 2.4rem; }
.numbers { display: grid; grid-template-columns: repeat(3, 1fr); gap: .5rem; padding: 0; max-width: 60rem; }
@media (min-width: 48rem) { .numbers { grid-template-columns: repeat(6, 1fr); } }
.numbers div { background: var(--panel); border-radius: .5rem; padding: .5rem .7rem; }
.numbers dt { color: var(--quiet); font-size: .85rem; }
.numbers dd { margin: 0; font-size: 1.2rem; font-variant-numeric: tabular-nums; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem;
  align-items: start; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); }
figure { margin: 0; }
img { display: block; max-width: 100%; height: auto; border-radius: .4rem; background: #fff; }
"""


def escaped(text: object) -> Html:
    """The text as it is to be read, whatever characters it has."""
    return Html(html.escape(str(text), quote=True))


def element(tag: str, *contents: Html, **attributes: str) -> Html:
    """`<tag …>contents</tag>`. `class_` and the like stand for attributes that are words of Python."""
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{escaped(value)}"' for name, value in attributes.items())
    return Html(f"<{tag}{written}>{''.join(contents)}</{tag}>")


def paragraph(text: str, *, quiet: bool = False) -> Html:
    """A paragraph of plain text."""
    return element("p", escaped(text), class_="quiet") if quiet else element("p", escaped(text))


def section(title: str, *contents: Html) -> Html:
    """A part of the page with its heading."""
    return element("section", element("h2", escaped(title)), *contents)


def numbers(values: Iterable[tuple[str, str]]) -> Html:
    """Names and values, each pair in a small field."""
    fields = [element("div", element("dt", escaped(name)), element("dd", escaped(value))) for name, value in values]
    return element("dl", *fields, class_="numbers")


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    styles: Sequence[Sequence[str]] | None = None,
    kind: str = "",
) -> Html:
    """A table of texts that scrolls sideways where it is wider than the page.

    Args:
        caption: says what the table shows.
        header: the names of the columns.
        rows: the first text of each row is the row's name.
        styles: a CSS declaration for each text of the rows; empty for none.
        kind: a class of the table for the style sheet, such as "matrix".
    """
    head = element("tr", *(element("th", escaped(name), scope="col") for name in header))
    body = []
    for row, looks in zip(rows, styles or [[""] * len(row) for row in rows], strict=True):
        cells = [element("th", escaped(row[0]), scope="row")]
        for text, look in zip(row[1:], looks[1:], strict=True):
            cells.append(element("td", escaped(text), style=look) if look else element("td", escaped(text)))
        body.append(element("tr", *cells))
    parts = (element("thead", head), element("tbody", *body))
    written = element("table", *parts, class_=kind) if kind else element("table", *parts)
    # Whoever has no pointer scrolls with the keyboard, which needs the focus.
    wide = element("div", written, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return element("figure", element("figcaption", escaped(caption)), wide)


def picture(contents: bytes, description: str, caption: str = "") -> Html:
    """A PNG or JPEG file as a part of the page."""
    with Image.open(io.BytesIO(contents)) as image:
        kind, (width, height) = (image.format or "png").lower(), image.size
    data = f"data:image/{kind};base64,{base64.b64encode(contents).decode()}"
    written = Html(f'<img src="{data}" alt="{escaped(description)}" width="{width}" height="{height}">')
    return element("figure", written, *([element("figcaption", escaped(caption))] if caption else []))


def jpeg(image: Image.Image, *, quality: int = 85) -> bytes:
    """A picture as the contents of a JPEG file."""
    data = io.BytesIO()
    image.convert("RGB").save(data, format="JPEG", quality=quality)
    return data.getvalue()


def pictures(figures: Sequence[Html], *, wide: bool = False) -> Html:
    """Pictures beside and below each other, as many in a row as the page is wide."""
    return element("div", *figures, class_="pictures wide" if wide else "pictures")


def page(title: str, *contents: Html) -> str:
    """A whole page."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{element('h1', escaped(title))}\n" + "\n".join(contents) + "\n</main>\n</body>\n</html>\n"
    )
