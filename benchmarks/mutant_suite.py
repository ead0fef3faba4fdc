"""The pytest plugin behind ``benchmarks.mutants``: tests that are collected once, and run in many forks.

A first pass finds which tests pass, how long each takes, and which statements of the sources each runs, also in
processes that it starts. Then every mutant gets a fork, in which its function is changed in memory and the tests that
run the changed statement are tried, quick ones first, until one fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutation
from benchmarks.forks import Job, Tell, run
from benchmarks.harness import say
from benchmarks.mutation import Loaded, Mutant, Recorder

SERVERS = {"s3", "s3_server", "own_store", "proxy"}
"""Fixtures, and values of parameters, of tests that are left out: each fork would start a server of its own."""

_OFFSET = 100_000  # more lines than a file has
_QUICK_S = 0.5
_PATIENCE_S = 30.0
_SLOWER = 10.0
"""A test of a mutant hangs if it takes so many times what it took before, and so many seconds more."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A file of the library, and the changes to it that are tried."""

    name: str
    path: Path
    module: str
    text: str
    mutants: list[Mutant]


@dataclass
class Known:
    """A test, as it is without any change.

    Attributes:
        passed: whether it passed both in the order of the files and with quick ones first.
        seconds: how long it took.
        hits: the statements that it ran, as numbers of ``Recorder``.
    """

    passed: bool = False
    seconds: float = 0.0
    hits: set[int] = field(default_factory=set)


