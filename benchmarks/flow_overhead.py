"""What the flow costs beside what it orchestrates: wall time of ``retrain`` without that of its subprocesses.

The same small run three ways, in turns: by the library without Prefect (prepare, train, evaluate, promote), by the
flow with the server that it starts itself, and by the flow on a server that runs. What is counted is everything but
torchrun and the evaluation: Python's start, imports, the server's start, reading and indexing the scene, Prefect.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import Effort, Result, aim, spread, table, take_turns

OWN, RUNNING, WITHOUT = "flow, its own server", "flow, a running server", "without Prefect"
ROOT = Path(__file__).parents[1]
ROUNDS: dict[Effort, int] = {"quick": 1, "usual": 2, "full": 5}
WARM_UPS: dict[Effort, int] = {"quick": 0, "usual": 1, "full": 1}
SETTINGS = (
    "model.kwargs={base_channels: 4, depth: 2}", "data.chip_size=64", "data.chips_per_epoch=8", "data.batch_size=4",
    "trainer.epochs=1", "trainer.mixed_precision=false", "early_stopping=null", "gate.floors={}", "gate.first=any",
    "inference.tta=false",
)  # fmt: skip
TIMED = """
import sys, time
from ununennium.training import launch
supervise, spent = launch.supervise, []
def timed(*arguments, **options):
    outcome = supervise(*arguments, **options)
    spent.append(outcome.duration_s)
    return outcome
launch.supervise = timed
"""
FLOW = f"""{TIMED}
from flows.local import main
status = main(sys.argv[1:])
print("SPENT", sum(spent))
sys.exit(status)
"""
BARE = f"""{TIMED}
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.pipeline.sessions import started
with started(RunConfig.load(sys.argv[1], sys.argv[2:])) as run:
    pipeline.prepare(run)
    pipeline.train(run).require_usable()
    pipeline.evaluate_and_promote(run, actor="benchmark")
print("SPENT", sum(spent))
"""


def overhead(code: str, arguments: list[str], environment: dict[str, str], folder: Path) -> float:
    """Seconds of the process that were not spent in its subprocesses."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    wall = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    (spent,) = (float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("SPENT"))
    return wall - spent


def measure(effort: Effort) -> Result:
    """Seconds beside the subprocesses, three ways; the first round indexes the scene and makes Prefect's database."""
    from flows.local import QUIET
    from flows.server import EmbeddedServer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        clean |= {"PYTHONPATH": str(ROOT), "UNUNENNIUM_WORK": str(folder / "work")}
        (folder / "prefect").mkdir()
        os.environ.update({**QUIET, "PREFECT_HOME": str(folder / "prefect")})
        server = EmbeddedServer(folder / "prefect")
        try:
            server.wait_until_ready()
            running = {**clean, **QUIET, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": server.api_url}
            run = str(ROOT / "examples" / "atlanta" / "run.yaml")
            changed = [word for setting in SETTINGS for word in ("--set", setting)]
            contenders = {
                WITHOUT: lambda: overhead(BARE, [run, *SETTINGS], clean, folder),
                OWN: lambda: overhead(FLOW, ["--config", run, *changed], clean, folder),
                RUNNING: lambda: overhead(FLOW, ["--config", run, *changed, "--server"], running, folder),
            }
            seconds, failed = take_turns(contenders, ROUNDS[effort], warm_up=WARM_UPS[effort], label="a small run")
        finally:
            server.stop()
    figures = {contender: spread(values) for contender, values in seconds.items()}
    lines = {contender: {"seconds beside its subprocesses": figure} for contender, figure in figures.items()}
    median = {contender: figure["median"] for contender, figure in figures.items()}
    return {
        "tables": [table("one epoch of 8 chips, then the evaluation and the gate", dict(lines), failed)],
        "aims": [
            aim(f"seconds, {OWN}", "<= 6", median.get(OWN), lambda value: value <= 6.0),
            aim(f"seconds, {RUNNING}", "<= 3", median.get(RUNNING), lambda value: value <= 3.0),
        ],
        "limit": "the same run without Prefect: Python's start, imports, and the scene's index",
    }
