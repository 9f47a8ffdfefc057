"""Evaluation by two processes at once, each with half of every batch."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.test_evaluate import Moments, assert_same, root, run, scored_root, settings
from tests.tolerances import CLOSE32

__all__ = ["root", "scored_root"]

REPOSITORY = Path(__file__).parents[2]

WORKER = """
import json, sys
from anchordetr_jax.config import MeshConfig
from anchordetr_jax.training.sharding import make_mesh, start_distributed
root, port, index, output = sys.argv[1:]
start_distributed(f"127.0.0.1:{port}", 2, int(index))
from tests.evaluation.test_evaluate import Moments, run, settings
result = run(settings(root), Moments(), make_mesh(MeshConfig()))
with open(output, "w") as file:
    json.dump([result.metrics, result.results, result.unreadable], file)
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.processes
def test_two_processes_find_what_one_finds(scored_root, script_environment, tmp_path):
    (scored_root / "val2017" / "1.png").write_bytes(b"not an image")
    port = free_port()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(scored_root), str(port), str(index), str(tmp_path / f"{index}.json")],
            cwd=REPOSITORY,
            env={**script_environment, "NPROC": "8"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.returncode == 0, errors
    metrics, results, unreadable = json.loads((tmp_path / "0.json").read_text())
    expected = run(settings(scored_root), Moments())
    assert_same(results, expected.results, CLOSE32)
    assert unreadable == list(expected.unreadable)
    np.testing.assert_allclose(list(metrics.values()), list(expected.metrics.values()), rtol=0, atol=1e-6)
    other_metrics, other_results, _ = json.loads((tmp_path / "1.json").read_text())
    assert other_metrics == metrics
    assert other_results == []
