"""What TensorBoard is given, read back from its files."""

import contextlib
import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event

from anchordetr_jax.training.watching.tensorboard import TENSORBOARD_FOLDER, TensorBoard


def events(workdir: Path) -> list[Any]:
    """All events, file after file. A record is: length, checksum, data, checksum."""
    found = []
    for file in sorted((workdir / TENSORBOARD_FOLDER).iterdir()):
        data, place = file.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            found.append(Event.FromString(data[place + 12 : place + 12 + length]))
            place += 16 + length
    return found


def scalars(workdir: Path) -> list[tuple[int, str, float]]:
    return [
        (event.step, value.tag, round(value.simple_value, 4))
        for event in events(workdir)
        for value in event.summary.value
        if value.HasField("simple_value")
    ]


@contextlib.contextmanager
def board_of(workdir: Path) -> Iterator[TensorBoard]:
    board = TensorBoard(workdir)
    yield board
    board.close()


def test_numbers_and_settings_are_written(tmp_path: Path) -> None:
    with board_of(tmp_path) as board:
        board.config({"train.epochs": 3})
        board.scalars(10, {"train/loss": 2.5, "val/AP": 0.25})
        board.scalars(20, {"train/loss": 1.5})
    assert scalars(tmp_path) == [(10, "train/loss", 2.5), (10, "val/AP", 0.25), (20, "train/loss", 1.5)]
    texts = [
        value.tensor.string_val[0]
        for event in events(tmp_path)
        for value in event.summary.value
        if value.tensor.string_val
    ]
    assert texts == [b"| setting | value |\n|---|---|\n| train.epochs | 3 |"]


def test_earlier_numbers_of_steps_that_are_taken_again_are_hidden(tmp_path: Path) -> None:
    lines = [{"step": step, "loss": 1.0} for step in (10, 20)]
    with board_of(tmp_path) as board:
        for step in (10, 20, 30, 40):
            board.scalars(step, {"train/loss": 1.0})
    assert len(scalars(tmp_path)) == 4
    # The run goes on from a checkpoint of step 25.
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with board_of(tmp_path) as board:
        board.scalars(30, {"train/loss": 2.0})
    assert len(scalars(tmp_path)) == 5
    starts = [event.step for event in events(tmp_path) if event.session_log.status == event.session_log.START]
    assert starts[-1] == 21


def test_a_wide_picture_is_reduced(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 4000, 3), np.uint8)).save(tmp_path / "wide.png")
    with board_of(tmp_path) as board:
        board.images(7, {"val/predictions": tmp_path / "wide.png"})
    (picture,) = [value.image for event in events(tmp_path) for value in event.summary.value]
    assert (picture.width, picture.height) == (1600, 16)


def test_a_full_disk_ends_the_writing_but_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(event: Event) -> None:
        raise OSError(28, "No space left on device")

    with board_of(tmp_path) as board:
        board.scalars(1, {"train/loss": 1.0})
        monkeypatch.setattr(board._writer, "write_event", refuse)
        for step in range(2, 5):
            board.scalars(step, {"train/loss": 1.0})
    assert len([record for record in caplog.records if "No space left" in record.getMessage()]) == 1


@pytest.mark.processes
@pytest.mark.torch
def test_pytorch_is_not_loaded_for_it_and_can_be_loaded_later(script_environment: dict[str, str]) -> None:
    pytest.importorskip("torch")
    program = """
import sys
import anchordetr_jax.training.watching.tensorboard
assert "torch" not in sys.modules
import torch
"""
    root = Path(__file__).parents[3]
    subprocess.run([sys.executable, "-c", program], env={**script_environment, "PYTHONPATH": str(root)}, check=True)
