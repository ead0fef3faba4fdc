"""What a checkpoint costs training, written in several ways: the stand-still, when it is complete, memory.

Two comparisons: a state of 300 MB to S3 at 25 MB/s each way, and states of 50, 200 and 500 MB to a folder and to S3
without a limit. The S3 server is real. It stands for another machine: it has a core of its own, with the proxy that
sets the pace, and training has the others. The ways take turns, each in a process of its own that stays; the first turn
warms up and is not counted; figures are medians.

"Durable" is when the checkpoint is complete for readers. Ours then still reads it back, before it deletes an older one:
"done". Without a proof the others are done when they say so. A file that torch.save or Lightning wrote into a folder
need not be on the disk yet; ours, and the plain copy that they are compared with, are.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import harness
from benchmarks.checkpoint_ways import WAYS, missing
from benchmarks.harness import Aim, Effort, Result, Table, say
from tests.servers.object_store import CHECKPOINTS, ObjectStore

MB = 10**6
BYTES_PER_S = 25e6
RAW = "plain put"
Measured = dict[str, dict[str, Any]]


class Turns(NamedTuple):
    """How many turns count, and how long a way trains undisturbed in each, before the save and after it."""

    rounds: int
    idle_s: float


class Plan(NamedTuple):
    """How much is measured."""

    slow_mb: int
    slow: Turns
    sizes_mb: tuple[int, ...]
    sizes: Turns


PLANS: dict[Effort, Plan] = {
    "quick": Plan(20, Turns(1, 0.5), (50,), Turns(1, 0.5)),
    "usual": Plan(300, Turns(1, 2.0), (200,), Turns(1, 0.5)),
    "full": Plan(300, Turns(5, 4.0), (50, 200, 500), Turns(2, 1.0)),
}
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]


def measure(effort: Effort) -> Result:
    """Both comparisons."""
    plan = PLANS[effort]
    tables, aims = [], []
    with tempfile.TemporaryDirectory(prefix="checkpoint-cost-") as name, servers(Path(name)) as (direct, slow):
        folder = Path(name)
        with contestants(slow, folder) as found:
            url = f"s3://{CHECKPOINTS}/{uuid.uuid4().hex}"
            figures = take_turns(found, url, plan.slow_mb * MB, plan.slow, slow, folder)
            beside = beside_the_server(found["ununennium"], url, plan.slow_mb * MB, plan.slow, slow, folder)
        tables.append(table(f"{plan.slow_mb} MB to S3 at {BYTES_PER_S / MB:.0f} MB/s", figures))
        aims += slow_aims(figures)
        with contestants(direct, folder) as found:
            for size in plan.sizes_mb:
                for place in ("folder", "S3"):
                    url = f"{folder}/saved" if place == "folder" else f"s3://{CHECKPOINTS}"
                    figures = take_turns(found, f"{url}/{uuid.uuid4().hex}", size * MB, plan.sizes, direct, folder)
                    tables.append(table(f"{size} MB to {'a folder' if place == 'folder' else place}", figures))
                    aims += size_aims(figures, size, place)
        return {"tables": tables, "aims": aims, "limit": f"{limits(plan.slow_mb * MB, folder)}; {beside}"}


# ---------------------------------------------------------------------- servers and contestants


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """The environments that reach a real S3 server, directly and at ``BYTES_PER_S``; it has one core to itself."""
    with contextlib.ExitStack() as stack:
        server = ObjectStore(folder / "server")
        pin(CORES[-1:])
        try:
            server.start()
            stack.callback(server.stop)
            command = [sys.executable, "-m", "tests.servers.fault_proxy", str(server.port), str(BYTES_PER_S)]
            proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.callback(end, proxy)
        finally:
            pin(CORES)
        assert proxy.stdout is not None
        direct = os.environ | server.environment | {"UNUNENNIUM_SPOOL": f"{folder}/spool"}
        yield direct, direct | {"AWS_ENDPOINT_URL_S3": proxy.stdout.readline().strip()}


def pin(cores: list[int]) -> None:
    """Let this process, and what it starts from now on, run on these cores alone."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


