"""Every setting is explained, and the page that says so is current."""

import dataclasses
import typing

from anchordetr_jax.config import Config
from scripts.settings_table import COMMAND, FILE, meanings, settings_page


def test_every_setting_is_explained() -> None:
    hints = {"": Config, **{f"{name}.": hint for name, hint in typing.get_type_hints(Config).items()}}
    classes = {prefix: cls for prefix, cls in hints.items() if isinstance(cls, type) and dataclasses.is_dataclass(cls)}
    assert len(classes) > 5
    for prefix, cls in classes.items():
        explained = meanings(cls)
        for field in dataclasses.fields(cls):
            assert explained.get(field.name) or f"{field.name}." in classes, f"{prefix}{field.name} is not explained"


def test_the_page_of_settings_is_current() -> None:
    assert FILE.read_text() == settings_page(), f"run {COMMAND}"
