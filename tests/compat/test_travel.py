"""Files that a run travels through: from its configuration to the worker, and from the gate to a promotion.

A file counts if one of its functions is handed the run (``RunDirectory``) or its configuration (``RunConfig``), as an
argument other than ``self``. With ``sections`` it counts if it is handed a section of the configuration, too: that is
how far a single setting can travel. In 2928e86 the run reached 11 files of the library on the way to the worker, and
with sections 25, counting ``self``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.config.section import Section
from ununennium.pipeline.sessions import open_run
from ununennium.runs.directory import RunDirectory
from ununennium.workers.train import build_trainer

ROOT = Path(__file__).parents[2]
STARTS_PROCESSES = f"{ROOT}/ununennium/processes/supervise.py"
FLOW = {"flows/retrain.py"}
"""Calls what is counted here, in a process with a Prefect server."""


class ProcessStartsError(Exception):
    """A process is about to be started, which is as far as is looked."""


def handed(work: Callable[[], Any], kinds: tuple[type, ...], *, until_a_process_starts: bool = False) -> set[str]:
    """Files of the project with a function that is handed an instance of ``kinds`` while ``work`` is done."""
    files: set[str] = set()

    def look(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(f"{ROOT}/"):
            return
        if until_a_process_starts and code.co_filename == STARTS_PROCESSES:
            raise ProcessStartsError
        names = [name for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if name != "self"]
        if any(isinstance(frame.f_locals.get(name), kinds) for name in names):
            files.add(code.co_filename.removeprefix(f"{ROOT}/"))

    sys.setprofile(look)
    try:
        work()
    except ProcessStartsError:
        assert until_a_process_starts
    else:
        assert not until_a_process_starts
    finally:
        sys.setprofile(None)
    return files - {Path(__file__).relative_to(ROOT).as_posix()}


@pytest.mark.parametrize(
    ("kinds", "bound"), [((RunDirectory, RunConfig), 12), ((RunDirectory, Section), 26)], ids=["run", "sections"]
)
def test_a_run_reaches_the_worker_through_few_files(
    stored: Path, kinds: tuple[type, ...], bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(stored / "cache"))
    config = RunConfig.load("roads.yaml", ["name=travelled"])
    runs: list[RunDirectory] = []

    def in_the_flow() -> None:
        with open_run(config, on_line=lambda line: None) as run:
            runs.append(run)
            pipeline.prepare(run)
            pipeline.train(run, on_line=lambda line: None)

    flow = handed(in_the_flow, kinds, until_a_process_starts=True)
    worker = handed(lambda: build_trainer(runs[0]), kinds)
    files = FLOW | flow | worker
    assert {"ununennium/launch/training.py", "ununennium/workers/build.py"} <= files
    assert len(files) <= bound, sorted(files)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kinds", "bound"), [((RunDirectory, RunConfig), 8), ((RunDirectory, Section), 8)], ids=["run", "sections"]
)
def test_a_run_reaches_its_promotion_through_few_files(stored: Path, kinds: tuple[type, ...], bound: int) -> None:
    """The stored run has been promoted; promoting it again finds the record that is there."""
    (run,) = [RunDirectory.fetch("store", folder.name) for folder in stored.glob("store/runs/*-heights-????")]
    files = FLOW | handed(lambda: pipeline.promote(run, actor="me"), kinds)
    assert {"ununennium/pipeline/promotion.py", "ununennium/report/card.py"} <= files
    assert len(files) <= bound, sorted(files)
