"""``runs --watch``: what is under way, on a terminal and in a pipe."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.launch.conftest import TINY
from tests.processes import LONG_S, wait_until
from ununennium.files import write_json
from ununennium.pipeline.active_runs import local_runs, unfinished_runs
from ununennium.processes.supervise import start_time
from ununennium.storage.open import resolve_storage

WATCH = [sys.executable, "-m", "ununennium", "runs", "--watch"]


@contextlib.contextmanager
def started(command: list[str], folder: Path, stdout: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command of the project's, which Ctrl-C reaches."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("UNUNENNIUM_")}
    process = subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "200", "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def shown_on(terminal: int, wanted: str) -> str:
    """What a terminal got, up to what is waited for."""
    text, deadline = "", time.monotonic() + LONG_S
    while wanted not in text and time.monotonic() < deadline:
        if select.select([terminal], [], [], 1.0)[0]:
            text += os.read(terminal, 65_536).decode()
    return text


def interrupted(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGINT)
    return process.wait(30)


@pytest.mark.slow
def test_a_training_is_followed_on_a_terminal_and_in_a_pipe(atlanta: Path, tmp_path: Path) -> None:
    changes = [part for change in [*TINY, "trainer.epochs=150"] for part in ("--set", change)]
    train = [sys.executable, "-m", "ununennium", "train", str(atlanta.parent / "run.yaml"), *changes]
    lines_file = tmp_path / "lines.txt"
    outer, inner = pty.openpty()
    with (
        lines_file.open("wb") as lines,
        started(WATCH, tmp_path, lines) as piped,
        started(WATCH, tmp_path, inner) as live,
        started(train, tmp_path, subprocess.DEVNULL) as training,
    ):
        screen = shown_on(outer, "val_loss")
        assert training.poll() is None, "it was seen too late to be seen while it trained"
        assert interrupted(live) == 0
        assert training.wait(LONG_S) == 0
        assert wait_until(lambda: b"training ended" in lines_file.read_bytes())
        assert interrupted(piped) == 0
    os.close(inner)
    os.close(outer)
    (run_id,) = [folder.name for folder in (tmp_path / "storage" / "runs").iterdir()]
    assert run_id in screen
    assert re.search(r"\d+/150 +\d/2 +\d+% +[\d.]+ +[\d.]+ (s|min)", screen)
    assert "\x1b[" in screen  # it is drawn again in its place

    text = lines_file.read_text()
    assert "\x1b" not in text
    first, *told = text.splitlines()
    assert first == "watching storage; Ctrl-C ends it"
    assert all(line.startswith(f"{run_id}  ") for line in told)
    trains = [line for line in told if "  trains; epoch " in line]
    assert len(trains) > 2
    assert len(set(trains)) == len(trains)
    assert re.search(r"of 150, batch \d of 2; .+ batches/s, at most .+ left; epoch \d+: train_loss 0.\d+", trains[-1])
    assert told[-1] == f"{run_id}  training ended: completed after 150 epochs"


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``record("roads", host="far")`` leaves in the storage what a run that has begun does."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))

    def write(name: str, *, host: str, work: bool = False, **summary: Any) -> str:
        run_id = f"20260101T00000{len(list(tmp_path.glob('storage/runs/*')))}Z-{name}-0000"
        storage = str(tmp_path / "storage")
        content = {"run_id": run_id, "name": name, "storage": storage, "host": "elsewhere"}
        content |= {"resumed": [{"host": host}], "config": {}}
        for folder in [tmp_path / "storage" / "runs", *[tmp_path / "work"] * work]:
            write_json(folder / run_id / "run.json", content)
        ended = {"run_id": run_id, "stop_reason": None, "verdict": None, **summary}
        write_json(tmp_path / "storage" / "runs" / run_id / "summary.json", ended)
        return run_id

    return write


def beat(folder: Path, age_s: float) -> None:
    told = time.time() - age_s
    where = {"epoch": 1, "epochs": 4, "batches_done": 5, "batches": 10}
    write_json(folder / "heartbeat.json", {"time": told, **where, "started": told - 30, "started_at": 0})


def test_runs_of_other_machines_are_shown_as_the_storage_knows_them(record: Callable[..., str]) -> None:
    far = record("roads", host="far")
    here = record("roads", host=platform.node())
    record("roads", host="far", stop_reason="completed")
    other = record("crops", host="far")
    storage = resolve_storage("storage")
    assert [(run.run_id, run.state) for run in unfinished_runs(storage)] == [
        (other, "on far (the storage will tell its end)"),
        (here, "does not train at the moment, or was lost"),
        (far, "on far (the storage will tell its end)"),
    ]
    assert [run.run_id for run in unfinished_runs(storage, "crops")] == [other]


def test_a_heartbeat_without_a_process_is_no_training(record: Callable[..., str], tmp_path: Path) -> None:
    run_id = record("roads", host=platform.node(), work=True)
    folder, storage = tmp_path / "work" / run_id, resolve_storage("storage")
    beat(folder, 1.0)
    assert local_runs(storage) == []
    (folder / "pids").mkdir()
    (folder / "pids" / "rank0").write_text(f"{os.getpid()} {start_time(os.getpid())} abc")
    (run,) = local_runs(storage)
    assert (run.run_id, run.state) == (run_id, "trains")
    assert run.progress is not None
    assert (run.progress.epoch, run.progress.epochs, run.progress.share) == (2, 4, 15 / 40)
    assert run.progress.speed == pytest.approx(0.5)
    assert run.progress.left_s == pytest.approx(50)
    assert local_runs(storage, "crops") == []
    assert local_runs(resolve_storage("another")) == []
    beat(folder, 45.0)
    assert local_runs(storage)[0].state == "silent for 45.0 s"


def test_a_work_folder_that_machines_share_shows_the_others_as_long_as_they_beat(
    record: Callable[..., str], tmp_path: Path
) -> None:
    run_id = record("roads", host="far", work=True)
    beat(tmp_path / "work" / run_id, 1.0)
    assert [run.run_id for run in local_runs(resolve_storage("storage"))] == [run_id]
    beat(tmp_path / "work" / run_id, 45.0)
    assert local_runs(resolve_storage("storage")) == []


def test_watching_is_for_people(cli: Callable[..., Any]) -> None:
    answer = cli("runs", "--watch", "--json")
    assert answer.code == 2
    assert "without --json" in answer.err
    assert json.loads(cli("runs", "--json").out) == []
