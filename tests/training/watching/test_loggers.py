"""Loggers get what a run tells, and none of them ends or delays it. W&B and MLflow are small stand-ins here."""

import importlib.machinery
import importlib.util
import sys
import threading
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from anchordetr_jax.errors import UserError
from anchordetr_jax.training.watching.loggers import InBackground, open_loggers
from anchordetr_jax.training.watching.tensorboard import TensorBoard
from tests.training.tiny import CONFIG, changed


class Kept:
    """A logger that keeps what it is given, and fails or waits if asked to."""

    def __init__(self, fail_at: int = -1, wait: threading.Event | None = None):
        self.steps: list[int] = []
        self.closed: list[bool] = []
        self._fail_at, self._wait = fail_at, wait

    def config(self, settings: Mapping[str, Any]) -> None:
        pass

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if self._wait is not None:
            self._wait.wait()
        if step == self._fail_at:
            raise SystemExit("no network")
        self.steps.append(step)

    def images(self, step: int, files: Mapping[str, Any]) -> None:
        pass

    def close(self, *, failed: bool) -> None:
        self.closed.append(failed)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_a_logger_in_the_background_gets_everything_in_order() -> None:
    kept = Kept()
    logger = InBackground("Kept", lambda: kept)
    for step in range(5):
        logger.scalars(step, {"loss": 1.0})
    logger.close(failed=False)
    assert kept.steps == [0, 1, 2, 3, 4]
    assert kept.closed == [False]


def test_a_logger_that_fails_is_called_no_more_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    kept = Kept(fail_at=2)
    logger = InBackground("Kept", lambda: kept)
    for step in range(5):
        logger.scalars(step, {"loss": 1.0})
    logger.close(failed=False)
    assert kept.steps == [0, 1]
    assert messages(caplog) == ["Kept gets no more numbers of this run (no network): the run continues without it."]


def test_a_logger_that_cannot_begin_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    def make() -> Kept:
        raise ConnectionError("no key\nsecond line")

    logger = InBackground("Kept", make)
    logger.scalars(1, {"loss": 1.0})
    logger.close(failed=False)
    assert messages(caplog) == ["Kept gets no more numbers of this run (no key): the run continues without it."]


def test_a_logger_that_hangs_does_not_keep_the_run(caplog: pytest.LogCaptureFixture) -> None:
    go_on = threading.Event()
    started = time.monotonic()
    logger = InBackground("Kept", lambda: Kept(wait=go_on), close_seconds=0.1)
    logger.scalars(1, {"loss": 1.0})
    logger.close(failed=True)
    assert time.monotonic() - started < 5
    assert "did not take the last numbers of this run within 0.1 s" in messages(caplog)[0]
    go_on.set()


class Wandb(types.ModuleType):
    """Stands in for the package wandb, and keeps the calls."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.started: list[dict[str, Any]] = []
        self.calls: list[tuple[Any, ...]] = []
        self.Settings = lambda **settings: settings
        self.Image = lambda file: ("image", file)

    def init(self, **settings: Any) -> Any:
        self.started.append(settings)
        return types.SimpleNamespace(
            config=types.SimpleNamespace(update=lambda values, **_: self.calls.append(("config", values))),
            define_metric=lambda name, step_metric: None,
            log=lambda values: self.calls.append(("log", values)),
            finish=lambda exit_code: self.calls.append(("finish", exit_code)),
        )


def test_weights_and_biases_gets_settings_numbers_and_pictures_and_continues_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    config = changed(CONFIG, train={"tensorboard": False, "wandb": True})
    for _ in range(2):
        (logger,) = open_loggers(config, tmp_path / "mine")
        logger.scalars(10, {"train/loss": 2.5})
        logger.images(10, {"val/predictions": tmp_path / "grid.png"})
        logger.close(failed=True)
    first, second = wandb.started
    assert first == second
    assert (first["name"], first["dir"], first["resume"]) == ("mine", str(tmp_path / "mine"), "allow")
    (_, settings), *others = wandb.calls[:4]
    assert settings["train.epochs"] == CONFIG.train.epochs
    assert others == [
        ("log", {"step": 10, "train/loss": 2.5}),
        ("log", {"step": 10, "val/predictions": ("image", str(tmp_path / "grid.png"))}),
        ("finish", 1),
    ]


class Entry(NamedTuple):
    """A number or a parameter of the stand-in for MLflow."""

    key: str
    value: Any
    timestamp: int = 0
    step: int = 0


class MlflowClient:
    """Stands in for mlflow.tracking.MlflowClient."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012 (each test has its own)

    def __init__(self, tracking_uri: str):
        self.calls.append(("client", tracking_uri))

    def get_experiment_by_name(self, name: str) -> None:
        return None

    def create_experiment(self, name: str, artifact_location: str | None) -> str:
        self.calls.append(("experiment", name, artifact_location))
        return "7"

    def create_run(self, experiment: str, run_name: str) -> Any:
        self.calls.append(("run", experiment, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))

    def log_batch(self, run: str, metrics: list[Entry] = [], params: list[Entry] = []) -> None:  # noqa: B006
        assert len(params) <= 100
        self.calls.append(("metrics", run, [(m.key, m.value, m.step) for m in metrics]) if metrics else ("params", run))

    def log_artifact(self, run: str, file: str, folder: str) -> None:
        self.calls.append(("artifact", run, file, folder))

    def set_terminated(self, run: str, status: str) -> None:
        self.calls.append(("status", run, status))


def test_mlflow_gets_settings_numbers_and_pictures_and_continues_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mlflow", "mlflow.tracking", "mlflow.entities"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["mlflow.tracking"].MlflowClient = MlflowClient  # type: ignore[attr-defined]
    sys.modules["mlflow.entities"].Metric = sys.modules["mlflow.entities"].Param = Entry  # type: ignore[attr-defined]
    monkeypatch.setattr(MlflowClient, "calls", [])
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    config = changed(CONFIG, train={"tensorboard": False, "mlflow": True})
    folder = tmp_path / "mine" / "mlflow"
    for _ in range(2):
        (logger,) = open_loggers(config, tmp_path / "mine")
        logger.scalars(10, {"train/loss": 2.5})
        logger.images(10, {"val/predictions": tmp_path / "grid.png"})
        logger.close(failed=False)
    calls = [call for call in MlflowClient.calls if call[0] != "params"]
    told = [
        ("metrics", "abc", [("train/loss", 2.5, 10)]),
        ("artifact", "abc", str(tmp_path / "grid.png"), "val/predictions"),
        ("status", "abc", "FINISHED"),
    ]
    client = ("client", f"sqlite:///{folder / 'mlflow.db'}")
    assert calls == [
        client,
        ("experiment", "anchordetr", (folder / "artifacts").as_uri()),
        ("run", "7", "mine"),
        *told,
        client,
        ("status", "abc", "RUNNING"),
        *told,
    ]


def test_tensorboard_alone_is_the_default_and_buckets_get_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (logger,) = open_loggers(CONFIG, tmp_path)
    assert isinstance(logger, TensorBoard)
    assert open_loggers(changed(CONFIG, train={"tensorboard": False}), tmp_path) == []
    assert open_loggers(CONFIG, "gs://bucket/run") == []
    assert messages(caplog) == ["TensorBoard: files are written to local workdirs only, not to gs://bucket/run."]


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_a_package_that_is_missing_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(UserError, match=rf"'train\.{package}' needs the package {package}: pip install {package}"):
        open_loggers(changed(CONFIG, train={package: True}), tmp_path)