@contextlib.contextmanager
def contestants(environment: dict[str, str], folder: Path) -> Iterator[dict[str, subprocess.Popen[str] | str]]:
    """A process for each way, or why there is none."""
    cores = ",".join(map(str, CORES[:-1] or CORES))
    found: dict[str, subprocess.Popen[str] | str] = {}
    with contextlib.ExitStack() as stack:
        for way in WAYS:
            reason = missing(way)
            if reason:
                say(f"  {way} is left out: {reason}")
                found[way] = reason
                continue
            log = stack.enter_context((folder / f"{way}.log").open("a"))
            command = [sys.executable, "-m", "benchmarks.checkpoint_ways", way, cores]
            process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
            stack.callback(end, process)
            found[way] = process
        yield found


def end(process: subprocess.Popen[str]) -> None:
    """Close its input, and wait."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(90)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(20)


def take_turns(
    found: dict[str, subprocess.Popen[str] | str], url: str, size: int, turns: Turns, environment: dict[str, str],
    folder: Path,
) -> Measured:  # fmt: skip
    """Median figures per way, and of a plain put of as many bytes; ``failed`` where there are none."""
    names = [name for name in (RAW, *found) if name != "snapshot" or "://" not in url]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    failed = {name: process for name, process in found.items() if isinstance(process, str)}
    for number in range(turns.rounds + 1):
        for name in rows:
            if name in failed:
                continue
            if name == RAW:
                row = plain_put(url, size, environment, folder)
            else:
                row = ask(found[name], {"url": f"{url}/{name}", "bytes": size, "idle_s": turns.idle_s})
            if "failed" in row:
                failed[name] = row["failed"]
            elif number:
                rows[name].append(row)
        say(f"  {size // MB} MB to {'S3' if '://' in url else 'a folder'}: turn {number} of {turns.rounds}")
    figures: Measured = {name: {"failed": reason} for name, reason in failed.items()}
    for name, values in rows.items():
        if name not in failed:
            figures[name] = {key: median([value[key] for value in values]) for key in values[0]}
    return {name: figures[name] for name in rows}


def ask(process: Any, command: dict[str, Any]) -> dict[str, Any]:
    """Send a command, and wait for its answer."""
    try:
        process.stdin.write(json.dumps(command) + "\n")
        process.stdin.flush()
        line = process.stdout.readline()
    except OSError as error:
        return {"failed": f"its process ended: {error}"}
    return dict(json.loads(line)) if line else {"failed": "its process ended"}


def beside_the_server(
    process: Any, url: str, size: int, turns: Turns, environment: dict[str, str], folder: Path
) -> str:
    """What is left of the speed of training while another process, on the server's core, puts as many bytes there.

    The server stands for another machine, but the two cores share more than a network: this part of a slow-down is none
    of the save's.
    """
    training = {"url": f"{url}/ununennium", "bytes": size}
    shares = []
    with ThreadPoolExecutor(1, "put", pin, (CORES[-1:],)) as threads:
        for _ in range(turns.rounds):
            before = ask(process, {**training, "train_s": turns.idle_s})
            putting = threads.submit(plain_put, url, size, environment, folder)
            beside = ask(process, {**training, "train_s": 0.8 * size / BYTES_PER_S})
            put = putting.result()
            after = ask(process, {**training, "train_s": turns.idle_s})
            failed = next((answer["failed"] for answer in (before, beside, put, after) if "failed" in answer), None)
            if failed is not None:
                return f"what the work of the server alone costs was not measured: {failed}"
            shares.append((before["step_s"] + after["step_s"]) / 2 / beside["step_s"])
    return f"while another process puts as much from the core of the server, training has {median(shares)} of its speed"


def plain_put(url: str, size: int, environment: dict[str, str], folder: Path) -> dict[str, Any]:
    """Store a file in the plainest way: one HTTP request, or a copy that is forced to the disk."""
    source = folder / f"plain-{size}"
    if not source.exists():
        source.write_bytes(os.urandom(size))
    if "://" not in url:
        started = time.monotonic()
        with source.open("rb") as file, (folder / "copy").open("wb") as target:
            while chunk := file.read(8 << 20):
                target.write(chunk)
            target.flush()
            os.fsync(target.fileno())
        return {"durable_s": time.monotonic() - started}
    signed = urllib.parse.urlsplit(presigned(f"{url}/plain", environment))
    started = time.monotonic()
    connection = http.client.HTTPConnection(str(signed.hostname), signed.port, timeout=300, blocksize=1 << 20)
    with source.open("rb") as file:
        connection.request("PUT", f"{signed.path}?{signed.query}", body=file, headers={"Content-Length": str(size)})
        answer = connection.getresponse()
        answer.read()
    connection.close()
    if answer.status != 200:
        return {"failed": f"the server answered {answer.status}"}
    return {"durable_s": time.monotonic() - started}


def presigned(url: str, environment: dict[str, str]) -> str:
    """A URL by which anybody may write the object at ``url``."""
    import s3fs

    filesystem = s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        skip_instance_cache=True,
    )
    return str(filesystem.url(url.partition("://")[2], client_method="put_object"))


def median(values: list[float | None]) -> float | None:
    """The median, to three digits; None if it was not measured in each turn."""
    known = [value for value in values if value is not None]
    return float(f"{statistics.median(known):.3g}") if len(known) == len(values) else None


# ---------------------------------------------------------------------- figures against aims


def table(title: str, figures: Measured) -> Table:
    """The figures as they are shown."""
    headings = {
        "stands_still_s": "stands still, s",
        "durable_s": "durable after, s",
        "done_s": "done after, s",
        "speed_meanwhile": "speed meanwhile",
        "extra_memory_mb": "extra memory, MB",
        "failed": "failed",
    }
    shown = {
        name: {text: row[key] for key, text in headings.items() if row.get(key) is not None}
        for name, row in figures.items()
    }
    return harness.table(title, shown)


def at_most(what: str, figures: Measured, way: str, key: str, most: float, per: float | None = 1.0) -> Aim:
    """An aim of ``way``: its figure over ``per`` is at most ``most``."""
    value = figures[way].get(key)
    found = None if value is None or not per else harness.significant(value / per)
    return harness.aim(what, f"<= {most:g}", found, lambda value: value <= most)


def slow_aims(figures: Measured) -> list[Aim]:
    """Those for the state on a slow line."""
    meanwhile = figures["ununennium"].get("speed_meanwhile")
    return [
        at_most("slow line: stands still, spooled, s", figures, "ununennium", "stands_still_s", 0.6),
        at_most("slow line: extra memory, spooled, MB", figures, "ununennium", "extra_memory_mb", 64),
        harness.aim("slow line: speed meanwhile, ununennium", ">= 0.9", meanwhile, lambda value: value >= 0.9),
    ]


def size_aims(figures: Measured, size_mb: int, place: str) -> list[Aim]:
    """Those for a state of ``size_mb`` at ``place``."""
    label = f"{size_mb} MB, {place}"
    blocking = figures["torch.save"].get("stands_still_s")
    plain = figures[RAW].get("durable_s")
    way = "snapshot" if "snapshot" in figures else "ununennium"
    found = [
        at_most(f"{label}: {way} stands still / blocking save", figures, way, "stands_still_s", 0.05, blocking),
        at_most(f"{label}: durable / plain put", figures, "ununennium", "durable_s", 1.2, plain),
        at_most(f"{label}: extra memory / state", figures, "ununennium", "extra_memory_mb", 1.15, size_mb),
    ]
    if way == "snapshot":
        found.append(
            at_most(f"{label}: extra memory / state, snapshot", figures, way, "extra_memory_mb", 1.15, size_mb)
        )
    return found


def limits(size: int, folder: Path) -> str:
    """What no way can be faster than, on this machine."""
    data = os.urandom(size)
    times: dict[str, list[float]] = {"hash": [], "disk": [], "copy": []}
    for _ in range(3):
        started = time.monotonic()
        hashlib.sha256(data)
        hashed = time.monotonic()
        with (folder / "limit").open("wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
        written = time.monotonic()
        bytearray(data)
        copied = time.monotonic()
        for name, seconds in zip(times, (hashed - started, written - hashed, copied - written), strict=True):
            times[name].append(seconds)
    best = {name: min(values) for name, values in times.items()}
    return (
        f"for {size // MB} MB, SHA-256 takes {best['hash']:.2f} s, a write that is forced to the disk "
        f"{best['disk']:.2f} s, a copy in memory {best['copy']:.2f} s; training has {len(CORES) - 1 or 1} core(s), on "
        "which uploads and hashes run, too"
    )
