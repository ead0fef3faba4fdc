"""What a checkpoint of 300 MB on S3 at 25 MB/s costs training, written in several ways.

``python -m benchmarks.checkpoint_cost`` starts a real S3 server and, before it, a proxy that lets 25 MB/s through each
way. For each way of writing a process of its own trains a small network whose state is 300 MB, saves twice (the first
save warms up), and prints how long training stood still, how fast it was meanwhile in relation to before, when the
checkpoint was complete, and by how much the process's memory at its peak exceeded that of training alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.object_store import CHECKPOINTS, ObjectStore

STATE_BYTES = 300_000_000
BYTES_PER_S = 25e6
IDLE_S = 6.0
WAYS = {
    "fs.open": "torch.save into fsspec's open file",
    "dcp": "torch.distributed.checkpoint async_save",
    "at once": "CheckpointCallback(background=False)",
    "spooled": "CheckpointCallback, as it comes",
    "snapshot": "CheckpointCallback(snapshot=True)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process (used by the benchmark itself)")
    parser.add_argument("--only", nargs="*", choices=WAYS, default=list(WAYS), help="measure only these")
    parser.add_argument("--bytes", type=int, default=STATE_BYTES, help="size of the state")
    options = parser.parse_args()
    if options.way:
        print(json.dumps(measure(options.way, options.bytes)))
        return
    figures = {}
    with tempfile.TemporaryDirectory(prefix="checkpoint-cost-") as folder, _slow_server(Path(folder)) as environment:
        for way in options.only:
            command = [sys.executable, "-m", __spec__.name, "--way", way, "--bytes", str(options.bytes)]
            environment["UNUNENNIUM_SPOOL"] = f"{folder}/spool"
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, timeout=600, check=False, text=True)
            if done.returncode:
                print(f"{way}: failed with status {done.returncode}")
                continue
            figures[way] = json.loads(done.stdout.splitlines()[-1])
    print(f"{'':10} {'stands still':>13} {'speed meanwhile':>16} {'complete after':>15} {'peak memory':>12}")
    for way, row in figures.items():
        meanwhile = "-" if row["speed_meanwhile"] is None else f"{row['speed_meanwhile']:.2f}"
        print(
            f"{way:10} {row['stands_still_s']:11.2f} s {meanwhile:>16} {row['complete_s']:13.1f} s "
            f"{row['extra_memory_mb']:9.0f} MB   {WAYS[way]}"
        )
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _slow_server(folder: Path) -> Iterator[dict[str, str]]:
    server = ObjectStore(folder / "server")
    server.start()
    try:
        command = [sys.executable, "-m", "benchmarks.fault_proxy", str(server.port), str(BYTES_PER_S)]
        proxy = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert proxy.stdin is not None
        assert proxy.stdout is not None
        try:
            yield os.environ | server.environment | {"AWS_ENDPOINT_URL_S3": proxy.stdout.readline().strip()}
        finally:
            proxy.stdin.close()
            try:
                proxy.wait(20)
            except subprocess.TimeoutExpired:
                proxy.kill()
    finally:
        server.stop()


def measure(way: str, size_bytes: int) -> dict[str, Any]:
    """Train and save in one way; the figures are those of the second save."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU())
    model.append(nn.Conv2d(32, 2, 1))
    ballast = [torch.rand(size_bytes // 4 // 48) for _ in range(48)]  # as many tensors as a middling network has
    optimizer = torch.optim.Adam(model.parameters())
    image, target = torch.rand(4, 3, 128, 128), torch.randint(0, 2, (4, 128, 128))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(image), target).backward()
        optimizer.step()

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "ballast": ballast}

    save, finish = _way(way, f"s3://{CHECKPOINTS}/{uuid.uuid4().hex}")
    for _ in range(20):
        step()
    figures: dict[str, Any] = {}
    _forget_peak()
    memory = 0
    for number in (1, 2):
        before = _steps_per_s(step, lambda started: time.monotonic() - started < IDLE_S)
        memory = memory or _peak_bytes()  # of training alone
        started = time.monotonic()
        is_done = save(state(), number)
        stood_still = time.monotonic() - started
        meanwhile = None if is_done() else _steps_per_s(step, lambda _, done=is_done: not done())
        figures = {
            "stands_still_s": round(stood_still, 3),
            "speed_meanwhile": None if meanwhile is None else round(meanwhile / before, 3),
            "complete_s": round(time.monotonic() - started, 2),
            "extra_memory_mb": round((_peak_bytes() - memory) / 1e6, 1),
            "steps_per_s": round(before, 2),
        }
    finish()
    return figures


def _way(way: str, url: str) -> tuple[Callable[[dict[str, Any], int], Callable[[], bool]], Callable[[], None]]:
    """How to save (gives what tells whether it is complete), and how to end."""
    import torch

    from ununennium.checkpoints.saving import BackgroundSaver, DirectSaver
    from ununennium.checkpoints.store import CheckpointStore

    if way == "fs.open":
        import fsspec

        def into_open_file(state: dict[str, Any], number: int) -> Callable[[], bool]:
            with fsspec.open(f"{url}/{number}.pt", "wb") as file:
                torch.save(state, file)
            return lambda: True

        return into_open_file, lambda: None
    if way == "dcp":
        from torch.distributed import checkpoint as dcp
        from torch.distributed.checkpoint.fsspec_filesystem import FsspecWriter

        def async_save(state: dict[str, Any], number: int) -> Callable[[], bool]:
            writer = FsspecWriter(f"{url}/{number}", sync_files=False)
            return dcp.async_save(state, storage_writer=writer, no_dist=True).done

        return async_save, lambda: None
    store = CheckpointStore(url)
    direct = DirectSaver(store, 1, [], set()) if way == "at once" else None
    saver = direct or BackgroundSaver(store, 1, [], set(), snapshot=way == "snapshot")

    def ours(state: dict[str, Any], number: int) -> Callable[[], bool]:
        saver.save(state, epoch=number, step=number)
        return lambda: [manifest.step for manifest in saver.kept[-1:]] == [number]

    return ours, saver.close


def _steps_per_s(step: Callable[[], None], go_on: Callable[[float], bool]) -> float:
    """One over the mean time of a step, while ``go_on(start)``."""
    started, times = time.monotonic(), []
    while go_on(started):
        begin = time.monotonic()
        step()
        times.append(time.monotonic() - begin)
    return 1.0 / statistics.fmean(times)


def _peak_bytes() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
