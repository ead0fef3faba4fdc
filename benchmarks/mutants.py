"""Change the code in small ways, one at a time, and see whether the tests notice.

    python -m benchmarks.mutants                            # all files, about 20 changes each
    python -m benchmarks.mutants --only gate store --jobs 2
    python -m benchmarks.mutants --list --only gate         # the changes alone, without a test
    python -m benchmarks.mutants --again --budget-s 1000    # the survivors of the last time, with all tests

A mutant is one change to one function: a comparison, a constant, an operator, a condition, a statement that is left
out, a result that becomes None, two arguments that change places (``benchmarks.mutation``). It is killed if a test
fails, hangs or dies. One that survives is either equivalent, and explained in ``equivalent_mutants.toml``, or a gap in
the tests. Each runs in a fork of this process (``benchmarks.mutant_suite``); the checkout is never written. Results go
to a file of JSON lines, and a run that was interrupted goes on from there; delete the file to begin again.

The exit status is 1 if a mutant survived that is not explained.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutation
from benchmarks.harness import ROOT, say
from benchmarks.mutant_suite import Record, Source, Suite

EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
RESULTS = ROOT / "build" / "mutants.jsonl"


@dataclass(frozen=True)
class Target:
    """A file of the library.

    Attributes:
        file: pattern below the library's folder; exactly one file has it.
        tests: patterns below the folder of tests.
    """

    file: str
    tests: tuple[str, ...]


_LOOP = ("training/**/test_*.py",)
_STORED = ("checkpoints/**/test_*.py",)
_BLOCKS = ("data/splits/test_*.py", "data/chips/test_*.py")
TARGETS = {
    "trainer": Target("training/trainer.py", _LOOP),
    "objective": Target("training/objective.py", _LOOP),
    "resume": Target("training/resume.py", (*_LOOP, "checkpoints/test_savers.py")),
    "savers": Target("checkpoints/savers.py", _STORED),
    "store": Target("checkpoints/store.py", _STORED),
    "registry": Target("checkpoints/registry.py", _STORED),
    "promotion_log": Target("checkpoints/promotion_log.py", _STORED),
    "gate": Target("evaluation/gate.py", ("evaluation/**/test_*.py", "runs/test_records.py")),
    "splits": Target("data/splits/splits.py", _BLOCKS),
    "statistics": Target("data/chips/statistics.py", (*_BLOCKS, "data/scenes/test_reading.py")),
}


def sources(names: Iterable[str], *, limit: int, seed: int) -> list[Source]:
    """All files, with the changes that are drawn for those of ``names``."""
    found = []
    for name, target in TARGETS.items():
        (path,) = (ROOT / "ununennium").glob(target.file)
        text = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        drawn = mutation.sample(mutation.candidates(text, name), limit, seed) if name in names else []
        found.append(Source(name, path, module, text, drawn, test_files(target)))
    return found


def test_files(target: Target) -> frozenset[Path]:
    """The files whose tests are tried.

    Raises:
        FileNotFoundError: a pattern fits none.
    """
    found: set[Path] = set()
    for pattern in target.tests:
        files = set((ROOT / "tests").glob(pattern))
        if not files:
            raise FileNotFoundError(f"there is no test file {pattern}")
        found |= files
    return frozenset(found)


def explained() -> dict[str, dict[str, str]]:
    """Mutants that are equivalent, by their ids: target, line of code, change, and why."""
    entries = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]
    return {entry["id"]: entry for entry in entries}


def table(records: Iterable[Record]) -> str:
    """Markdown: how many were killed in each file, and every survivor."""
    why, known = explained(), list(records)
    lines = ["| file | mutants | killed | equivalent | survived |", "|---|---|---|---|---|"]
    survivors = []
    sums = [0, 0, 0, 0]
    for name in TARGETS:
        its = [record for record in known if record["target"] == name]
        alive = [record for record in its if record["status"] != "killed"]
        gaps = [record for record in alive if record["id"] not in why]
        counts = [len(its), len(its) - len(alive), len(alive) - len(gaps), len(gaps)]
        sums = [total + count for total, count in zip(sums, counts, strict=True)]
        survivors += gaps
        if its:
            lines.append(f"| {name} | {' | '.join(map(str, counts))} |")
    lines.append(f"| all | {' | '.join(map(str, sums))} |")
    for record in survivors:
        lines += [
            "",
            f"{record['status']}: {record['target']}:{record['line']} {record['function']} {record['id']}",
            record["text"],
        ]
        lines.append(f"    {record['change']}")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--only", nargs="+", choices=TARGETS, metavar="NAME", default=list(TARGETS), help=", ".join(TARGETS)
    )
    made.add_argument("--limit", type=int, default=20, help="mutants for each file (default: 20)")
    made.add_argument("--seed", type=int, default=0, help="draws them (default: 0)")
    made.add_argument("--jobs", type=int, default=1, help="forks at a time (default: 1)")
    made.add_argument("--budget-s", type=float, default=60.0, help="of tests for each mutant (default: 60)")
    made.add_argument("--out", type=Path, default=RESULTS, help="default: build/mutants.jsonl")
    made.add_argument("--again", action="store_true", help="try survivors once more")
    made.add_argument("--list", action="store_true", help="list the mutants, and end")
    return made


def main(words: list[str] | None = None) -> int:
    """Exit status: 0 if every survivor is explained."""
    options = parser().parse_args(words)
    chosen = sources(options.only, limit=options.limit, seed=options.seed)
    if options.list:
        for source in chosen:
            for mutant in source.mutants:
                say(f"{source.name}:{mutant.line} {mutant.kind} {mutant.function}")
                say(f"    {mutant.text}\n    {mutant.change}")
        return 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    records = _read(options.out)
    done = {name for name, record in records.items() if record["status"] == "killed" or not options.again}
    left = [replace(each, mutants=[mutant for mutant in each.mutants if mutant.id not in done]) for each in chosen]
    if any(source.mutants for source in left):
        _try(left, options)
        records = _read(options.out)
    wanted = [records[mutant.id] for source in chosen for mutant in source.mutants]
    say("\n" + table(wanted))
    return int(any(record["status"] != "killed" and record["id"] not in explained() for record in wanted))


def _read(file: Path) -> dict[str, Record]:
    """The newest record of each mutant."""
    if not file.is_file():
        return {}
    records: list[Any] = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {record["id"]: record for record in records}


def _try(left: list[Source], options: argparse.Namespace) -> None:
    """Run the tests against each mutant, and append the results to the file."""
    with tempfile.TemporaryDirectory() as folder, options.out.open("a", encoding="utf-8", buffering=1) as file:
        hook = "from benchmarks.mutation import install_from_environment\n\ninstall_from_environment()\n"
        Path(folder, "sitecustomize.py").write_text(hook, encoding="utf-8")
        os.environ["PYTHONPATH"] = os.pathsep.join((folder, str(ROOT), os.environ.get("PYTHONPATH", "")))
        suite = Suite(
            left,
            options.out.with_suffix(".tests.json"),
            at_once=options.jobs,
            budget_s=options.budget_s,
            keep=lambda record: print(json.dumps(record), file=file),
        )
        arguments = ["--rootdir", str(ROOT), "--capture=no", "-o", "addopts=--import-mode=importlib"]
        arguments += ["-p", "no:cacheprovider", "-p", "no:terminal"]
        tests = sorted({str(path) for source in left if source.mutants for path in source.tests})
        status = pytest.main([*arguments, *tests], plugins=[suite])
    if status:
        raise SystemExit(f"pytest ended with {status!r}")


if __name__ == "__main__":
    sys.exit(main())
