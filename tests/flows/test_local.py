"""``python -m flows.retrain``: a Prefect of its own, and what a person sees."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console as RichConsole

from flows.console import Console
from flows.local import QUIET
from ununennium.runs.records import RunSummary

ROOT = Path(__file__).parents[2]
SUMMARY: dict[str, Any] = {
    "run_id": "20260101T000000Z-demo-0000",
    "name": "demo",
    "stop_reason": "early_stopped",
    "epochs": 9,
    "best_epoch": 4,
    "holdout": {"IoU": {"mean": 0.7, "building": 0.45678}, "F1": {"mean": 0.8, "building": None}},
    "verdict": "not_promoted",
    "reason": "IoU.building 0.4568 [floor 0.5]",
    "champion": {"generation": 3, "url": "/storage/models/demo/versions/abc"},
    "places": {"checkpoints": "/storage/runs/x/checkpoints"},
}


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(
        RichConsole(file=stream, force_terminal=terminal, width=120, soft_wrap=True, highlight=False)
    ), stream


def test_the_closing_table_says_what_and_where() -> None:
    shown, stream = console(terminal=False)
    shown.closing(RunSummary.from_json(SUMMARY), "NotPromoted", 93.4)
    text = stream.getvalue()
    for expected in (
        "demo: NotPromoted after 93 s",
        "early_stopped",
        "best 4",
        "0.4568",
        "not promoted",
        "[floor 0.5]",
        "generation 3",
        "/storage/runs/x/checkpoints",
    ):
        assert expected in text
    assert "\x1b" not in text
    assert "\r" not in text


def test_lines_of_the_flow_are_shown_plain_and_prefects_own_are_not() -> None:
    shown, stream = console(terminal=False)
    shown.attach()
    root = logging.getLogger()

    def log(level: int, message: str, *, path: Path, name: str = "prefect.task_runs") -> None:
        root.handle(logging.LogRecord(name, level, str(path), 1, message, None, None))

    log(logging.INFO, "epoch   1  train_loss [0.5]", path=ROOT / "flows" / "retrain.py")
    log(logging.INFO, "Beginning flow run", path=Path("/site-packages/prefect/flow_engine.py"))
    log(logging.ERROR, "Encountered exception", path=Path("/site-packages/prefect/flow_engine.py"))
    log(logging.WARNING, "disk is slow\nmore", path=Path("/site-packages/other.py"), name="other")
    assert stream.getvalue() == "epoch   1  train_loss [0.5]\nwarning: disk is slow\n"


def test_a_terminal_has_a_line_that_lives() -> None:
    shown, stream = console(terminal=True)
    shown.attach()
    with shown.live():
        logging.getLogger("flows.heartbeat").debug("epoch 3 of 18, batch 4 of 16")
        shown.say("epoch   3 done")
    assert "epoch 3 of 18, batch 4 of 16" in stream.getvalue()
    assert "epoch   3 done" in stream.getvalue()


@pytest.mark.slow
def test_prefect_is_embedded_and_quiet(tmp_path: Path) -> None:
    """Neither a profile nor a server of the user's is used, and the home folder stays as it is."""
    code = (
        "import os; from flows.local import embed; server = embed(os.environ); server.wait_until_ready(); "
        "import prefect.settings as s; c = s.get_current_settings(); "
        "print(c.home, c.api.url == server.api_url, c.api.key, c.server.analytics_enabled, os.environ['DO_NOT_TRACK'])"
    )
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "PREFECT_API_URL": "https://api.example/api",
            "PREFECT_API_KEY": "secret",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stdout.split() == [str(tmp_path / ".ununennium" / "prefect"), "True", "None", "False", "1"]
    assert list(home.iterdir()) == []
    assert QUIET["DO_NOT_TRACK"] == "1"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config", "missing.yaml"], 2, "error: config = 'missing.yaml': cannot be read: No such file or directory"),
        (
            ["--config", str(ROOT / "examples/atlanta/run.yaml"), "--set", "trainer.epoch=3"],
            2,
            "did you mean 'epochs'?",
        ),
        ([], 2, "--config"),
    ],
)
def test_wrong_settings_are_one_line_before_any_server_starts(
    tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "flows.retrain", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".ununennium").exists()
