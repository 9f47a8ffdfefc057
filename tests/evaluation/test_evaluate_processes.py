"""Evaluation by two processes at once, each with half of every batch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from anchordetr_jax.evaluation.journal import Journal
from tests.evaluation.test_evaluate import Moments, assert_same, root, run, scored_root, settings
from tests.processes import free_port, start
from tests.tolerances import SCORE32

__all__ = ["root", "scored_root"]

REPOSITORY = Path(__file__).parents[2]

WORKER = """
import json, sys
from anchordetr_jax.config import MeshConfig
from anchordetr_jax.devices import make_mesh, initialize_distributed
root, port, index, folder = sys.argv[1:]
initialize_distributed(f"127.0.0.1:{port}", 2, int(index))
from anchordetr_jax.evaluation.journal import Journal
from tests.evaluation.test_evaluate import Moments, run, settings
whole = run(settings(root), Moments(), make_mesh(MeshConfig()))
resumed = run(settings(root), Moments(), make_mesh(MeshConfig()), Journal(f"{folder}/journal{index}"))
with open(f"{folder}/{index}.json", "w") as file:
    runs = [[run.metrics, run.results, run.unreadable, run.kept_images] for run in (whole, resumed)]
    json.dump(runs, file)
"""


@pytest.mark.processes
def test_two_processes_find_the_same_as_one_and_continue_their_journals(scored_root, script_environment, tmp_path):
    (scored_root / "val2017" / "1.png").write_bytes(b"not an image")
    expected = run(settings(scored_root, batch_size=1), Moments(), journal=Journal(tmp_path / "journal", seconds=0))
    parts = sorted((tmp_path / "journal").iterdir())
    assert len(parts) == 4
    for index in range(2):  # on disks of their own: the second part is on both
        folder = tmp_path / f"journal{index}"
        folder.mkdir()
        for part in parts[index : index + 2]:
            shutil.copy(part, folder)
    port = free_port()
    workers = [
        start(
            ["-c", WORKER, str(scored_root), str(port), str(index), str(tmp_path)],
            REPOSITORY,
            {**script_environment, "NPROC": "8"},
        )
        for index in range(2)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=240)
        assert worker.wait() == 0, errors
    first, second = (json.loads((tmp_path / f"{index}.json").read_text()) for index in range(2))
    for metrics, results, unreadable, _ in first:
        assert_same(results, expected.results, SCORE32)
        assert unreadable == list(expected.unreadable)
        np.testing.assert_allclose(list(metrics.values()), list(expected.metrics.values()), rtol=0, atol=1e-6)
    assert [run[0] for run in second] == [run[0] for run in first]
    assert [run[1] for run in second] == [[], []]
    assert [run[3] for run in first] == [run[3] for run in second] == [0, 3]
