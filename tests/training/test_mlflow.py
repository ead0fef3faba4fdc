"""The MLflow callback, against MLflow's own database."""

from __future__ import annotations

import logging
import socket
import sqlite3
import time
from pathlib import Path

import pytest

from ununennium.errors import ConfigError
from ununennium.training import StopReason
from ununennium.training.callbacks import Callback, MLflow, mlflow

pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
pytest.importorskip("alembic", reason="MLflow's database needs it")
pytestmark = pytest.mark.slow


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def runs(uri):
    """The runs of the experiment ``roads``, as MLflow's own client reads them."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("roads")
    return client, client.search_runs([experiment.experiment_id])


def values(uri, name):
    """Step to value."""
    client, (run,) = runs(uri)
    return {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, name)}


def test_mlflow_holds_the_history_and_the_settings(kit, uri):
    settings = {"optimizer": {"lr": 0.1, "kwargs": {}}, "name": "roads", "data": {"classes": ["a", "b"]}}
    tracker = MLflow(uri, "roads", "run-1", settings)
    trainer = kit.trainer(kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=[tracker], epochs=3)
    history = trainer.fit()
    _, (run,) = runs(uri)
    assert (run.info.run_name, run.info.status) == ("run-1", "FINISHED")
    assert run.data.params == {
        "optimizer.lr": "0.1",
        "optimizer.kwargs": "{}",
        "name": "roads",
        "data.classes": "['a', 'b']",
    }
    for name in ("train_loss", "val_loss", "lr"):
        assert values(uri, name) == dict(enumerate(history[name], 1))
    assert set(values(uri, "data_wait")) == {1, 2, 3}


def test_a_run_that_goes_on_is_the_same_run_there(kit, uri):
    class Stop(Callback):
        def on_epoch_end(self, trainer):
            trainer.request_stop(StopReason.PREEMPTED, "the machine is needed")

    first = kit.trainer(kit.model(), kit.loader(), callbacks=[MLflow(uri, "roads", "run-1"), Stop()], epochs=3)
    first.fit()
    _, (run,) = runs(uri)
    assert run.info.status == "KILLED"
    second = kit.trainer(kit.model(), kit.loader(), callbacks=[MLflow(uri, "roads", "run-1")], epochs=3)
    second.load_state_dict(first.state_dict())
    history = second.fit()
    _, (again,) = runs(uri)
    assert (again.info.run_id, again.info.status) == (run.info.run_id, "FINISHED")
    assert values(uri, "train_loss") == dict(enumerate(history["train_loss"], 1))


def test_a_training_that_fails_is_a_failed_run_there(kit, uri):
    class Fails(Callback):
        def on_epoch_end(self, trainer):
            raise ValueError("the disk is full")

    with pytest.raises(ValueError, match="disk"):
        kit.trainer(kit.model(), kit.loader(), callbacks=[MLflow(uri, "roads"), Fails()], epochs=3).fit()
    _, (run,) = runs(uri)
    assert run.info.status == "FAILED"


def test_what_is_not_taken_is_sent_when_mlflow_answers_again(kit, uri, tmp_path, monkeypatch, caplog):
    """The database is locked by somebody else in epochs 2 and 3."""
    monkeypatch.setattr(mlflow, "AGAIN_S", 0.0)

    class Locks(Callback):
        def on_epoch_start(self, trainer):
            if trainer.state.epoch == 1:
                self.other = sqlite3.connect(tmp_path / "mlflow.db", timeout=10, isolation_level=None)
                self.other.execute("BEGIN EXCLUSIVE")
            if trainer.state.epoch == 3:
                assert [tracker._unsent != [], tracker._is_away] == [True, True]
                self.other.close()
                tracker._not_before = 0.0

    tracker = MLflow(f"{uri}?timeout=0.2", "roads", "run-1")
    trainer = kit.trainer(kit.model(), kit.loader(), callbacks=[tracker, Locks()], epochs=5)
    with caplog.at_level(logging.WARNING, logger=mlflow.__name__):
        history = trainer.fit()
    assert values(uri, "train_loss") == dict(enumerate(history["train_loss"], 1))
    assert len([record for record in caplog.records if "does not take metrics" in record.getMessage()]) == 1


@pytest.fixture
def silent_server(monkeypatch):
    """Address of a server that takes connections, and never answers."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_does_not_answer_is_an_error_when_a_run_begins(kit, silent_server):
    trainer = kit.trainer(kit.model(), kit.loader(), callbacks=[MLflow(silent_server)], epochs=2)
    with pytest.raises(ConfigError, match=r"tracking\.mlflow .*cannot be used there"):
        trainer.fit()
    assert trainer.state.global_step == 0


def test_a_run_that_goes_on_does_so_without_the_server(kit, silent_server, caplog):
    first = kit.trainer(kit.model(), kit.loader(), epochs=1)
    first.fit()
    second = kit.trainer(kit.model(), kit.loader(), callbacks=[MLflow(silent_server)], epochs=20)
    second.load_state_dict(first.state_dict())
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, logger=mlflow.__name__):
        second.fit()
    assert second.state.epoch == 20
    assert time.monotonic() - started < 15  # it is not asked after each epoch
    assert len([record for record in caplog.records if "does not take metrics" in record.getMessage()]) == 1