class Suite:
    """Tries the mutants of ``sources`` in place of pytest's own loop over tests.

    Args:
        sources: what is changed.
        cache: file that keeps what is known of the tests for as long as they and the sources stay as they are.
        at_once: forks at a time.
        keep: called with the record of each mutant.

    Attributes:
        known: the tests by their ids.
    """

    def __init__(self, sources: Sequence[Source], cache: Path, *, at_once: int, keep: Callable[[Record], None]) -> None:
        self.known: dict[str, Known] = {}
        self._sources = list(sources)
        self._cache = cache
        self._at_once = at_once
        self._keep = keep
        self._items: dict[str, pytest.Item] = {}
        self._failed = self._skipped = False
        self._recorder: Recorder | None = None
        self._at_setup: set[int] = set()

    # ------------------------------------------------------------------ hooks of pytest

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not _needs_server(item)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed
        self._skipped |= report.skipped
        if report.when == "setup" and self._recorder is not None:
            self._at_setup = self._recorder.take()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            raise pytest.UsageError(f"{report.nodeid} cannot be collected: {report.longrepr}")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        self._loaded = Loaded(str(source.path) for source in self._sources)
        self._learn()
        unused = sum(not known.passed for known in self.known.values())
        say(f"{len(self.known)} tests; {unused} of them are skipped, or fail without any change")
        for job in run(self._jobs(), at_once=self._at_once):
            record = _record(job)
            self._keep(record)
            where = f"{record['target']}:{record['line']}"
            say(f"{job.seconds:6.1f} s  {record['status']:11}  {where}  {record['change'][:80]}")
        return True

    # ------------------------------------------------------------------ the suite as it is

    def _learn(self) -> None:
        """Fill ``known``, from the cache or by two runs of all tests."""
        digest = self._digest()
        kept = json.loads(self._cache.read_text(encoding="utf-8")) if self._cache.is_file() else {"digest": ""}
        if kept["digest"] == digest:
            self.known = {name: Known(passed, took, set(hits)) for name, (passed, took, hits) in kept["tests"].items()}
            return
        say(f"{len(self._items)} tests run in order, and once more with quick ones first")
        shared: dict[str, set[int]] = defaultdict(set)  # what fixtures of a file run belongs to all of its tests
        for told in self._run_all(list(self._items), is_first=True):
            self.known[told["test"]] = Known(told["passed"], told["seconds"], set(told["hits"]))
            shared[_file_of(told["test"])] |= set(told["at_setup"])
        for name, known in self.known.items():
            known.hits |= shared[_file_of(name)]
        for told in self._run_all(self._ordered(name for name in self.known if self.known[name].passed)):
            self.known[told["test"]].passed &= told["passed"]
        tests = {name: (known.passed, known.seconds, sorted(known.hits)) for name, known in self.known.items()}
        self._cache.write_text(json.dumps({"digest": digest, "tests": tests}), encoding="utf-8")

    def _digest(self) -> str:
        """Hash of the tests, what they share, and the sources."""
        files = {item.path for item in self._items.values()}
        files |= {
            conftest for file in files for folder in file.parents if (conftest := folder / "conftest.py").is_file()
        }
        parts = [path.read_bytes() for path in sorted(files)]
        parts += [text.encode() for text in (*self._items, *(source.text for source in self._sources))]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def _run_all(self, names: list[str], *, is_first: bool = False) -> Iterator[Record]:
        """What is told of each test, without any change but that statements tell that they run."""

        def work(tell: Tell) -> None:
            if is_first:
                self._recorder = self._instrument()
            self._run(names, tell)

        (job,) = run([Job(work, patience_s=600.0)], at_once=1)
        if job.end != "done":
            raise pytest.UsageError(f"the suite {job.end} without any change: {job.messages[-1:]}")
        return (message for message in job.messages if "test" in message)

    def _instrument(self) -> Recorder:
        """Let every statement of the sources tell that it runs, here and in processes that are started from here."""
        file = Path(tempfile.gettempdir()) / "hits"
        offsets = {source.module: self._offset(source) for source in self._sources}
        os.environ[mutation.VARIABLE] = json.dumps({"hits": str(file), "offsets": offsets})
        recorder = Recorder(file)
        for source in self._sources:
            self._loaded.put_into(mutation.instrumented(source.text, str(source.path), self._offset(source)))
        return recorder

    def _offset(self, source: Source) -> int:
        return (self._sources.index(source) + 1) * _OFFSET

    # ------------------------------------------------------------------ tests in a fork

    def _ordered(self, names: Iterable[str]) -> list[str]:
        """Quick tests first, those of a file together, so that its fixtures are made once."""
        groups: dict[tuple[bool, str], list[str]] = defaultdict(list)
        for name in names:
            groups[self.known[name].seconds >= _QUICK_S, _file_of(name)].append(name)
        for group in groups.values():
            group.sort(key=lambda name: self.known[name].seconds)

        def cost(key: tuple[bool, str]) -> tuple[bool, float, str]:
            return key[0], statistics.fmean(self.known[name].seconds for name in groups[key]), key[1]

        return [name for key in sorted(groups, key=cost) for name in groups[key]]

    def _run(self, names: list[str], tell: Tell, *, until_failure: bool = False) -> None:
        """Run tests and tell how each ended; only in a fork, as what they leave behind goes with it."""
        for item, following in pairwise([*(self._items[name] for name in names), None]):
            assert item is not None
            before = self.known.get(item.nodeid)
            patience_s = 600.0 if before is None else _PATIENCE_S + _SLOWER * before.seconds
            tell({"begun": item.nodeid, "patience_s": patience_s})
            self._failed = self._skipped = False
            started = time.monotonic()
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            told = {"test": item.nodeid, "passed": not (self._failed or self._skipped), "failed": self._failed}
            told["seconds"] = round(time.monotonic() - started, 3)
            if self._recorder is not None:
                told["at_setup"] = sorted(self._at_setup)
                told["hits"] = sorted(self._at_setup | self._recorder.take())
            tell(told)
            if self._failed and until_failure:
                item.session._setupstate.teardown_exact(None)  # threads and processes that fixtures started
                return

    def _jobs(self) -> Iterator[Job]:
        for source in self._sources:
            for mutant in source.mutants:
                yield self._job(source, mutant)

    def _job(self, source: Source, mutant: Mutant) -> Job:
        line = self._offset(source) + mutant.line
        names = self._ordered(name for name, known in self.known.items() if known.passed and line in known.hits)

        def work(tell: Tell) -> None:
            code = mutation.mutated(source.text, str(source.path), mutant.number)
            if self._loaded.put_into(code, only=(mutant.function, mutant.first_line)):
                tell({"applied": True})
                os.environ[mutation.VARIABLE] = json.dumps({"module": source.module, "number": mutant.number})
                self._run(names, tell, until_failure=True)

        return Job(work, about=(source, mutant, len(names)))


def _record(job: Job) -> Record:
    """How a mutant ended."""
    source, mutant, number = job.about
    if not any("applied" in message for message in job.messages):
        raise pytest.UsageError(f"{source.name}: the change could not be made: {mutant}")
    tests = [message for message in job.messages if "test" in message]
    by = next((message["test"] for message in tests if message["failed"]), None)
    if by is None and job.end != "done":
        by = f"{job.end}: {job.messages[-1].get('begun')}"
    return {
        "target": source.name,
        "id": mutant.id,
        "status": "killed" if by else "survived" if number else "not reached",
        "kind": mutant.kind,
        "function": mutant.function,
        "line": mutant.line,
        "text": mutant.text,
        "change": mutant.change,
        "by": by,
        "tests": [len(tests), number],
        "seconds": round(job.seconds, 1),
    }


def _file_of(name: str) -> str:
    return name.partition("::")[0]


def _needs_server(item: pytest.Item) -> bool:
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return bool(SERVERS & {*getattr(item, "fixturenames", ()), *(str(value) for value in parameters.values())})
