"""Names of any characters: on one line, in fonts that have them, and said once where none has."""

from pathlib import Path

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from anchordetr_jax.pictures import text as texts

CAT = "猫"


@pytest.fixture
def no_fonts_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process, on a system without fonts."""
    monkeypatch.setattr(texts, "_fonts", texts._Fonts())
    monkeypatch.setattr(texts, "_system_fonts", tuple)


@pytest.fixture
def cat_font(tmp_path: Path) -> Path:
    """A font whose only letter is a black square for the Chinese word for cat."""
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CAT): "cat"})
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular", "fullName": "Cats", "psName": "Cats"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cats.ttf")
    return tmp_path / "cats.ttf"


@given(st.text())
def test_a_line_has_no_line_breaks_or_control_characters(text: str) -> None:
    line = texts.one_line(text)
    assert line.splitlines() in ([], [line])
    assert texts.one_line(line) == line


@pytest.mark.parametrize(
    ("name", "label"),
    [("price $1\\frac$", "price \\$1\\frac\\$"), ("_background", " _background"), ("two\nlines", "two lines")],
)
def test_matplotlib_takes_a_label_as_it_is(name: str, label: str) -> None:
    assert texts.plot_label(name) == label


@pytest.mark.usefixtures("no_fonts_yet")
def test_missing_characters_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    picture = ImageDraw.Draw(Image.new("RGB", (100, 100)))
    for name in (CAT, CAT, "🦘"):
        texts.draw_text(picture, (0, 0), name, 12, (255, 255, 255))
        texts.plot_label(name)
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"the characters {CAT}:" in message
    assert texts.plot_label(f"cat {CAT}") == "cat □"


@pytest.mark.usefixtures("no_fonts_yet")
def test_a_font_of_the_system_draws_what_the_default_font_cannot(
    cat_font: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(texts, "_system_fonts", lambda: (cat_font,))
    picture = Image.new("RGB", (60, 60))
    texts.draw_text(ImageDraw.Draw(picture), (0, 0), f"{CAT} x", 40, (255, 255, 255))
    assert picture.getpixel((20, 20)) == (255, 255, 255)
    assert texts.text_width(f"{CAT} x", 40) > texts.text_width(" x", 40) + 35
    with texts.plot_fonts([CAT]):
        figure = Figure(figsize=(1, 1))
        figure.text(0.1, 0.2, texts.plot_label(CAT), fontsize=40)
        figure.savefig(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as drawn:
        assert drawn.convert("L").getpixel((40, 60)) == 0
    assert not caplog.records


@pytest.mark.usefixtures("no_fonts_yet")
def test_a_damaged_font_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    monkeypatch.setattr(texts, "_system_fonts", lambda: (tmp_path / "damaged.ttf",))
    assert texts.plot_label(CAT) == "□"
