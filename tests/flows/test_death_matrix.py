"""Ways for a flow to die, with one rank and with two: cancelled in Prefect, asked to stop, killed.

No process is left after the grace time, the newest checkpoint is whole, and the run says why it stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.processes import LONG_S, assert_nothing_left, has_checkpoint, newest_checkpoint, wait_until
from tests.servers.prefect_server import worker_of
from ununennium.config import RunConfig
from ununennium.runs.directory import RunDirectory
from ununennium.runs.listing import list_runs

pytestmark = pytest.mark.slow
Tiny = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]
FOR_EVER = ("trainer.epochs=100000", "data.batch_size=2", "checkpoints.every_n_steps=3", "launcher.grace_s=60")
SIGTERM, SIGINT, SIGKILL = signal.SIGTERM, signal.SIGINT, signal.SIGKILL


def the_run(work: Path) -> RunDirectory | None:
    """The only run in ``work``, once it has begun."""
    found = list(work.glob("*/run.json")) if work.is_dir() else []
    return RunDirectory.open(found[0]) if found else None


def begun(work: Path) -> RunDirectory:
    """The run in ``work``, as soon as it has a checkpoint."""
    assert wait_until(lambda: (run := the_run(work)) is not None and has_checkpoint(run))
    run = the_run(work)
    assert run is not None
    return run


def heirs_of(home: Path) -> list[str]:
    """Processes of the embedded server, which is known by its home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"PREFECT_HOME={home}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_text())
    return found


@pytest.mark.parametrize(
    ("number", "whole_group", "status", "nproc"),
    [
        (SIGTERM, False, 143, 1),
        (SIGTERM, False, 143, 2),
        (SIGINT, True, 130, 1),
        (SIGKILL, False, -9, 1),
        (SIGKILL, False, -9, 2),
    ],
    ids=["docker stop", "docker stop, 2 ranks", "Ctrl-C", "out of memory", "out of memory, 2 ranks"],
)
def test_a_flow_that_is_ended_leaves_a_checkpoint_and_no_process(
    tiny: Tiny, tmp_path: Path, embedded: Path, number: signal.Signals, whole_group: bool, status: int, nproc: int
) -> None:
    """correctness 75, with an embedded server, which goes, too."""
    config = tmp_path / "run.yaml"
    ranks = f"launcher.nproc_per_node={nproc}"
    config.write_text(tiny(*FOR_EVER, ranks, f"storage={tmp_path / 'storage'}").to_yaml(), encoding="utf-8")
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.retrain", "--config", str(config)],
            cwd=tmp_path,
            env={**os.environ, "UNUNENNIUM_WORK": str(tmp_path / "work"), "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A shell that runs the suite in the background ignores Ctrl-C, and its children with it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            run = begun(tmp_path / "work")
            (os.killpg if whole_group else os.kill)(process.pid, number)
            assert process.wait(LONG_S) == status, log.read_text()
        finally:
            process.kill()
            process.wait()
    assert "Traceback" not in log.read_text()
    assert_nothing_left(run, 60)
    assert wait_until(lambda: not heirs_of(embedded), 60)
    assert newest_checkpoint(run)["world_size"] == nproc
    assert '"preempted"' in run.result_file.read_text()
    if number != SIGKILL:  # nobody was left to write it
        (summary,) = list_runs(str(tmp_path / "storage"))
        assert (summary.stop_reason, summary.verdict) == ("preempted", None)


@pytest.fixture
def worker(server: None, tmp_path: Path) -> Iterator[str]:
    """A work pool with a real worker of its own; gives the pool's name."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.settings import PREFECT_API_URL

    pool = f"pool-{os.getpid()}-{time.monotonic_ns()}"

    async def make() -> None:
        async with get_client() as client:
            await client.create_work_pool(WorkPoolCreate(name=pool, type="process"))

    asyncio.run(make())
    environment = {
        **os.environ,
        "PREFECT_API_URL": str(PREFECT_API_URL.value()),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "UNUNENNIUM_WORK": str(tmp_path / "work"),
        "PYTHONPATH": str(ROOT),
    }
    with worker_of(environment, ROOT, pool=pool, log=tmp_path / "worker.log"):
        yield pool


@pytest.mark.parametrize("nproc", [1, 2], ids=["1 rank", "2 ranks"])
def test_a_flow_run_that_is_cancelled_in_prefect_ends_every_process(
    tiny: Tiny, tmp_path: Path, worker: str, nproc: int
) -> None:
    """correctness 75: through a deployment, a worker and the server, as a person does it."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    config = tiny(*FOR_EVER, f"launcher.nproc_per_node={nproc}", f"storage={tmp_path / 'storage'}")

    async def start() -> Any:
        from flows.retrain import retrain

        async with get_client() as client:
            flow_id = await client.create_flow(retrain)
            deployment = await client.create_deployment(
                flow_id,
                f"cancelled-{nproc}",
                entrypoint="flows/retrain.py:retrain",
                path=str(ROOT),
                work_pool_name=worker,
                job_variables={"working_dir": str(ROOT), "stream_output": False},
            )
            run = await client.create_flow_run_from_deployment(
                deployment, parameters={"config": config.model_dump(mode="json")}
            )
            return run.id

    async def cancel(flow_run: Any) -> None:
        async with get_client() as client:
            await client.set_flow_run_state(flow_run, Cancelling(), force=False)

    async def state_of(flow_run: Any) -> str:
        async with get_client() as client:
            return str((await client.read_flow_run(flow_run)).state_name)

    flow_run = asyncio.run(start())
    run = begun(tmp_path / "work")
    asyncio.run(cancel(flow_run))
    assert wait_until(lambda: asyncio.run(state_of(flow_run)) == "Cancelled", 120)
    assert_nothing_left(run, 60)
    assert newest_checkpoint(run)["world_size"] == nproc
    assert '"preempted"' in run.result_file.read_text()
    (summary,) = list_runs(str(tmp_path / "storage"))
    assert (summary.stop_reason, summary.verdict) == ("preempted", None)
