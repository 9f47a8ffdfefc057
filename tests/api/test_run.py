"""`TrainingRun.detector` is the best one that the run kept, and not one that the run has left behind."""

import json
from pathlib import Path

import pytest

from anchordetr_jax.api.run import TrainingRun
from anchordetr_jax.data.categories import Categories
from tests.detector import save_detector


@pytest.mark.parametrize(("newest_ap", "used"), [(0.4, "best"), (0.6, "newest"), (None, "best")])
def test_the_detector_of_a_run_is_the_kept_one_unless_the_newest_is_better(
    tmp_path: Path, newest_ap: float | None, used: str
) -> None:
    for folder, name in (("best/100", "best"), ("checkpoints/200", "newest")):
        save_detector(tmp_path / folder, categories=Categories(ids=(1, 2), names=(name, "other")))
    lines = [{"step": 100, "val/AP": 0.5}, *([] if newest_ap is None else [{"step": 200, "val/AP": newest_ap}])]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert TrainingRun(tmp_path).detector.names[0] == used
