"""Two hosts for real: network namespaces with a cable between them, which is pulled in the middle of training."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.processes import LONG_S, assert_nothing_left, newest_checkpoint, steps_done, wait_until
from ununennium.launch.training import launch
from ununennium.runs.directory import RunDirectory

Prepared = Callable[..., RunDirectory]
CHANGES = ("data.batch_size=2", "checkpoints.every_n_steps=20", "trainer.deterministic=true")


class Host(NamedTuple):
    """A network namespace with one interface."""

    name: str
    interface: str
    address: str

    def start(self, *command: str) -> subprocess.Popen[str]:
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": self.interface, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    if sys.platform != "linux" or shutil.which("ip") is None:
        pytest.skip("needs Linux with iproute2")
    tag = f"{os.getpid() % 100000}"
    made = [Host(f"uu{tag}{side}", f"uu{tag}{side}", f"10.213.7.{1 + n}") for n, side in enumerate("ab")]
    with contextlib.ExitStack() as stack:
        try:
            for host in made:
                ip("netns", "add", host.name)
                stack.callback(subprocess.run, ["ip", "netns", "delete", host.name], check=False, timeout=30)
            first, second = made
            cable = ("type", "veth", "peer", "name", second.interface, "netns", second.name)
            ip("link", "add", first.interface, "netns", first.name, *cable)
            for host in made:
                ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
                ip("-n", host.name, "link", "set", "lo", "up")
                ip("-n", host.name, "link", "set", host.interface, "up")
        except subprocess.CalledProcessError as refused:
            pytest.skip(f"network namespaces are not permitted here: {refused.stderr.decode().strip()}")
        yield made


def start(host: Host, first: Host, rank: int, run: RunDirectory) -> subprocess.Popen[str]:
    return host.start(
        *(sys.executable, "-m", "ununennium.launch.training", str(run.run_file), "--nnodes", "2"),
        *("--node-rank", str(rank), "--rdzv-endpoint", f"{first.address}:29400", "--local-addr", host.address),
    )


def plug(host: Host, state: str) -> None:
    ip("-n", host.name, "link", "set", host.interface, state)


@pytest.mark.slow
def test_a_link_that_is_cut_and_restored_costs_nothing(prepared: Prepared, hosts: list[Host]) -> None:
    """correctness 58: two machines end with the weights of two ranks on one, though they could not talk for a while."""
    changes = (*CHANGES, "trainer.epochs=40")
    single = prepared(*changes)
    launch(single, nproc=2).require_usable()
    run = prepared(*changes)
    launchers = [start(host, hosts[0], rank, run) for rank, host in enumerate(hosts)]
    try:
        assert wait_until(lambda: steps_done(run) > 0)
        plug(hosts[1], "down")
        assert not wait_until(lambda: launchers[0].poll() is not None, 8.0)
        cut_at = steps_done(run)
        plug(hosts[1], "up")
        said = [launcher.communicate(timeout=LONG_S)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()
            launcher.wait()
    assert [launcher.returncode for launcher in launchers] == [0, 0], said
    assert cut_at < steps_done(run)
    expected, found = (newest_checkpoint(each)["model"] for each in (single, run))
    assert isinstance(expected, dict)
    assert isinstance(found, dict)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.slow
def test_a_link_that_stays_cut_ends_both_hosts_with_an_error(prepared: Prepared, hosts: list[Host]) -> None:
    """Neither waits for ever, and what was trained is there."""
    run = prepared(
        *CHANGES,
        "trainer.epochs=100000",
        "launcher.stall_timeout_s=60",
        "launcher.grace_s=5",
        "launcher.max_restarts=0",
    )
    launchers = [start(host, hosts[0], rank, run) for rank, host in enumerate(hosts)]
    try:
        assert wait_until(lambda: steps_done(run) > 0 and any(Path(run.checkpoints_url).glob("*.json")))
        plug(hosts[1], "down")
        said = [launcher.communicate(timeout=LONG_S)[0] for launcher in launchers]
    finally:
        for launcher in launchers:
            launcher.kill()
            launcher.wait()
    assert [launcher.returncode for launcher in launchers] == [1, 1], said
    assert "has not moved for 60 s" in said[0]
    assert_nothing_left(run, 60.0)
    assert newest_checkpoint(run)["world_size"] == 2
