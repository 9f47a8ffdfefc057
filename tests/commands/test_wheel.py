"""The wheel is whole: installed alone, it trains, evaluates, predicts and exports in a folder without the clone."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
PARTS = ("anchordetr_jax", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
"""What the wheel is made of."""

TINY = ROOT / "tests" / "training" / "script_config.py"
"""An experiment file of one's own. Other tests have compiled what it trains, if data set and epochs are the same."""

WHOLE_WAY = """
from pathlib import Path
import anchordetr_jax
from anchordetr_jax.commands import main
from anchordetr_jax.experiments import find_experiment

few = ["--config.train.checkpoint_every=16", "--config.augment.eval_size=32", "--config.train.evaluate_every=8"]
small = ["--short-side", "32", "40", "--max-side", "48", "--processes", "1"]
assert main(["shapes", "data", "--train", "8", "--val", "1", *small]) == 0
assert main(["inspect", "data"]) == 0
assert main(["train", "data", "--config", "tiny.py", "--workdir", "runs/mine", *few]) == 0
assert main(["evaluate", "runs/mine"]) == 0
assert main(["predict", "data/val2017", "--checkpoint", "runs/mine", "--output", "seen", "--threshold=0"]) == 0
assert main(["export", "runs/mine", "--shape", "32x32", "--batch", "1", "--output", "exported"]) == 0
package = Path(anchordetr_jax.__file__).parent
assert Path(find_experiment("finetune-cpu")) == package / "presets" / "finetune_cpu.py"
print(package)
"""


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Runs a command to its good end, and returns its output."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that nothing is left in the clone."""
    source = tmp_path_factory.mktemp("source")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, source / part)
    program = "from setuptools.build_meta import build_wheel; build_wheel('dist')"
    subprocess.run([sys.executable, "-c", program], cwd=source, check=True, capture_output=True)
    (made,) = (source / "dist").glob("*.whl")
    return made


def test_the_wheel_holds_every_file_of_the_package_and_the_presets(wheel: Path) -> None:
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"anchordetr_jax/{path.relative_to(ROOT / 'anchordetr_jax')}" for path in files("anchordetr_jax")}
    expected |= {f"anchordetr_jax/presets/{path.name}" for path in files("configs")}
    assert {name for name in held if ".dist-info/" not in name} == expected


def files(folder: str) -> list[Path]:
    return [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def test_the_wheel_goes_the_whole_way_in_an_empty_folder(
    wheel: Path, tmp_path: Path, script_environment: dict[str, str]
) -> None:
    environment = {name: value for name, value in script_environment.items() if name != "PYTHONPATH"}
    venv, folder = tmp_path / "venv", tmp_path / "empty"
    folder.mkdir()
    shutil.copy(TINY, folder / "tiny.py")
    run([sys.executable, "-m", "venv", "--without-pip", str(venv)], folder, environment)
    inside = venv / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    # The dependencies are those of this environment. The package itself is found first in its own.
    (inside / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python")]
    run([*pip, "install", "--no-deps", "--no-index", "--no-compile", "--quiet", str(wheel)], folder, environment)

    assert run([str(venv / "bin" / "anchordetr"), "--version"], folder, environment).startswith("anchordetr_jax ")
    printed = run([str(venv / "bin" / "python"), "-c", WHOLE_WAY], folder, environment)
    assert printed.splitlines()[-1] == str(inside / "anchordetr_jax")
    assert "AP=" in printed
    for made in (
        "runs/mine/curves.png",
        "runs/mine/predictions.png",
        "results.scores.json",
        "seen/detections.json",
        "exported/metadata.json",
        "inspection/report.json",
    ):
        assert (folder / made).is_file()
