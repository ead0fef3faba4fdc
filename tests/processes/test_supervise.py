"""The supervisor of child processes: output, deadline, and that nothing outlives the caller. Real processes only."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from ununennium.errors import LaunchError
from ununennium.processes.supervise import MAX_LINE, start_time, supervise

TIMEOUTS_S = 1.0, 10.0, 60.0
"""Deadlines to try until one is enough for this machine to have started Python."""
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(code)]


def alive(pid: int) -> bool:
    return start_time(pid) != 0


def wait_until(condition: object, timeout_s: float = 60.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.05)
    return False


def test_lines_arrive_while_the_process_runs() -> None:
    arrived: list[tuple[str, float]] = []
    outcome = supervise(
        python("import time; print('one'); time.sleep(1.0); print('two')"),
        on_line=lambda line: arrived.append((line, time.monotonic())),
    )
    assert [line for line, _ in arrived] == ["one", "two"]
    assert arrived[1][1] - arrived[0][1] > 0.5
    assert (outcome.returncode, outcome.timed_out) == (0, False)


def test_stderr_long_lines_and_odd_bytes_are_harmless() -> None:
    lines: list[str] = []
    supervise(
        python(
            r"""
            import sys
            sys.stderr.write("warned\n"); sys.stderr.flush()
            sys.stdout.write("x" * 50_000 + "\n"); sys.stdout.flush()
            sys.stdout.buffer.write(b"\xff\xfe bytes\n10%\r20%\r\n\n")
            """
        ),
        on_line=lines.append,
    )
    assert lines[0] == "warned"
    assert lines[1] == "x" * MAX_LINE
    assert lines[2].endswith(" bytes")
    assert lines[3:] == ["10%", "20%"]  # no carriage returns, no empty lines


@pytest.mark.slow
def test_a_reader_that_fails_does_not_block_the_writer() -> None:
    def fails(line: str) -> None:
        raise RuntimeError(line)

    outcome = supervise(python("for i in range(100_000): print(i)"), on_line=fails)
    assert outcome.returncode == 0
    assert outcome.tail[-1] == "99999"


def test_tail_keeps_only_what_was_not_dealt_with() -> None:
    outcome = supervise(python("print('mine'); print('yours')"), on_line=lambda line: line == "mine")
    assert outcome.tail == ["yours"]


def test_exit_status_and_signal_are_reported() -> None:
    assert supervise(python("raise SystemExit(7)")).returncode == 7
    assert supervise(python("import os; os.kill(os.getpid(), 9)")).returncode == -signal.SIGKILL


def test_a_program_that_does_not_exist_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(LaunchError, match="no-such-program cannot be started"):
        supervise(["no-such-program"])


def test_prefect_settings_stay_with_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """correctness 75: rank processes hold no orchestrator client, nor its key."""
    monkeypatch.setenv("PREFECT_API_KEY", "secret")
    lines: list[str] = []
    supervise(
        python("import os; print(sorted(k for k in os.environ if k.startswith(('PREFECT', 'GIVEN'))))"),
        env={"GIVEN": "1"},
        on_line=lines.append,
    )
    assert lines == ["['GIVEN']"]


def test_deadline_asks_first_and_lets_the_process_finish() -> None:
    """correctness 75: SIGTERM, wait, then kill."""
    code = """
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(143)))
        print("ready", flush=True)
        time.sleep(200)
    """
    for timeout_s in TIMEOUTS_S:
        lines: list[str] = []
        outcome = supervise(python(code), timeout_s=timeout_s, grace_s=60.0, on_line=lines.append)
        assert outcome.timed_out
        if lines:
            break
    assert outcome.returncode == 143
    assert lines == ["ready", "saved"]
    assert outcome.duration_s < 100


@linux_only
def test_a_deaf_process_is_killed_with_its_children_in_other_sessions(tmp_path: Path) -> None:
    """correctness 75: torchrun's ranks are in sessions of their own, out of reach of a process group's signal."""
    pids = tmp_path / "pids"
    code = f"""
        import os, pathlib, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(
            [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(200)"],
            start_new_session=True,
        )
        pathlib.Path({str(pids)!r}).write_text(f"{{os.getpid()}} {{child.pid}}")
        time.sleep(200)
    """
    for timeout_s in TIMEOUTS_S:
        outcome = supervise(python(code), timeout_s=timeout_s, grace_s=-2.5)
        if pids.exists():
            break
    assert outcome.returncode == -signal.SIGKILL
    assert wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()))


def test_an_exception_in_the_caller_ends_the_process_and_goes_on(tmp_path: Path) -> None:
    """A cancellation arrives as an exception in the thread that waits; here it is a signal handler's."""
    marker = tmp_path / "saved"
    code = f"""
        import pathlib, signal, sys, time
        def save(*_):
            pathlib.Path({str(marker)!r}).write_text("yes"); sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        print("ready", flush=True)
        time.sleep(200)
    """

    class Cancelled(BaseException):
        pass

    def cancel(*_: object) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGUSR1, cancel)
    try:
        started = time.monotonic()
        with pytest.raises(Cancelled):
            supervise(
                python(code),
                on_line=lambda line: threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGUSR1)).start(),
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert marker.read_text() == "yes"
    assert time.monotonic() - started < 100


@linux_only
def test_killing_the_caller_asks_the_process_to_stop(tmp_path: Path) -> None:
    """correctness 75: SIGKILL of the caller (out of memory) leaves nothing behind, and lets a checkpoint be written."""
    if not any((Path(folder) / "setpriv").exists() for folder in os.environ["PATH"].split(os.pathsep)):
        pytest.skip("needs setpriv")
    pid_file, marker = tmp_path / "pid", tmp_path / "saved"
    child = f"""
import os, pathlib, signal, sys, time
def save(*_):
    pathlib.Path({str(marker)!r}).write_text("yes"); sys.exit(143)
signal.signal(signal.SIGTERM, save)
pathlib.Path({str(pid_file)!r}).write_text(str(os.getpid()))
time.sleep(200)
"""
    caller = subprocess.Popen(
        python(
            "import sys; from ununennium.processes.supervise import supervise\n"
            f"supervise([sys.executable, '-c', {child!r}])"
        )
    )
    try:
        assert wait_until(lambda: pid_file.exists() and pid_file.read_text())
        pid = int(pid_file.read_text())
        caller.kill()
        caller.wait()
        assert wait_until(lambda: not alive(pid))
        assert marker.read_text() == "yes"
    finally:
        with contextlib.suppress(ProcessLookupError):
            caller.kill()
