"""The pytest plugin behind ``benchmarks.mutants``: tests that are collected once, and run in many forks.

First each test file runs in a fork of its own, to find which of its tests pass, how long each takes, and which
statements of the sources each runs, also in processes that it starts. Then every mutant gets a fork in which its
function is changed in memory, and the tests that run the changed statement are tried, quick ones first, until one
fails. That one has to fail once more alone, and to pass alone without the change; else the next ones are tried, as a
test that needs others before it, or fails on a busy machine, proves nothing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import mutation
from benchmarks.forks import Job, Tell, run
from benchmarks.harness import say
from benchmarks.mutation import Loaded, Mutant, Recorder

SERVER = "s3_server"
"""The fixture of the whole suite's S3 server: it is started once, and all forks have it."""

_OFFSET = 100_000  # more lines than a file has
_QUICK_S = 0.5
_PATIENCE_S = 30.0
_SLOWER = 5.0
"""A test hangs if it takes so many times what it took before, and so many seconds more."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """A file of the library, the changes to it that are tried, and the test files that they are tried with."""

    name: str
    path: Path
    module: str
    text: str
    mutants: list[Mutant]
    tests: frozenset[Path]


@dataclass
class Known:
    """A test, as it is without any change.

    Attributes:
        passed: whether it passed.
        seconds: how long it took; at least as long as the longest preparation of a test of its file, as it may be the
            first to need a fixture.
        hits: the statements that it ran, as numbers of ``Recorder``.
    """

    passed: bool
    seconds: float
    hits: set[int]


@dataclass
class Trial:
    """A mutant that is being tried.

    Attributes:
        source, mutant: the change.
        names: the tests that are left to try.
        number: of all tests that run the statement.
        tried: tests that ran.
        suspect: the test that failed.
        seconds: how long all took.
    """

    source: Source
    mutant: Mutant
    names: list[str]
    number: int
    tried: int = 0
    suspect: str = ""
    seconds: float = 0.0


class Suite:
    """Tries the mutants of ``sources`` in place of pytest's own loop over tests.

    Args:
        sources: what is changed.
        cache: file that keeps what is known of the tests for as long as they and the sources stay as they are.
        at_once: forks at a time.
        budget_s: seconds of tests for each mutant; slower ones that exceed it are not tried.
        keep: called with the record of each mutant.

    Attributes:
        known: the tests by their ids.
    """

    def __init__(
        self, sources: Sequence[Source], cache: Path, *, at_once: int, budget_s: float, keep: Callable[[Record], None]
    ) -> None:
        self.known: dict[str, Known] = {}
        self._sources = list(sources)
        self._cache = cache
        self._at_once = at_once
        self._budget_s = budget_s
        self._keep = keep
        self._items: dict[str, pytest.Item] = {}
        self._jobs: deque[Job] = deque()
        self._alone: set[str] = set()  # tests that pass alone
        self._failed = self._skipped = False
        self._recorder: Recorder | None = None
        self._at_setup: set[int] = set()
        self._setup_s = 0.0

    # ------------------------------------------------------------------ hooks of pytest

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._failed |= report.failed
        self._skipped |= report.skipped
        if report.when == "setup" and self._recorder is not None:
            self._at_setup = self._recorder.take()
            self._setup_s = report.duration

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            raise pytest.UsageError(f"{report.nodeid} cannot be collected: {report.longrepr}")

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._items = {item.nodeid: item for item in session.items}
        self._loaded = Loaded(str(source.path) for source in self._sources)
        with _shared(session, SERVER):
            self._run_all()
        return True

    def _run_all(self) -> None:
        self._learn()
        unused = sum(not known.passed for known in self.known.values())
        say(f"{len(self.known)} tests; {unused} of them are skipped, or fail without any change")
        trials = (self._trial(source, mutant) for source in self._sources for mutant in source.mutants)
        self._jobs.extend(Job(functools.partial(self._try, each), about=(self._tried, each)) for each in trials)
        for job in run(self._jobs, at_once=self._at_once):
            follow_up, trial = job.about
            follow_up(trial, job)

    # ------------------------------------------------------------------ the suite as it is

    def _learn(self) -> None:
        """Fill ``known``, from the cache or by running test files."""
        kept = json.loads(self._cache.read_text(encoding="utf-8")) if self._cache.is_file() else {}
        by_file: dict[str, list[str]] = defaultdict(list)
        for name in self._items:
            by_file[_file_of(name)].append(name)
        digests = {file: self._digest(names) for file, names in by_file.items()}
        kept = {file: entry for file, entry in kept.items() if digests.get(file) in (None, entry["digest"])}
        new = {file: names for file, names in by_file.items() if file not in kept}
        jobs = deque(Job(functools.partial(self._watch, names), about=file) for file, names in new.items())
        say(f"{sum(map(len, new.values()))} tests run once without any change, of {len(self._items)}")
        for job in run(jobs, at_once=self._at_once):
            if job.end != "done":
                say(f"{job.about} {job.end} without any change: what follows in it is left out: {job.messages[-1:]}")
            told = [message for message in job.messages if "test" in message]
            at_setup = set().union(*(each["at_setup"] for each in told))  # a fixture may be made for later tests, too
            setup_s = max((each["setup_s"] for each in told), default=0.0)
            tests = {
                each["test"]: (each["passed"], max(each["seconds"], setup_s), [*at_setup.union(each["hits"])])
                for each in told
            }
            kept[job.about] = {"digest": digests[job.about], "tests": tests}
            self._cache.write_text(json.dumps(kept), encoding="utf-8")
            say(f"{job.seconds:6.1f} s  {len(told)} tests  {job.about}")
        for file in by_file:
            for name, (passed, seconds, hits) in kept[file]["tests"].items():
                self.known[name] = Known(passed, seconds, set(hits))

    def _digest(self, names: list[str]) -> str:
        """Hash of a test file, what it shares, and the sources."""
        path = self._items[names[0]].path
        files = [path, *(each for folder in path.parents if (each := folder / "conftest.py").is_file())]
        parts = [file.read_bytes() for file in files]
        parts += [text.encode() for text in (*names, *(source.text for source in self._sources))]
        return hashlib.sha256(b"\0".join(parts)).hexdigest()

    def _watch(self, names: list[str], tell: Tell) -> None:
        self._recorder = self._instrument()
        self._run(names, tell)

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
        for item, following in itertools.pairwise([*(self._items[name] for name in names), None]):
            assert item is not None
            tell({"begun": item.nodeid, "patience_s": self._patience_s(item.nodeid)})
            self._failed = self._skipped = False
            started = time.monotonic()
            item.ihook.pytest_runtest_protocol(item=item, nextitem=following)
            told = {"test": item.nodeid, "passed": not (self._failed or self._skipped), "failed": self._failed}
            told["seconds"] = round(time.monotonic() - started, 3)
            if self._recorder is not None:
                told["setup_s"] = self._setup_s
                told["at_setup"] = sorted(self._at_setup)
                told["hits"] = sorted(self._at_setup | self._recorder.take())
            tell(told)
            if self._failed and until_failure:
                item.session._setupstate.teardown_exact(None)  # threads and processes that fixtures started
                return

    def _patience_s(self, name: str) -> float:
        if name not in self.known:
            return 600.0
        return _PATIENCE_S + _SLOWER * self.known[name].seconds

    # ------------------------------------------------------------------ one mutant

    def _trial(self, source: Source, mutant: Mutant) -> Trial:
        line = self._offset(source) + mutant.line
        names = self._ordered(
            name for name, known in self.known.items() if line in known.hits and self._items[name].path in source.tests
        )
        total = itertools.accumulate(self.known[name].seconds for name in names)
        within = [name for name, seconds in zip(names, total, strict=True) if seconds <= self._budget_s]
        return Trial(source, mutant, within or names[:1], len(names))

    def _change(self, trial: Trial) -> None:
        source, mutant = trial.source, trial.mutant
        code = mutation.mutated(source.text, str(source.path), mutant.number)
        if not self._loaded.put_into(code, only=(mutant.function, mutant.first_line)):
            raise LookupError(f"{source.name}: {mutant.function} is not loaded")
        os.environ[mutation.VARIABLE] = json.dumps({"module": source.module, "number": mutant.number})

    def _try(self, trial: Trial, tell: Tell) -> None:
        self._change(trial)
        tell({"applied": True})
        self._run([name for name in trial.names if self.known[name].passed], tell, until_failure=True)

    def _try_alone(self, trial: Trial, tell: Tell) -> None:
        self._change(trial)
        self._run([trial.suspect], tell)

    def _tried(self, trial: Trial, job: Job) -> None:
        """Let the test that failed fail once more; without one the mutant survived."""
        if {"applied": True} not in job.messages:
            raise pytest.UsageError(f"{trial.source.name}: the change could not be made: {trial.mutant}")
        trial.tried += sum("test" in message for message in job.messages)
        trial.seconds += job.seconds
        trial.suspect = _failed_in(job)
        if not trial.suspect:
            self._settle(trial, "survived" if trial.number else "not reached")
            return
        trial.names = trial.names[trial.names.index(trial.suspect) + 1 :]
        self._jobs.appendleft(Job(functools.partial(self._try_alone, trial), about=(self._tried_alone, trial)))

    def _tried_alone(self, trial: Trial, job: Job) -> None:
        trial.seconds += job.seconds
        if not _failed_in(job):
            self.known[trial.suspect].passed = False
            self._go_on(trial)
        elif trial.suspect in self._alone:
            self._settle(trial, "killed", by=trial.suspect, how=job.end)
        else:
            work = functools.partial(self._run, [trial.suspect])
            self._jobs.appendleft(Job(work, about=(functools.partial(self._compared, how=job.end), trial)))

    def _compared(self, trial: Trial, job: Job, *, how: str) -> None:
        """The mutant is killed if the test passes without it."""
        if _failed_in(job):
            self.known[trial.suspect].passed = False
            self._go_on(trial)
            return
        self._alone.add(trial.suspect)
        self._settle(trial, "killed", by=trial.suspect, how=how)

    def _go_on(self, trial: Trial) -> None:
        """Try the rest, and let nothing depend on an unsteady test from now on."""
        say(f"          unsteady: {trial.suspect}")
        self._jobs.appendleft(Job(functools.partial(self._try, trial), about=(self._tried, trial)))

    def _settle(self, trial: Trial, status: str, *, by: str | None = None, how: str = "") -> None:
        source, mutant = trial.source, trial.mutant
        record = {
            "target": source.name,
            "id": mutant.id,
            "status": status,
            "kind": mutant.kind,
            "function": mutant.function,
            "line": mutant.line,
            "text": mutant.text,
            "change": mutant.change,
            "by": by,
            "how": {"done": "failed"}.get(how, how),
            "tests": [trial.tried, trial.number],
            "seconds": round(trial.seconds, 1),
        }
        self._keep(record)
        say(f"{trial.seconds:6.1f} s  {status:11}  {source.name}:{mutant.line}  {mutant.change[:80]}")


def _failed_in(job: Job) -> str:
    """The test that failed, hung or died; empty if there is none."""
    failed = [message["test"] for message in job.messages if message.get("failed")]
    begun = [message["begun"] for message in job.messages if "begun" in message]
    return failed[0] if failed else begun[-1] if job.end != "done" and begun else ""


def _file_of(name: str) -> str:
    return name.partition("::")[0]


@contextlib.contextmanager
def _shared(session: pytest.Session, name: str) -> Iterator[None]:
    """Make the session's fixture ``name`` here, and let forks have its value, which they neither make nor end."""
    definitions = session._fixturemanager.getfixturedefs(name, session.items[0]) if session.items else None
    if not definitions:
        yield
        return
    definition: Any = definitions[-1]
    with tempfile.TemporaryDirectory(prefix="mut") as folder:
        making = definition.func(tmp_path_factory=SimpleNamespace(mktemp=lambda _: Path(folder)))
        try:
            value = next(making)
        except pytest.skip.Exception:  # forks find the same, and skip
            yield
            return
        definition.func = lambda **_: value
        try:
            yield
        finally:
            making.close()
