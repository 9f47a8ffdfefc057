"""Documents name files, headings, settings, commands and flags that exist."""

import re
from pathlib import Path

import pytest

from anchordetr_jax.config import Config, config_to_dict
from anchordetr_jax.experiments import preset_names
from anchordetr_jax.settings.names import flat_settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
EXPERIMENTS = sorted(ROOT.glob("configs/*.py"))
COMMANDS = "anchordetr_jax/commands"
NAMES = [str(path.relative_to(ROOT)) for path in DOCUMENTS + EXPERIMENTS]


def headings(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


def commands(text: str) -> list[tuple[str, str]]:
    """(the file, its arguments) of every command in a text: a script, or a verb of `anchordetr`."""
    joined = re.sub(r"\\+\n\s*", "", text)
    scripts = re.findall(r"python ((?:scripts/)?\w+\.py)([^\n`#\"]*)", joined)
    verbs = re.findall(r"(?:^|[`\s])anchordetr ([a-z][\w-]+)([^\n`#\"]*)", joined, flags=re.MULTILINE)
    return scripts + [(f"{COMMANDS}/{verb.replace('-', '_')}.py", arguments) for verb, arguments in verbs]


@pytest.mark.parametrize("document", [str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_lead_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        if not link.startswith("http"):
            target = (path.parent / file).resolve() if file else path
            assert target.exists(), f"{link} does not exist"
            assert not anchor or anchor in headings(target), f"{link}: no such heading"


@pytest.mark.parametrize("name", NAMES)
def test_settings_exist(name: str) -> None:
    known = flat_settings(config_to_dict(Config()))
    for setting in re.findall(r"--(?:no)?config\.([\w.]*\w)", (ROOT / name).read_text()):
        assert setting in known or setting in ("SETTING", "NAME"), setting


@pytest.mark.parametrize("name", NAMES)
def test_presets_exist(name: str) -> None:
    for preset in re.findall(r"--config[ =]([\w.-]+)", (ROOT / name).read_text()):
        assert preset in preset_names() or preset in ("NAME", "mine.py"), preset


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_flags_exist(name: str) -> None:
    shared = (ROOT / "anchordetr_jax" / "cli.py").read_text()
    for script, arguments in commands((ROOT / name).read_text()):
        if not script.startswith(("scripts/", COMMANDS)):
            continue
        assert (ROOT / script).exists(), script
        source = (ROOT / script).read_text() + shared
        if script == f"{COMMANDS}/shapes.py":
            source += (ROOT / "anchordetr_jax" / "data" / "shapes" / "command.py").read_text()
        defined = set(re.findall(r"(?:DEFINE_\w+|add_argument)\(\s*f?\"(?:--)?([\w-]+)\"", source))
        for flag in re.findall(r"--([\w-]+)(?!\.)", re.sub(r"--(?:no)?config\.\S+", "", arguments)):
            assert {flag, flag.removeprefix("no"), flag.removeprefix("no-")} & defined, f"{script} --{flag}"
