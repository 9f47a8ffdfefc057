"""`notebooks/finetune.ipynb` runs from its first cell to its last, on a small drawn data set."""

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
PARAMETERS = """
DATA = "MY_DATA"
WORKDIR = "runs/mine"
EPOCHS = 1
DRAWN = {"train_images": 8, "val_images": 2}
SETTINGS = {"augment.train_sizes": (32,), "eval_size": 32, "max_size": 48, "evaluate_every": 1, "tensorboard": False}
SETTINGS |= {"denoising_groups": 0, "optimizer.name": "adamw", "backbone": "compact", "init_from": "", "freeze": ()}
SETTINGS |= {"num_anchors": 8, "hidden_dim": 32, "num_heads": 2, "ffn_dim": 32, "decoder_layers": 1}
"""


def outputs(notebook: Any, cell: str) -> dict[str, str]:
    """What a cell shows, by its MIME type."""
    found = next(one for one in notebook.cells if one.id == cell)
    return {kind: text for output in found.outputs for kind, text in output.get("data", {}).items()}


@pytest.mark.processes
def test_the_notebook_goes_from_the_data_to_the_pictures(tmp_path: Path, script_environment: dict[str, str]) -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "finetune.ipynb", as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert re.findall(r"^(\w+) = ", parameters.source, re.M) == re.findall(r"^(\w+) = ", PARAMETERS, re.M)
    parameters.source = PARAMETERS
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env={**script_environment, "PYTHONPATH": str(ROOT), "PATH": str(Path(sys.executable).parent)})
    assert "<th>AP50</th>" in outputs(notebook, "train")["text/html"]
    assert "<td>AP50</td>" in outputs(notebook, "evaluate")["text/html"]
    for cell in ("inspect", "curves", "predictions", "use"):
        assert "image/png" in outputs(notebook, cell)


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(ROOT / "notebooks" / "finetune.ipynb", as_version=4)
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in notebook.cells)
