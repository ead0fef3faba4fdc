"""Metrics, settings and the end of a run to MLflow."""

from __future__ import annotations

import logging
import math
import os
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ununennium.errors import ConfigError
from ununennium.training.callbacks.callback import Callback
from ununennium.training.state import StopReason

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

logger = logging.getLogger(__name__)

TAG = "ununennium.run"
"""Tag by which a run that goes on finds what it has logged before."""
AGAIN_S = 60.0
"""Seconds, at least, from a call that failed to the next one."""
_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # of MLflow's own 120 s and 7 retries, training would stand still for long
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_LONGEST_VALUE = 500
_MOST_PARAMS = 100  # MLflow takes so many at a time
_MOST_METRICS = 1000
_STATUS = {StopReason.PREEMPTED: "KILLED", StopReason.FAILED: "FAILED"}


class MLflow(Callback):
    """Writes every metric of every epoch to MLflow, by rank 0; a run that is resumed goes on in the same MLflow run.

    MLflow that cannot be used when a run begins is an error. Later it is warned of, once for each time, and ends
    nothing: what it does not take is kept, and sent when it answers again. Epochs that a resume runs again are logged
    again; MLflow shows the newer values.

    Args:
        tracking_uri: MLflow's tracking URI, such as ``http://host:5000`` or ``sqlite:///mlflow.db``.
        experiment: name of the experiment, which is made if it is not there.
        run_name: name of the run, by which one that goes on finds itself; MLflow's own choice if not given.
        params: settings to log, nested ones as dotted paths.

    Raises:
        ConfigError: in ``fit``: the package is missing, or MLflow cannot be used.
    """

    def __init__(
        self,
        tracking_uri: str,
        experiment: str = "ununennium",
        run_name: str | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        self.tracking_uri = tracking_uri
        self.experiment = experiment
        self.run_name = run_name
        self.params = dict(params or {})
        self._client: Any = None
        self._run_id: str | None = None
        self._unsent: list[Any] = []
        self._is_away = False
        self._not_before = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        if not trainer.is_main_process:
            return
        for name, value in _DEFAULTS.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ConfigError("tracking.mlflow", self.tracking_uri, "needs `pip install mlflow-skinny`") from error
        try:
            self._client = MlflowClient(tracking_uri=self.tracking_uri)
            self._run_id = self._begin()
        except Exception as error:  # of MLflow, of its HTTP client, of its database
            if self._client is None or trainer.state.global_step == 0:
                said = " ".join(str(error).split())[:300]
                remedy = f"MLflow cannot be used there: {said}"
                raise ConfigError("tracking.mlflow", self.tracking_uri, remedy) from error
            self._warn(error)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric

        values = {**trainer.metrics, **trainer.timing, "skipped_steps": float(trainer.state.skipped_steps)}
        now = _milliseconds()
        self._unsent += [
            Metric(metric_name(name), float(value), now, trainer.state.epoch)
            for name, value in values.items()
            if math.isfinite(value)
        ]
        if time.monotonic() >= self._not_before:
            self._send()

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self._end("FAILED")

    def on_fit_end(self, trainer: Trainer) -> None:
        reason = trainer.state.stop_reason
        self._end(_STATUS.get(reason, "FINISHED") if reason else "FINISHED")

    def _begin(self) -> str:
        """The MLflow run of this name, taken up again, or a new one with the settings."""
        from mlflow.entities import Param

        found = self._client.get_experiment_by_name(self.experiment)
        number = self._client.create_experiment(self.experiment) if found is None else found.experiment_id
        tags = {}
        if self.run_name is not None:
            tags[TAG] = self.run_name.replace("'", "")
            earlier = self._client.search_runs([number], f"tags.`{TAG}` = '{tags[TAG]}'", max_results=1)
            if earlier:
                run_id = str(earlier[0].info.run_id)
                self._client.update_run(run_id, status="RUNNING")
                return run_id
        run_id = str(self._client.create_run(number, tags=tags, run_name=self.run_name).info.run_id)
        params = [Param(metric_name(key), str(value)[:_LONGEST_VALUE]) for key, value in flat(self.params).items()]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(run_id, params=params[start : start + _MOST_PARAMS])
        return run_id

    def _send(self, status: str | None = None) -> None:
        """Send what has not been sent, and how the run ended."""
        asked = time.monotonic()
        try:
            if self._run_id is None:
                self._run_id = self._begin()
            while self._unsent:
                self._client.log_batch(self._run_id, metrics=self._unsent[:_MOST_METRICS])
                del self._unsent[:_MOST_METRICS]
            if status is not None:
                self._client.set_terminated(self._run_id, status=status)
            self._is_away = False
        except Exception as error:
            self._not_before = time.monotonic() + max(AGAIN_S, 10 * (time.monotonic() - asked))
            self._warn(error)

    def _end(self, status: str) -> None:
        if self._client is not None:
            self._send(status)
            self._client = None

    def _warn(self, error: Exception) -> None:
        if not self._is_away:
            said = " ".join(str(error).split())[:300]
            logger.warning("MLflow at %s does not take metrics; training goes on: %s", self.tracking_uri, said)
        self._is_away = True


def metric_name(name: str) -> str:
    """``name`` with ``_`` for what MLflow takes in no name."""
    return _NOT_IN_NAMES.sub("_", name)


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted paths."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _milliseconds() -> int:
    return int(time.time() * 1000)
