"""What the flow costs beside what it orchestrates: wall time of ``retrain`` without that of its subprocesses.

Usage: python -m benchmarks.flow_overhead [--rounds 5] [--json FILE]

The same small run three ways, interleaved: by the command line without Prefect (``ununennium train`` and ``evaluate``),
by the flow with the server that it starts itself, and by the flow on a server that runs. What is counted is everything
but torchrun and the evaluation: Python's start, imports, the server's start, reading and indexing the scene, Prefect.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "model.kwargs={base_channels: 4, depth: 2}", "data.chip_size=64", "data.chips_per_epoch=8", "data.batch_size=4",
    "trainer.epochs=1", "trainer.mixed_precision=false", "early_stopping=null", "gate.floors={}", "inference.tta=false",
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
from ununennium.starting import started
with started(RunConfig.load(sys.argv[1], sys.argv[2:])) as run:
    pipeline.prepare(run)
    pipeline.train(run).require_usable()
    pipeline.judge(run, actor="benchmark")
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    from flows.local import QUIET
    from flows.server import EmbeddedServer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clean = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        clean |= {"PYTHONPATH": str(ROOT), "UNUNENNIUM_WORK": str(folder / "work")}
        (folder / "prefect").mkdir()
        os.environ.update({**QUIET, "PREFECT_HOME": str(folder / "prefect")})
        server = EmbeddedServer(folder / "prefect")
        server.wait_until_ready()
        running = {**clean, **QUIET, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": server.api_url}
        run = str(ROOT / "examples" / "atlanta" / "run.yaml")
        changed = [word for setting in SETTINGS for word in ("--set", setting)]
        contenders = {
            "without Prefect": (BARE, [run, *SETTINGS], clean),
            "flow, its own server": (FLOW, ["--config", run, *changed], clean),
            "flow, a running server": (FLOW, ["--config", run, *changed, "--server"], running),
        }
        seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
        for number in range(options.rounds + 1):
            for contender, (code, arguments, environment) in contenders.items():
                found = overhead(code, arguments, environment, folder)
                if number:  # the first round indexes the scene, and makes Prefect's database
                    seconds[contender].append(found)
        server.stop()
    figures = {
        contender: {
            "median_s": round(statistics.median(found), 2),
            "quartiles_s": [round(quartile, 2) for quartile in statistics.quantiles(found, n=4)],
        }
        for contender, found in seconds.items()
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    for contender, found in figures.items():
        print(f"{contender:<24} {found['median_s']:.2f} s beside its subprocesses (quartiles {found['quartiles_s']})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
