"""The numbers and pictures of a run for MLflow.

Without MLFLOW_TRACKING_URI they go into a database and a folder in the workdir.
"""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from etils import epath

EXPERIMENT = "anchordetr"
FOLDER = "mlflow"
ID_FILE = "run_id.txt"
"""A run that continues is the same run there."""
MOST_PARAMETERS = 100
"""MLflow takes no more at a time."""
LONGEST_PARAMETER = 500
"""Characters. Longer ones are cut."""


class MLflow:
    """Writes into a workdir's `mlflow`, or to the server that MLFLOW_TRACKING_URI names."""

    def __init__(self, workdir: epath.PathLike):
        from mlflow.tracking import MlflowClient

        folder = Path(workdir).resolve()
        place = folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        server = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = MlflowClient(tracking_uri=server or f"sqlite:///{place / 'mlflow.db'}")
        self._file = place / ID_FILE
        known = self._file.read_text().strip() if self._file.exists() else ""
        self._continues = bool(known)
        if known:
            self._run = known
            self._client.set_terminated(known, "RUNNING")  # It has ended before.
        else:
            artifacts = None if server else (place / "artifacts").as_uri()
            self._run = self._client.create_run(self._experiment(artifacts), run_name=folder.name).info.run_id
            self._file.write_text(self._run + "\n")

    def config(self, settings: Mapping[str, Any]) -> None:
        if self._continues:  # MLflow refuses another value of a parameter.
            return
        from mlflow.entities import Param

        parameters = [Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in settings.items()]
        for start in range(0, len(parameters), MOST_PARAMETERS):
            self._client.log_batch(self._run, params=parameters[start : start + MOST_PARAMETERS])

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._client.log_batch(self._run, metrics=[Metric(name, value, now, step) for name, value in values.items()])

    def images(self, step: int, files: Mapping[str, epath.PathLike]) -> None:
        del step  # It is in the name of the file.
        for name, file in files.items():
            self._client.log_artifact(self._run, str(file), name)

    def close(self, *, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")

    def _experiment(self, artifacts: str | None) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        known = self._client.get_experiment_by_name(name)
        return known.experiment_id if known else self._client.create_experiment(name, artifact_location=artifacts)
