"""Pages show every text as it is, and need no other file."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from anchordetr_jax.pictures.html import jpeg, numbers, page, paragraph, picture, pictures, section, table
from tests.page import Page

NASTY = "<script>alert('x')</script> & \"price\" $1\n猫"


def test_texts_from_data_are_read_as_they_are() -> None:
    image = jpeg(Image.new("RGB", (8, 6)))
    contents = [
        section(NASTY, paragraph(NASTY), numbers([(NASTY, NASTY)])),
        table(NASTY, ["", NASTY], [[NASTY, NASTY]], styles=[["", "color: red"]], kind="matrix"),
        pictures([picture(image, NASTY, NASTY)]),
    ]
    read = Page(page(NASTY, *contents))
    assert "script" not in read.tags
    assert read.headings == [NASTY, NASTY]
    assert read.tables == [[["", NASTY], [NASTY, NASTY]]]
    assert read.numbers == {NASTY: NASTY}
    assert read.pictures[0]["alt"] == NASTY


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_is_part_of_the_page(kind: str) -> None:
    data = io.BytesIO()
    Image.fromarray(np.full((6, 8, 3), 200, np.uint8)).save(data, format=kind)
    (shown,) = Page(page("", picture(data.getvalue(), "grey"))).pictures
    head, _, encoded = str(shown["src"]).partition(",")
    assert head == f"data:image/{kind.lower()};base64"
    assert base64.b64decode(encoded) == data.getvalue()
    assert (shown["width"], shown["height"]) == ("8", "6")
