"""The command `anchordetr`: its verbs, its help, and what it says to a mistake."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from anchordetr_jax import commands
from anchordetr_jax.commands import VERBS, main

ROOT = Path(__file__).parents[2]
FILES = {path.stem for path in Path(commands.__file__).parent.glob("*.py")} - {"__init__", "__main__"}
FLAGS_OF_MEASUREMENT = {"measure_gpu", "settings_table"}
"""Scripts that need a clone: they are no verbs."""
OTHER_NAMES = {"inspect_dataset": "inspect", "plot_runs": "plot"}


def test_each_file_is_a_verb_and_each_verb_a_file() -> None:
    assert {verb.replace("-", "_") for verb in VERBS} == FILES


def test_each_script_calls_the_verb_of_its_name() -> None:
    scripts = {path.stem for path in ROOT.glob("scripts/*.py")} - FLAGS_OF_MEASUREMENT
    for script in scripts:
        verb = OTHER_NAMES.get(script, script).replace("_", "-")
        assert f'main(["{verb}", *sys.argv[1:]])' in (ROOT / "scripts" / f"{script}.py").read_text()
    assert {OTHER_NAMES.get(script, script) for script in scripts} | {"convert", "shapes"} == FILES


def test_help_imports_nothing_that_takes_time(script_environment: dict[str, str]) -> None:
    program = "import sys; from anchordetr_jax.commands import main; main(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], env=script_environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert re.search(rf"^  {verb} ", done.stdout, re.MULTILINE)
    for heavy in ("jax", "numpy", "absl", "ml_collections", "PIL"):
        assert f"'{heavy}'" not in done.stdout


def test_without_a_verb_there_is_the_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["anchordetr"])
    assert main() == 0
    assert "anchordetr VERB --help" in capsys.readouterr().out


def test_a_verb_that_does_not_exist_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 1
    assert capsys.readouterr().err == "Error: There is no verb 'trian'; did you mean train?\n"


def test_the_help_of_a_verb_has_its_text_and_its_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Detects objects in the images of a data set")
    assert {"checkpoint", "config", "split"} <= set(re.findall(r"^  --(\w+):", printed, re.MULTILINE))


def test_verbs_share_a_process_and_keep_no_flags_of_an_earlier_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "nowhere", "--output", "elsewhere"]) == 1
    assert main(["plot", "--output", "nothing.png"]) == 1
    assert main(["inspect", "--help"]) == 0
    assert main(["inspect", "--decode", "nowhere"]) == 1
    from anchordetr_jax.commands import inspect

    assert (inspect.OUTPUT.value, inspect.DECODE.value) == ("inspection", True)
    assert "output" not in flags.FLAGS
    assert capsys.readouterr().err.count("\n") == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train"], "The flag --workdir is missing"),
        (["train", "--workdir=runs/x"], "Say what to train on: anchordetr train MY_DATA"),
        (["train", "a", "b", "--workdir=runs/x"], "Give one data set, not 'b' too"),
        (["train", "a", "--workdir=runs/x", "--config.data.root=b"], "Give one data set, not 'a' too"),
        (["evaluate"], "The flag --checkpoint is missing: A run's workdir"),
        (["evaluate", "runs/a", "--checkpoint=runs/b"], "This command takes one of runs/a, runs/b"),
        (["export", "runs/a", "runs/b", "--output=x"], "This command takes one of runs/a, runs/b"),
        (["train", "--config=configs/nothing.py", "--workdir=runs/x"], "presets: anchordetr-r101-c5, "),
    ],
)
def test_what_is_missing_or_given_twice_is_named(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    assert sentence in capsys.readouterr().err
