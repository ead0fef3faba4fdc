"""What every measurement shares: contenders that take turns, medians with their spread, and one form of result.

A row of the comparison is a module whose function ``measure(effort)`` returns a ``Result``. Contenders take turns, so
that a change of the machine's speed meets all of them, in an order that is drawn anew for each round; the first
round warms up and is not counted. A contender that fails is left out from then on, and its line says why.

Nothing here needs more than comes with torch, so that the measurement on a GPU machine can use it, too.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NotRequired, get_args  # pydantic, which checks them, wants these before Python 3.12

from typing_extensions import TypedDict

ROOT = Path(__file__).parents[1]
Effort = Literal["quick", "usual", "full"]
"""How long a comparison may take: does it all work, figures to look at, figures to quote."""
EFFORTS: tuple[Effort, ...] = get_args(Effort)


class Spread(TypedDict):
    """A figure measured several times: median, first and third quartile, and how often."""

    median: float
    quartiles: list[float]
    rounds: int


Figure = Spread | float | int | str | bool | None
Figures = dict[str, Figure]
"""Heading of the column, with the unit -> figure. ``{"failed": reason}`` of a contender that did not make it."""


class Table(TypedDict):
    """Contenders of one comparison, and what was measured of each."""

    title: str
    contenders: dict[str, Figures]


class Aim(TypedDict):
    """What was to be reached: ``found`` against ``aim``; ``met`` is None where it could not be measured."""

    what: str
    aim: str
    found: float | str | None
    met: bool | None


class Result(TypedDict):
    """What a row gives. ``limit`` says what bounds the figures physically, with the figure that shows it."""

    tables: list[Table]
    aims: list[Aim]
    limit: NotRequired[str]
    notes: NotRequired[list[str]]


class Measured(TypedDict):
    """A row as it is kept: its result, or why there is none."""

    name: str
    status: str  # "measured", "failed"
    reason: str
    effort: Effort
    commit: str
    hardware: NotRequired[dict[str, str | float | int]]
    started: str
    seconds: float
    load: list[float]  # of the machine over the last minute, before and after
    result: Result | None


class Run(TypedDict):
    """The file of one run."""

    started: str
    effort: Effort
    commit: str
    hardware: dict[str, str | float | int]
    versions: dict[str, str]
    rows: list[Measured]


# ---------------------------------------------------------------------- measuring


def say(line: str) -> None:
    """A line of progress, at once."""
    print(line, flush=True)


def spread(values: Iterable[float], digits: int = 3) -> Spread:
    """Median and quartiles, to so many significant digits."""
    found = list(values)
    quartiles = statistics.quantiles(found, n=4) if len(found) > 1 else [found[0]] * 3
    rounded = [significant(value, digits) for value in (statistics.median(found), quartiles[0], quartiles[2])]
    return {"median": rounded[0], "quartiles": rounded[1:], "rounds": len(found)}


def significant(value: float, digits: int = 3) -> float:
    """``value`` to so many significant digits."""
    return float(f"{value:.{digits}g}")


Seconds = dict[str, list[float]]
Failures = dict[str, str]


def take_turns(
    contenders: Mapping[str, Callable[[], float]], rounds: int, *, warm_up: int = 1, label: str = ""
) -> tuple[Seconds, Failures]:
    """Let contenders take turns, in an order that is drawn anew for each round.

    Args:
        contenders: name -> what measures it once, and returns seconds (or whatever is compared).
        rounds: that count.
        warm_up: rounds before these, that do not.
        label: of the progress lines; none are printed without.

    Returns:
        What each contender returned in every round that counts, and why contenders failed.
    """
    found: Seconds = {name: [] for name in contenders}
    failed: Failures = {}
    for number in range(warm_up + rounds):
        # No one is to run more often after itself, or after the same other one, than the rest: it would find the
        # caches and the allocator as it likes them. The same order on every rank and in every run.
        for name in random.Random(number).sample(list(contenders), len(contenders)):
            if name in failed:
                continue
            gc.collect()
            try:
                value = contenders[name]()
            except Exception as error:
                failed[name] = one_line(error)
                say(f"  {label or name}: {name} failed: {failed[name]}")
                continue
            if number >= warm_up:
                found[name].append(value)
        if label:
            place = f"round {number - warm_up + 1} of {rounds}" if number >= warm_up else "warmed up"
            say(f"  {label}: {place}")
    return {name: values for name, values in found.items() if name not in failed}, failed


def against(seconds: Seconds, reference: str) -> dict[str, list[float]]:
    """Contender -> its value over the reference's, round by round; nothing without the reference."""
    if reference not in seconds:
        return {}
    return {
        name: [value / base for value, base in zip(values, seconds[reference], strict=True)]
        for name, values in seconds.items()
    }


