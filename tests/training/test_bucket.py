"""A run whose workdir is in a bucket."""

import dataclasses
import json
import logging
from collections.abc import Iterator

import jax
import pytest
from etils import epath

from anchordetr_jax.checkpoints.checkpoint import find_checkpoint, saved_steps
from anchordetr_jax.config import Config, MeshConfig
from anchordetr_jax.data.shapes import ShapesConfig, write_shapes_dataset
from anchordetr_jax.devices import make_mesh
from anchordetr_jax.training.loop import Outcome, train
from tests.data.coco_folder import open_coco
from tests.training.bucket import Bucket, pretended_bucket
from tests.training.shared_runs import share_runs
from tests.training.tiny import CONFIG, NoiseData


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Bucket]]:
    with pretended_bucket(monkeypatch) as made:
        yield made


def settings(epochs: int) -> Config:
    train_settings = dataclasses.replace(CONFIG.train, epochs=epochs, keep_best=True, log_every=1, checkpoint_every=4)
    return dataclasses.replace(CONFIG, train=train_settings)


def run(workdir: epath.PathLike, config: Config) -> Outcome:
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return train(config, workdir, NoiseData(), evaluate=lambda model, step: {"AP": step / 100}, mesh=mesh)


def test_a_run_in_a_bucket_is_resumed_after_damage_as_on_a_disk(
    bucket: type[Bucket],
    tmp_path: epath.Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    share_runs(monkeypatch)
    monkeypatch.chdir(tmp_path)
    workdir = epath.Path("gs://runs/mine")
    assert run(workdir, settings(1)) == Outcome(step=5, stopped_by=None)
    assert saved_steps(workdir / "checkpoints") == [4, 5]
    # In a bucket a folder has its name from the start; Orbax marks those that are complete.
    for name in ("commit_success.txt", "checksums.json"):
        del bucket.store[f"/runs/mine/checkpoints/5/{name}"]
    with caplog.at_level(logging.WARNING):
        assert run(workdir, settings(2)) == Outcome(step=10, stopped_by=None)
    assert "checkpoints/5 is damaged (it is only half written): the one before it is used" in caplog.text
    told = [json.loads(line) for line in bucket.store["/runs/mine/metrics.jsonl"].getvalue().decode().splitlines()]
    assert [line["step"] for line in told if "loss" in line] == list(range(1, 11))
    assert saved_steps(workdir / "best") == [10]
    largest = max(
        (name for name in bucket.store if "/checkpoints/10/" in name), key=lambda name: bucket.store[name].size
    )
    bucket().pipe_file(largest, b"x" + bucket.store[largest].getvalue()[1:])
    assert find_checkpoint(workdir).name == "8"
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_in_a_bucket_is_read(bucket: type[Bucket], tmp_path: epath.Path) -> None:
    write_shapes_dataset(tmp_path, train_images=2, val_images=1, config=ShapesConfig(short_side=(32, 40), max_side=48))
    for path in epath.Path(tmp_path).glob("*/*"):
        bucket().pipe_file(f"/data/shapes/{path.parent.name}/{path.name}", path.read_bytes())
    annotations = "annotations/instances_train2017.json"
    local = open_coco(tmp_path / "train2017", tmp_path / annotations)
    remote = open_coco("gs://data/shapes/train2017", f"gs://data/shapes/{annotations}")
    assert len(remote) == 2
    assert all((remote.open_image(row) == local.open_image(row)).all() for row in range(2))
