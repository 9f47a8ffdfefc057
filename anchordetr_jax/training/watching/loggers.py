"""Where the numbers and pictures of a run go besides its own files: TensorBoard, Weights & Biases, MLflow.

Another place plugs in with one class that has the members of `Logger`.
"""

import importlib.util
import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging
from etils import epath

from anchordetr_jax.config import Config, config_to_dict
from anchordetr_jax.errors import UserError
from anchordetr_jax.settings.names import flat_settings
from anchordetr_jax.training.watching.mlflow_logger import MLflow
from anchordetr_jax.training.watching.tensorboard import TensorBoard
from anchordetr_jax.training.watching.wandb_logger import WeightsAndBiases

CLOSE_SECONDS = 60.0
"""How long the end of a run waits for a logger."""


class Logger(Protocol):
    """Takes what a run tells. Only process 0 has loggers."""

    def config(self, settings: Mapping[str, Any]) -> None:
        """Takes all settings by their names, such as "train.epochs". Called once, before everything else."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Takes finite numbers by name ("train/loss", "val/AP") after `step` steps."""

    def images(self, step: int, files: Mapping[str, epath.PathLike]) -> None:
        """Takes image files by name. They stay where they are."""

    def close(self, *, failed: bool) -> None:
        """The run is over. `failed`: it ended by an error."""


class InBackground:
    """Calls another logger from a thread of its own, so that the run does not wait for it and does not end by it.

    After its first exception the logger is called no more, and a warning says so.
    """

    def __init__(self, name: str, make: Callable[[], Logger], *, close_seconds: float = CLOSE_SECONDS):
        """Begins the thread, which makes the logger. `name` is for the warning."""
        self._name, self._close_seconds = name, close_seconds
        self._calls: queue.SimpleQueue[Callable[[Logger], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, args=(make,), daemon=True, name=f"logger {name}")
        self._thread.start()

    def config(self, settings: Mapping[str, Any]) -> None:
        self._calls.put(lambda logger: logger.config(settings))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._calls.put(lambda logger: logger.scalars(step, values))

    def images(self, step: int, files: Mapping[str, epath.PathLike]) -> None:
        self._calls.put(lambda logger: logger.images(step, files))

    def close(self, *, failed: bool) -> None:
        self._calls.put(lambda logger: logger.close(failed=failed))
        self._calls.put(None)
        self._thread.join(self._close_seconds)
        if self._thread.is_alive():
            logging.warning(
                "%s did not take the last numbers of this run within %g s: they may be missing there.",
                self._name,
                self._close_seconds,
            )

    def _work(self, make: Callable[[], Logger]) -> None:
        try:
            logger = make()
            while (call := self._calls.get()) is not None:
                call(logger)
        except BaseException as error:  # Libraries end threads by exceptions of every kind, SystemExit among them.
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            logging.warning(
                "%s gets no more numbers of this run (%s): the run continues without it.", self._name, first
            )


def open_loggers(config: Config, workdir: epath.PathLike) -> list[Logger]:
    """The loggers that the settings ask for; they have been given the settings.

    Raises `UserError` if a package is not installed.
    """
    settings = flat_settings(config_to_dict(config))
    train = config.train
    asked: dict[str, Callable[[], Logger]] = {}
    if train.tensorboard:
        asked["TensorBoard"] = lambda: TensorBoard(workdir)
    if train.wandb:
        _require("wandb")
        asked["Weights & Biases"] = lambda: InBackground("Weights & Biases", lambda: WeightsAndBiases(workdir))
    if train.mlflow:
        _require("mlflow")
        asked["MLflow"] = lambda: InBackground("MLflow", lambda: MLflow(workdir))
    if asked and "://" in str(workdir):
        logging.warning("%s: files are written to local workdirs only, not to %s.", ", ".join(asked), workdir)
        return []
    loggers = [make() for make in asked.values()]
    for logger in loggers:
        logger.config(settings)
    return loggers


def _require(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise UserError(f"Setting 'train.{package}' needs the package {package}: pip install {package}.")
