"""What Prefect's UI shows while a run trains, and that nothing of it can hinder the training."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.servers.prefect_server import LONG_S
from ununennium.config import RunConfig
from ununennium.files import write_json
from ununennium.runs.directory import RunDirectory

Tiny = Callable[..., RunConfig]


def artifacts(key: str) -> list[dict[str, Any]]:
    """Every artifact of that key, as the server has them."""
    from prefect.client.orchestration import get_client

    async def read() -> list[dict[str, Any]]:
        async with get_client() as client:
            answer = await client._client.post("/artifacts/filter", json={"artifacts": {"key": {"any_": [key]}}})
            return list(answer.json())

    return asyncio.run(read())


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_progress_grows_and_the_curve_is_there_while_the_run_trains(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.artifacts import Artifact

    from flows import live
    from flows.retrain import retrain

    monkeypatch.setattr(live, "PROGRESS_S", 1.0)
    monkeypatch.setattr(live, "PAGE_S", 1.0)
    config = tiny("name=seen_live", "trainer.epochs=40", "data.chips_per_epoch=32")
    seen: list[float] = []
    page = None
    with ThreadPoolExecutor(1) as thread:
        run = thread.submit(retrain, config, return_state=True)
        deadline = time.monotonic() + LONG_S
        while not run.done() and time.monotonic() < deadline:
            for found in artifacts("seen-live-progress"):
                if found["data"] < 100 and found["data"] not in seen:
                    seen.append(found["data"])
                    page = Artifact.get("seen-live-live") or page
            time.sleep(0.2)
        state = run.result(timeout=LONG_S)
    assert state.name == "Completed", state.message
    summary = state.result()
    assert len(seen) >= 3
    assert seen == sorted(seen)
    assert page is not None
    assert page.description.startswith(f"{summary['run_id']}, after ")
    assert "![Loss curve](data:image/png;base64," in page.data
    assert "![Sample prediction](data:image/png;base64," in page.data
    assert "val_loss" in page.data

    (progress,) = artifacts("seen-live-progress")
    assert progress["data"] == 100
    assert (
        f"{summary['run_id']}: all epochs done after 40 of 40 epochs; epoch 40: train_loss" in progress["description"]
    )
    assert "val_IoU" in progress["description"]
    assert progress["flow_run_id"] == str(state.state_details.flow_run_id)
    assert progress["task_run_id"]
    (last,) = artifacts("seen-live-live")
    assert last["description"].endswith("after 40 epochs")
    assert Artifact.get("seen-live-live").data == last["data"]


@pytest.fixture
def run_of(tiny: Tiny) -> RunDirectory:
    """A run whose heartbeat a test may write."""
    return RunDirectory.create(tiny())


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A server of Prefect's that takes connections, and never answers."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(100)
        server.settimeout(0.2)
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.getsockname()[1]}/api"}):
            yield server


def connections(server: socket.socket) -> int:
    """How many came since this was last asked."""
    count = 0
    with contextlib.suppress(TimeoutError):
        while True:
            server.accept()[0].close()
            count += 1
    return count


def beat(run: RunDirectory, batches_done: int) -> None:
    now = time.time()
    counts = {"epoch": 0, "epochs": 2, "batches_done": batches_done, "batches": 10, "global_step": batches_done}
    write_json(run.heartbeat_file, {"time": now, **counts, "started": now - 60, "started_at": 0})


def test_a_server_that_never_answers_costs_one_warning_and_a_bounded_time(
    run_of: RunDirectory, silent: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from flows import live

    for name, seconds in (("LOOK_S", 0.1), ("PROGRESS_S", 0.1), ("REQUEST_S", 0.2), ("END_S", 1.0)):
        monkeypatch.setattr(live, name, seconds)
    with live.shown(run_of, logging.getLogger("flows.test")):
        for done in range(1, 6):
            beat(run_of, done)
            time.sleep(2.0)
        ended = time.monotonic()
    assert time.monotonic() - ended < live.END_S + 0.5
    assert connections(silent) > 2
    (warning,) = [record for record in caplog.records if record.name == "flows.test"]
    assert "which goes on" in warning.getMessage()


def test_a_terminal_hears_of_progress_even_if_the_server_never_answers(
    run_of: RunDirectory, silent: socket.socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from flows import live

    caplog.set_level(logging.DEBUG, "flows.heartbeat")
    for name, seconds in (("LOOK_S", 0.1), ("REQUEST_S", 0.2), ("END_S", 1.0)):
        monkeypatch.setattr(live, name, seconds)
    with live.shown(run_of, logging.getLogger("flows.test")):
        beat(run_of, 4)
        time.sleep(0.5)
    told = [record.getMessage() for record in caplog.records if record.name == "flows.heartbeat"]
    assert told
    assert set(told) == {"epoch 1 of 2, batch 4 of 10; 0.0667 batches/s, at most 4 min 00 s left"}


@pytest.mark.usefixtures("silent")
def test_a_cancellation_is_not_kept_waiting(run_of: RunDirectory) -> None:
    from flows import live

    def cancelled() -> None:
        with live.shown(run_of, logging.getLogger("flows.test")):
            beat(run_of, 1)
            time.sleep(2 * live.LOOK_S)
            times.append(time.monotonic())
            raise KeyboardInterrupt

    times: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        cancelled()
    assert time.monotonic() - times[0] < live.LOOK_S + 1


def test_what_an_earlier_try_left_is_not_shown(
    run_of: RunDirectory, silent: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import live

    monkeypatch.setattr(live, "LOOK_S", 0.1)
    beat(run_of, 5)
    with live.shown(run_of, logging.getLogger("flows.test")):
        time.sleep(0.5)
    assert connections(silent) == 0
