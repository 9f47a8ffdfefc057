"""The whole measurement runs to its end on a CPU, so that no mistake in it costs time on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.processes
def test_a_rehearsal_on_a_cpu_measures_every_part(tmp_path: Path, script_environment: dict[str, str]) -> None:
    command = ["bash", str(ROOT / "scripts" / "measure_gpu.sh"), str(tmp_path / "out"), "--rehearse"]
    environment = {**script_environment, "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    log = tmp_path / "out" / "log.txt"
    assert done.returncode == 0, done.stdout + done.stderr + (log.read_text()[-5000:] if log.exists() else "")
    parts = json.loads((tmp_path / "out" / "report.json").read_text())["parts"]
    assert list(parts) == ["a", "b", "c", "e", "f", "d"]
    for name, part in parts.items():
        assert part["state"] == "done", name
        assert sorted(part.get("planned", [])) == sorted(part.get("measured", [])), name
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("report.md", "report.json", "log.txt"),
        *("forward.png", "training_step.png", "training.png"),
    }
    assert "Rehearsal" in (tmp_path / "out" / "report.md").read_text()
    assert os.listdir(tmp_path) == ["out"]
