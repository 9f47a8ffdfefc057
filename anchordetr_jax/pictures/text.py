"""Names of people's classes and files in pictures: on one line, and in fonts that have their characters.

Latin, Greek, Cyrillic and Arabic names are drawn in DejaVu Sans, which comes with matplotlib. For other characters a
font of the system is taken. Where the system has none, the log says so once.
"""

import contextlib
import functools
import logging
import re
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib
from absl import logging as absl_logging
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import ImageDraw, ImageFont

DEFAULT_FONT = Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"
_STYLES = re.compile(r"bold|italic|oblique|light|black|thin|mono|serif|condensed", re.IGNORECASE)
_BOX = "□"
"""Stands for a character that no font has."""
_VARIATION_SELECTORS = re.compile("[\ufe00-\ufe0f]")
"""They choose between two forms of a character, and few fonts have them."""


def one_line(text: str) -> str:
    """The text without line breaks and other control characters: a space takes the place of each group of them."""
    printable = "".join(" " if character.isspace() or not _is_drawn(character) else character for character in text)
    return " ".join(_VARIATION_SELECTORS.sub("", printable).split())


def plot_label(text: str) -> str:
    """The text on one line, as a label for matplotlib.

    Matplotlib takes `$…$` for mathematics, leaves labels out that begin with `_`, and warns of each character without a
    font.
    """
    line = one_line(text)
    _fonts.add(line)
    label = "".join(character if _fonts.has(character) else _BOX for character in line).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


@contextlib.contextmanager
def plot_fonts(texts: Iterable[str]) -> Iterator[None]:
    """Inside this context, matplotlib has fonts for these texts. Make and save the figure in it."""
    _fonts.add("".join(map(one_line, texts)))
    families = [font_manager.FontProperties(fname=path).get_name() for path in _fonts.paths]
    for path in _fonts.paths[1:]:
        font_manager.fontManager.addfont(path)
    # Matplotlib's search for fonts says of each font that it has no normal weight, although it is drawn well.
    search = logging.getLogger(font_manager.__name__)
    level = search.level
    search.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context({"font.family": families}):
            yield
    finally:
        search.setLevel(level)


def text_width(text: str, size: float) -> float:
    """The width of a text in pixels, for `draw_text`."""
    return sum(font_of(path, size).getlength(part) for path, part in _parts(text))


def draw_text(
    draw: ImageDraw.ImageDraw, position: tuple[float, float], text: str, size: float, colour: tuple[int, int, int]
) -> None:
    """Draws a text of one line, its upper left corner at `position`, with letters of `size` pixels."""
    x, top = position
    baseline = top + font_of(DEFAULT_FONT, size).getmetrics()[0]
    for path, part in _parts(text):
        font = font_of(path, size)
        draw.text((x, baseline), part, font=font, fill=colour, anchor="ls")
        x += font.getlength(part)


@functools.lru_cache(maxsize=64)
def font_of(path: Path, size: float) -> ImageFont.FreeTypeFont:
    """A font for Pillow."""
    return ImageFont.truetype(str(path), size)


class _Fonts:
    """The fonts that are in use: the default font, and fonts of the system for characters that it does not have."""

    def __init__(self) -> None:
        self.paths = [DEFAULT_FONT]
        self._missing: set[str] = set()
        self._lock = threading.Lock()  # Pictures are drawn in several threads.

    def add(self, text: str) -> None:
        """Takes fonts of the system for the characters of a text that no font in use has."""
        with self._lock:
            wanted = {character for character in text if not self.has(character)} - self._missing
            while wanted:
                best = max(_system_fonts(), key=lambda path: len(wanted & characters_of(path)), default=None)
                if best is None or not wanted & characters_of(best):
                    break
                self.paths.append(best)
                wanted -= characters_of(best)
            if wanted and not self._missing:
                absl_logging.warning(
                    "No font on this machine has the characters %s: pictures show boxes in their place. Install a font "
                    "that has them, such as the Debian packages fonts-noto-cjk and fonts-symbola.",
                    " ".join(sorted(wanted)[:20]),
                )
            self._missing |= wanted

    def has(self, character: str) -> bool:
        """Whether a font in use has this character."""
        return self._font_of(character) is not None

    def of(self, character: str) -> Path:
        """The font to draw a character with."""
        return self._font_of(character) or DEFAULT_FONT

    def _font_of(self, character: str) -> Path | None:
        return next((path for path in self.paths if character in characters_of(path)), None)


_fonts = _Fonts()


@functools.cache
def _system_fonts() -> tuple[Path, ...]:
    """All fonts of the system, those of upright sans-serif letters first."""
    paths = [Path(path) for path in font_manager.findSystemFonts()]
    return tuple(sorted(paths, key=lambda path: (bool(_STYLES.search(path.name)), path.name)))


@functools.cache
def characters_of(path: Path) -> frozenset[str]:
    """The characters that a font can draw at any size; none where it cannot be read."""
    try:
        font = FT2Font(str(path))
        return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
    except Exception:  # Fonts of the system can be damaged or of a kind that matplotlib does not know.
        return frozenset()


def _is_drawn(character: str) -> bool:
    return character.isprintable() or character in "\u200c\u200d"  # They join letters in some scripts.


def _parts(text: str) -> list[tuple[Path, str]]:
    """The text in parts that are drawn with one font each."""
    _fonts.add(text)
    parts: list[tuple[Path, str]] = []
    for character in text:
        path = _fonts.of(character)
        # A space or a joining mark stays with the characters before it.
        if parts and (path == parts[-1][0] or character in characters_of(parts[-1][0])):
            parts[-1] = (parts[-1][0], parts[-1][1] + character)
        else:
            parts.append((path, character))
    return parts
