"""``python -m infra.stack up | status | down``: PostgreSQL, S3, Prefect's server, and a worker, on this machine.

Everything lies in one folder, and listens on the loopback alone. ``up`` again starts what does not run, whatever
ended it; ``down`` ends everything, and keeps the data.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from infra.stack import processes
from infra.stack.processes import Process, Service, gone, group_of, marked, send
from infra.stack.system import State, cluster, describe_deployments, services

DEFAULT = ".ununennium/stack"
_RUNS_S = 60.0
"""What a run that is asked to end gets to write its checkpoint."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, or all runs; 1 failed, or something does not run."""
    parser = argparse.ArgumentParser(prog="python -m infra.stack", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    up_options = commands.add_parser("up", help="start what does not run; run it in the root of the project")
    commands.add_parser("status", help="say what runs, and where")
    down_options = commands.add_parser("down", help="end everything; the data stay")
    for command in commands.choices.values():
        command.add_argument("--folder", type=Path, default=Path(DEFAULT), help="default: %(default)s")
    up_options.add_argument("--notify", metavar="FILE", help="whom to tell what: see infra/notifications.py")
    down_options.add_argument("--purge", action="store_true", help="remove the data, too")
    options = parser.parse_args(arguments)
    folder = options.folder.expanduser().resolve()
    try:
        if options.command == "up":
            return up(folder, notify=options.notify)
        return status(folder) if options.command == "status" else down(folder, purge=options.purge)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def up(folder: Path, *, notify: str | None = None) -> int:
    """Start what does not run, and bring the server to what the project's files say."""
    root = Path.cwd()
    if not (root / "deployments" / "prefect.yaml").exists():
        raise RuntimeError(f"{root} is not the root of the project: there is no deployments/prefect.yaml")
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        state = State.load(folder) or State.new(folder, root)
        state.root = root
        _end_strangers(state)
        state.choose_ports()
        for name in ("objects", "prefect", "logs", "runs"):
            (folder / name).mkdir(exist_ok=True)
        state.save()
        cluster(state).create()
        for service in services(state):
            if service.name == "worker":
                _bring_up_to_date(state, notify)
            _run(state, service)
        env = state.write_environment()
    print(f"\nThe stack runs. A shell that reads {env} reaches it:\n\n  . {env}")
    print("  prefect deployment run retrain/on-demand --watch\n  ununennium runs\n  ununennium doctor\n")
    print(f"Its data and logs lie in {folder}; `make stack-down` ends it.")
    return 0


def status(folder: Path) -> int:
    """Say what runs, and where."""
    state = State.load(folder)
    if state is None:
        print(f"there is no stack in {folder}; `make stack` makes one")
        return 1
    all_run = True
    for service in services(state):
        process = state.processes.get(service.name)
        alive = process is not None and process.alive
        words = "does not run" if not alive else "runs" if service.is_ready() else "runs, and does not answer"
        all_run &= words == "runs"
        print(f"{service.name:<10}{words:<28}{service.where}")
    print(f"data and logs: {folder}" if all_run else f"logs: {folder / 'logs'}; `make stack` starts what does not run")
    return 0 if all_run else 1


def down(folder: Path, *, purge: bool = False) -> int:
    """End the worker and its runs, which write their checkpoints, and then what they need for that."""
    state = State.load(folder)
    if state is None and not folder.exists():
        print(f"there is no stack in {folder}")
        return 0
    with _alone(folder):
        if state is not None:
            _end(state)
        _end_all([process for process, _ in marked(folder)])
    if purge:
        shutil.rmtree(folder)
        print(f"nothing runs any more, and {folder} is removed")
    else:
        print(f"nothing runs any more; the data lie in {folder} (`make stack` goes on with them, --purge removes them)")
    return 0


def _run(state: State, service: Service) -> None:
    """Make sure that ``service`` runs and is ready."""
    began = time.monotonic()
    log = state.folder / "logs" / f"{service.name}.log"
    process = state.processes.get(service.name)
    if process is not None and process.alive:
        if service.is_ready():
            print(f"{service.name:<10}runs already     {service.where}")
            return
        processes.stop(process, service.stops_by, service.stop_s)
    process = processes.start(service, log)
    state.processes[service.name] = process
    state.save()
    processes.wait_until_ready(service, process, log)
    print(f"{service.name:<10}up after {time.monotonic() - began:5.1f} s  {service.where}")


def _bring_up_to_date(state: State, notify: str | None) -> None:
    """Work pools, automations and deployments, as the project's files say."""
    bootstrap = [sys.executable, "-m", "infra.bootstrap", *(["--notify", notify] if notify else [])]
    file = describe_deployments(state)
    deploy = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    for what, command in (("bootstrap", bootstrap), ("deploy", deploy)):
        done = subprocess.run(
            command,
            cwd=state.root,
            env=state.environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        (state.folder / "logs" / f"{what}.log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if done.returncode != 0:
            last = " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
            raise RuntimeError(f"{what} failed; {state.folder / 'logs' / what}.log ends with: {last}")
    print("deployed  work pools, automations and deployments are as the project's files say")


def _end(state: State) -> None:
    by_name = {service.name: service for service in services(state)}
    for name in ("worker", "server", "objects", "database"):
        process = state.processes.get(name)
        if process is not None:
            processes.stop(process, by_name[name].stops_by, by_name[name].stop_s)
        if name == "worker":
            _end_runs(state.folder)
        state.processes.pop(name, None)
        state.save()


def _end_runs(folder: Path) -> None:
    """Wait for the runs of a worker that has ended: they write their checkpoints, into a store that still runs."""
    runs = [process for process, service in marked(folder) if service == "worker"]
    send(runs, signal.SIGTERM)
    gone(runs, _RUNS_S)


def _end_strangers(state: State) -> None:
    """End servers that a command which was killed had started, and could not write down; runs are left alone."""
    known = {process.pid for process in state.processes.values()}
    servers = [process for process, service in marked(state.folder) if service != "worker"]
    _end_all([process for process in servers if group_of(process) not in known])


def _end_all(found: list[Process]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        send(found, number)
        if gone(found, 15.0):
            return
    raise RuntimeError(f"these processes do not end: {', '.join(str(each.pid) for each in found if each.alive)}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One command at a time; a second waits for the first.

    Raises:
        RuntimeError: the first takes longer than five minutes.
    """
    with (folder / "lock").open("ab") as lock:
        deadline = time.monotonic() + 300
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"another command has been at work in {folder} for five minutes") from None
                time.sleep(0.5)
        yield


if __name__ == "__main__":
    sys.exit(main())