def table(title: str, contenders: Mapping[str, Figures], failed: Failures | None = None) -> Table:
    """The table of ``contenders`` and of those that failed."""
    losers: dict[str, Figures] = {name: {"failed": reason} for name, reason in (failed or {}).items()}
    return {"title": title, "contenders": {**contenders, **losers}}


def aim(what: str, wanted: str, found: float | None, met: Callable[[float], bool]) -> Aim:
    """An aim, and whether ``found`` meets it."""
    return {"what": what, "aim": wanted, "found": found, "met": None if found is None else bool(met(found))}


def one_line(error: BaseException, limit: int = 300) -> str:
    """``error`` in a line."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def missing_peers(packages: Mapping[str, str]) -> Failures:
    """Contender -> why it is left out, of those whose package (contender -> module) is not installed."""
    return {
        name: f"{package} is not installed (`make peers`)"
        for name, package in packages.items()
        if importlib.util.find_spec(package) is None
    }


# ---------------------------------------------------------------------- memory


def forget_peak() -> None:
    """Begin to measure this process's peak anew; where the kernel does not allow it, ``peak_mb`` is of all its life."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return


def peak_mb(pid: int | str = "self") -> float:
    """The most memory that a process had resident, in MB; ``ru_maxrss`` would start from its parent's."""
    return _status_mb("VmHWM:", pid)


def resident_mb(pid: int | str = "self") -> float:
    """The memory that a process has resident, in MB."""
    return _status_mb("VmRSS:", pid)


def _status_mb(field: str, pid: int | str) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    return int(status.partition(field)[2].split()[0]) / 1024


# ---------------------------------------------------------------------- where it was measured


def hardware() -> dict[str, str | float | int]:
    """The machine, in words and numbers; no name that would tell whose it is."""
    cpu = next((value for key, value in _pairs("/proc/cpuinfo") if key == "model name"), platform.processor())
    memory_kb = next((value for key, value in _pairs("/proc/meminfo") if key == "MemTotal"), "0 kB").split()[0]
    return {
        "cpu": cpu or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_gb": round(int(memory_kb) / 2**20, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _pairs(file: str) -> list[tuple[str, str]]:
    try:
        lines = Path(file).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [(key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines)]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version, and those of ``packages`` that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit that is measured; ``+`` where files differ from it, "unknown" outside a repository."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", "ununennium", "flows", "benchmarks/*.py")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip()


def load() -> float:
    """Processes that wanted to run, mean of the last minute."""
    return round(os.getloadavg()[0], 2)


def now() -> str:
    """The time, in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def run_python(*words: str, timeout_s: float, environment: Mapping[str, str] | None = None) -> str:
    """Run this Python on ``words`` in the project's folder; returns what it printed.

    Raises:
        RuntimeError: it ended with another status than 0, with the end of what it said.
        subprocess.TimeoutExpired: it took too long.
    """
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=None if environment is None else dict(environment),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"ended with status {done.returncode}: {' '.join(done.stdout.split())[-500:]}")
    return done.stdout
