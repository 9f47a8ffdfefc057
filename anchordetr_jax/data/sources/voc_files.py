"""Reads the XML files of Pascal VOC, with the line of each element."""

from typing import NamedTuple
from xml.etree import ElementTree
from xml.parsers import expat

from etils import epath


class VocFile(NamedTuple):
    """The elements of an annotation file, and their lines."""

    root: ElementTree.Element
    lines: dict[ElementTree.Element, int]


class UnreadableXmlError(Exception):
    """An XML file that is damaged; the message says why and, if it is known, in which line."""


def read_xml(file: epath.Path) -> VocFile:
    """Raises `UnreadableXmlError` for a file that is missing, damaged, or declares entities (they can fill memory)."""
    parser = expat.ParserCreate()
    builder = ElementTree.TreeBuilder()
    lines: dict[ElementTree.Element, int] = {}

    def start(tag: str, attributes: dict[str, str]) -> None:
        lines[builder.start(tag, attributes)] = parser.CurrentLineNumber

    def entity(*_: object) -> None:
        raise UnreadableXmlError(f"line {parser.CurrentLineNumber}: it declares entities, which are not allowed")

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = entity
    try:
        parser.Parse(file.read_bytes(), True)
    except OSError as error:
        raise UnreadableXmlError(error.strerror or str(error)) from None
    except expat.ExpatError as error:
        raise UnreadableXmlError(f"line {error.lineno}: {expat.ErrorString(error.code)}") from None
    except (ValueError, LookupError) as error:  # An encoding that Python does not know.
        raise UnreadableXmlError(f"line {parser.CurrentLineNumber}: {error}") from None
    return VocFile(builder.close(), lines)


def text_of(element: ElementTree.Element | None, path: str) -> str | None:
    """The text of the element at `path`, without spaces around it; None where there is none."""
    found = None if element is None else element.find(path)
    return None if found is None or found.text is None else found.text.strip() or None
