"""A benchmark prints what it measured."""

import json
import multiprocessing
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from anchordetr_jax.benchmark.official import Inputs
from anchordetr_jax.benchmark.official_process import OfficialProcess
from anchordetr_jax.benchmark.programs import matching_program
from anchordetr_jax.benchmark.tables import table, write
from anchordetr_jax.benchmark.timing import Contestant, alternate, median, ratio, spread
from anchordetr_jax.config import Config, MatcherConfig, ModelConfig
from anchordetr_jax.detection.matching import Targets
from anchordetr_jax.errors import UserError
from anchordetr_jax.verification.cases import ImageTargets
from anchordetr_jax.verification.synthetic import official_shapes, synthetic_state_dict
from tests.official_code import REPO, needs_official_code


def test_contestants_take_turns_and_each_begins_a_round() -> None:
    runs: list[str] = []
    contestants = [Contestant(name, lambda name=name: runs.append(name)) for name in "ab"]  # type: ignore[misc]
    seconds = alternate(contestants, rounds=2, warmup=1)
    assert "".join(runs) == "ab" + "ba" + "ab"
    assert [len(times) for times in seconds.values()] == [2, 2]


def test_a_ratio_is_one_of_medians() -> None:
    assert ratio([4.0, 6.0, 100.0], [3.0, 3.0, 0.1]) == 2.0
    assert median([1.0, 5.0, 2.0]) == 2.0


def test_the_spread_is_half_the_middle_half() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1 / 3)
    assert spread([2.0]) == 0.0


def test_tables_have_a_column_for_every_figure() -> None:
    lines = table([{"program": "ours", "ms": 1234.5}, {"program": "theirs", "share": 0.5}]).splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["program", "ms", "share"]
    assert [cell.strip() for cell in lines[2].strip("|").split("|")] == ["ours", "1234", "-"]
    assert len({len(line) for line in lines}) == 1


def test_a_written_table_says_how_it_was_made(tmp_path: Path) -> None:
    write(tmp_path / "new", "model", [{"program": "ours", "ms": 1.0}])
    written = json.loads((tmp_path / "new" / "model.json").read_text())
    assert written["rows"] == [{"program": "ours", "ms": 1.0}]
    assert {"date", "device", "versions", "command"} <= written.keys()


def test_a_program_gives_its_operations_and_runs_again() -> None:
    rng = np.random.default_rng(0)
    targets = Targets(jnp.full((1, 2, 4), 0.5, jnp.float32), jnp.zeros((1, 2), jnp.int32), jnp.ones(1, jnp.int32))
    logits, boxes = rng.normal(size=(1, 1, 5, 3)).astype(np.float32), rng.uniform(0.2, 0.4, (1, 1, 5, 4))
    program = matching_program(MatcherConfig(backend="device"), logits, boxes.astype(np.float32), targets)
    assert program.flops() > 0
    np.testing.assert_array_equal(program.run(), program.run())


def test_a_process_of_the_official_code_says_what_went_wrong_in_it(tmp_path: Path) -> None:
    inputs = Inputs(Config(), {}, np.zeros((1, 32, 32, 3), np.float32), ())
    with OfficialProcess(str(tmp_path), inputs) as official:
        with pytest.raises(UserError, match="not a checkout of the official code"):
            official.program("train", compiled=False, mixed=False)
        for process in multiprocessing.active_children():
            process.kill()
        with pytest.raises(UserError, match="has died"):
            official.multiply_adds()


@pytest.mark.torch
@needs_official_code
def test_the_official_code_runs_in_its_process_also_compiled_and_in_mixed_precision() -> None:
    config = Config(model=ModelConfig(num_classes=91, num_anchors=12, encoder_layers=1, decoder_layers=1))
    weights = synthetic_state_dict(official_shapes(config.model), seed=0)
    images = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype(np.float32)
    targets = [ImageTargets(np.array([[0.5, 0.5, 0.2, 0.4]]), np.array([3]))]
    with OfficialProcess(REPO, Inputs(config, weights, images, targets)) as official:
        for what in ("forward", "train"):
            for compiled, mixed in ((False, False), (True, False), (False, True), (True, True)):
                official.program(what, compiled=compiled, mixed=mixed)()  # type: ignore[arg-type]
        with pytest.raises(UserError, match="The official code does not run here: AttributeError"):
            official.program("nothing", compiled=False, mixed=False)  # type: ignore[arg-type]
