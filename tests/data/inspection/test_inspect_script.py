"""`anchordetr inspect` inspects a data set, also as a script."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from anchordetr_jax.commands import main

SCRIPT = Path(__file__).parents[3] / "scripts" / "inspect_dataset.py"


@pytest.mark.processes
def test_a_roboflow_folder_is_inspected_in_one_command(
    tmp_path: Path, script_environment: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for split, colour in (("train", (200, 0, 0)), ("valid", (0, 0, 200))):
        folder = tmp_path / "data" / split
        folder.mkdir(parents=True)
        Image.new("RGB", (60, 40), colour).save(folder / "a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20]}],
            "categories": [{"id": 1, "name": "cell"}],
        }
        (folder / "_annotations.coco.json").write_text(json.dumps(content))

    arguments = [str(tmp_path / "data"), "--output", str(tmp_path / "report")]
    command = [sys.executable, str(SCRIPT), *arguments]
    sound = subprocess.run(command, env=script_environment, capture_output=True, text=True, check=False)
    assert sound.returncode == 0, sound.stderr
    assert "train: 1 image, 1 object of 1 class" in sound.stdout
    assert "No problems found." in sound.stdout
    written = {path.name for path in (tmp_path / "report").iterdir()}
    assert written == {"report.json", "objects.png", "samples_train.png", "samples_val.png"}

    (tmp_path / "data" / "valid" / "a.png").unlink()
    (tmp_path / "data" / "valid" / "b.png").touch()
    content["images"].append({"id": 2, "file_name": "b.png", "width": 60, "height": 40})  # type: ignore[attr-defined]
    (tmp_path / "data" / "valid" / "_annotations.coco.json").write_text(json.dumps(content))
    assert main(["inspect", *arguments]) == 1
    printed = capsys.readouterr()
    assert (
        f"{tmp_path}/data/valid/a.png (image 1): it does not exist; it counts as an image without detections"
        in printed.out
    )
    assert "3 errors stop training or make scores wrong" in printed.err
    problems = json.loads((tmp_path / "report" / "report.json").read_text())["problems"]
    assert {problem["kind"] for problem in problems} >= {"missing file", "unreadable file"}
