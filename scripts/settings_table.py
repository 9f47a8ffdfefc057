"""Writes docs/settings.md: every setting with its type, default and meaning, from the docstrings of config.py.

python scripts/settings_table.py [--check]

With --check it writes nothing, and fails if the file is out of date.
"""

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any, Literal

from absl import flags

from anchordetr_jax import cli, config
from anchordetr_jax.errors import UserError
from anchordetr_jax.files import write_atomically

FLAGS = flags.FlagValues()
CHECK = flags.DEFINE_bool("check", False, "Write nothing; fail if docs/settings.md is out of date.", FLAGS)
FILE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
COMMAND = "python scripts/settings_table.py"

INTRODUCTION = f"""# Settings

Every setting of a run. An experiment file in [configs/](../configs) changes some of them. The command line changes any:
`--config.train.epochs=20`, `--config.augment.train_sizes=400,448,512`, `--config.data.labels raw`. If a name does not
exist, or a value has the wrong type, one sentence says so and names the setting that you probably mean.

`{COMMAND}` writes this page from the docstrings of [config.py](../anchordetr_jax/config.py): change them there.
"""


def main() -> None:
    text = settings_page()
    if not CHECK.value:
        write_atomically(FILE, text.encode())
    elif not FILE.exists() or FILE.read_text() != text:
        raise UserError(f"{FILE} is out of date: run {COMMAND}.")


def settings_page() -> str:
    """The whole file."""
    sections = [INTRODUCTION]
    hints = typing.get_type_hints(config.Config)
    alone = [field for field in dataclasses.fields(config.Config) if not dataclasses.is_dataclass(hints[field.name])]
    sections.append(_section("The run as a whole", "", "", config.Config, alone))
    for field in dataclasses.fields(config.Config):
        group = hints[field.name]
        if dataclasses.is_dataclass(group):
            assert isinstance(group, type)
            text = " ".join(inspect.cleandoc(group.__doc__ or "").split())
            sections.append(_section(f"`{field.name}`", text, f"{field.name}.", group, dataclasses.fields(group)))
    return "\n".join(sections)


def meanings(cls: type) -> dict[str, str]:
    """The docstring that follows each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, after in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(after.value.value).split())
    return found


def _section(title: str, text: str, prefix: str, cls: type, fields: Any) -> str:
    hints, explained = typing.get_type_hints(cls), meanings(cls)
    lines = [f"## {title}", ""] + ([text, ""] if text else [])
    lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        kind, default = _type_name(hints[field.name]), _value(field.default)
        lines.append(f"| `{prefix}{field.name}` | {kind} | {default} | {_cell(explained.get(field.name, ''))} |")
    return "\n".join(lines) + "\n"


def _type_name(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return " or ".join(f"`{choice}`" for choice in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"several {_type_name(typing.get_args(hint)[0])}"
    return {bool: "true or false", int: "whole number", float: "number", str: "text"}.get(hint, hint.__name__)


def _value(value: Any) -> str:
    if value in ("", ()):
        return "none"
    if isinstance(value, tuple):
        return f"`{','.join(map(str, value))}`"
    return f"`{value}`"


def _cell(text: str) -> str:
    # GitHub ends a cell at a bar, also within code.
    return re.sub(r"(?<!\\)\|", r"\\|", text)


if __name__ == "__main__":
    sys.exit(cli.run(main, FLAGS, sys.argv[1:], takes_arguments=False, text=__doc__))
