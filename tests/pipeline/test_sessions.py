"""An interrupted run goes on when the same is asked for again; anything else starts a new one."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rasterio

from tests.launch.conftest import TINY
from tests.processes import LONG_S, has_checkpoint, newest_checkpoint, wait_until
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.errors import ConfigError
from ununennium.files import write_json
from ununennium.pipeline.sessions import open_run, resume_run
from ununennium.processes.supervise import start_time
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.runs.listing import list_runs

Configured = Callable[..., RunConfig]


@pytest.fixture
def configured(atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """``configured("seed=5")`` is a small run on a copy of the sample scene."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    shutil.copytree(atlanta.parent, tmp_path / "data")

    def configure(*changes: str) -> RunConfig:
        return RunConfig.load(tmp_path / "data" / "run.yaml", [*TINY, *changes])

    return configure


def interrupt(config: RunConfig, error: BaseException | None = None, **started_by: Any) -> str:
    """Start a run, and end it before it trained; gives its name."""
    wanted = KeyboardInterrupt() if error is None else error
    try:
        with open_run(config, started_by=started_by) as run:
            pipeline.prepare(run)
            raise wanted
    except type(wanted):
        return run.run_id


def ask(config: RunConfig, **started_by: Any) -> tuple[str, str]:
    """The run that answers to ``config``, and what is said about it."""
    said: list[str] = []
    with contextlib.suppress(ValueError), open_run(config, started_by=started_by, on_line=said.append) as run:
        raise ValueError("it shall not be taken up")
    return run.run_id, "\n".join(said)


def test_an_interrupted_run_goes_on(configured: Configured) -> None:
    before = interrupt(configured(), user="a")
    (summary,) = list_runs("storage")
    assert (summary.stop_reason, summary.reason) == ("preempted", "KeyboardInterrupt")
    end = {"stop_reason": "preempted", "message": "SIGTERM", "epochs": 1, "best_epoch": None, "checkpoints": []}
    write_json(RunDirectory.open(Path("work") / before).result_file, end)
    said: list[str] = []
    with open_run(configured(), started_by={"user": "b"}, on_line=said.append) as run:
        assert run.run_id == before
        (summary,) = list_runs("storage")
        assert (summary.stop_reason, summary.finished) == (None, None)
        indexed = run.index_file.stat().st_mtime_ns
        assert pipeline.prepare(run).details["run_id"] == before
        assert run.index_file.stat().st_mtime_ns == indexed
    assert said == [f"going on with {before}, which was interrupted; checkpoints.resume=false starts anew"]
    (again,) = run.record().resumed
    assert (again.host, again.started_by) == (platform.node(), {"user": "b"})
    assert run.record().started_by == {"user": "a"}


def test_another_configuration_is_another_run(configured: Configured) -> None:
    before = interrupt(configured())
    assert ask(configured("seed=5"))[0] != before
    assert ask(configured("checkpoints.resume=false"))[0] != before


def test_whom_a_run_tells_may_change_when_it_goes_on(configured: Configured) -> None:
    before = interrupt(configured("tracking.tensorboard=first"))
    now = configured("tracking.mlflow=sqlite:///mlflow.db", "card.contact=ana")
    with open_run(now) as run:
        assert run.run_id == before
        config = run.config()
    assert (config.tracking, config.card) == (now.tracking, now.card)
    assert config.tracking.tensorboard is None
    assert config.seed == now.seed


def test_a_run_of_a_version_without_trackers_goes_on(configured: Configured) -> None:
    run = RunDirectory.open(Path("work") / interrupt(configured()))
    record = run.record()
    del record.config["tracking"]
    write_json(run.run_file, record)
    run.publish([run.run_file])
    assert ask(configured())[0] == run.run_id


def test_a_run_that_failed_or_ended_is_not_taken_up(configured: Configured) -> None:
    failed = interrupt(configured(), ValueError("the loss is not finite"))
    assert list_runs("storage")[0].stop_reason == "failed"
    found, said = ask(configured())
    assert found != failed
    assert said == ""


def test_new_or_changed_scenes_are_another_run(configured: Configured, tmp_path: Path) -> None:
    folder = "data={catalog: {folder: scenes, labels: '{stem}.label.tif', images: '*[0-9].tif'}, chip_size: 64}"
    (tmp_path / "data" / "scenes").mkdir()
    image, label = (tmp_path / "data" / "data" / f"atlanta_{name}.tif" for name in ("pan_05m", "buildings"))
    for source, name in ((image, "1.tif"), (label, "1.label.tif")):
        shutil.copy(source, tmp_path / "data" / "scenes" / name)
    change = [folder, "data.classes=[background, building]"]
    before = interrupt(configured(*change))
    assert interrupt(configured(*change)) == before
    with rasterio.open(tmp_path / "data" / "scenes" / "1.label.tif", "r+") as target:
        pixels = target.read(1)
        pixels[:10, :10] = 1 - pixels[:10, :10]
        target.write(pixels, 1)
    found, said = ask(configured(*change))
    assert found != before
    assert "are not what they were when this run indexed them" in said

    before = interrupt(configured(*change))
    for name in ("1.tif", "1.label.tif"):
        shutil.copy(tmp_path / "data" / "scenes" / name, tmp_path / "data" / "scenes" / name.replace("1", "2"))
    found, said = ask(configured(*change))
    assert found != before
    assert f"{before} was interrupted, but does not go on by itself: the catalog has other scenes now" in said


def test_other_versions_are_another_run(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    before = interrupt(configured())
    then = RunDirectory.open(f"work/{before}").record().versions
    monkeypatch.setattr("ununennium.pipeline.sessions.versions", lambda: {**then, "torch": "9.0"})
    found, said = ask(configured())
    assert found != before
    assert "versions = '9.0': torch was " in said


def test_changed_code_is_another_run(configured: Configured, tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=60)

    git("init", "-q")
    (tmp_path / "network.py").write_text("1")
    git("add", "network.py")
    git("commit", "-q", "-m", "one")
    before = interrupt(configured())
    assert interrupt(configured()) == before
    (tmp_path / "network.py").write_text("2")
    found, said = ask(configured())
    assert found != before
    assert "git_commit" in said


def test_on_another_machine_only_the_same_flow_run_goes_on(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = interrupt(configured(), flow_run_id="f1")
    here = platform.node()
    monkeypatch.setattr(platform, "node", lambda: "another")
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "its work"))
    found, said = ask(configured(), flow_run_id="f2")
    assert found != before
    assert f"it was on {here}; if it has ended there, 'ununennium train --resume' goes on with it" in said
    assert ask(configured(), flow_run_id="f1")[0] == before
    assert (tmp_path / "its work" / before / "run.json").exists()
    assert RunDirectory.open(tmp_path / "its work" / before).record().resumed[0].host == "another"


def test_the_same_flow_run_goes_on_after_a_failure(configured: Configured) -> None:
    before = interrupt(configured(), OSError("the bucket did not answer"), flow_run_id="f1")
    other = interrupt(configured(), flow_run_id="f2")
    assert other != before
    assert interrupt(configured(), ValueError(), flow_run_id="f3") == other  # it had been asked to stop
    assert interrupt(configured(), flow_run_id="f4") not in (before, other)
    assert interrupt(configured(), flow_run_id="f1") == before  # and not one that could go on, too
    assert ask(configured(), flow_run_id="f3")[0] == other


def test_a_run_that_is_under_way_is_left_alone(configured: Configured) -> None:
    with open_run(configured()) as first:
        pipeline.prepare(first)
        assert ask(configured())[0] != first.run_id
        with pytest.raises(ConfigError, match=rf"is under way \(process {os.getpid()}\)"), resume_run(first):
            pass
    with resume_run(first) as run:
        assert run == first


def test_training_processes_that_still_write_are_waited_for(configured: Configured) -> None:
    """Of a launcher that was killed: each ends by itself, after a last checkpoint."""
    config = configured("launcher.grace_s=1")
    run = RunDirectory.open(Path("work") / interrupt(config))
    with subprocess.Popen(["sleep", "2"]) as process:
        run.pids_folder.mkdir()
        (run.pids_folder / "rank0").write_text(f"{process.pid} {start_time(process.pid)} abc")
        with open_run(config) as found:
            assert found == run
            assert process.wait(0.5) == 0
    with subprocess.Popen(["sleep", "600"]) as process:
        (run.pids_folder / "rank0").write_text(f"{process.pid} {start_time(process.pid)} abc")
        try:
            with pytest.raises(ConfigError, match=f"process {process.pid} still trains it"), resume_run(run):
                pass
        finally:
            process.kill()


def test_a_dry_run_takes_nothing_up(configured: Configured) -> None:
    before = interrupt(configured())
    with open_run(configured(), keep=False) as run:
        assert run.run_id != before
    assert not run.work.exists()
    assert len(list_runs("storage")) == 1


def test_a_run_that_cannot_be_read_stops_nobody(configured: Configured) -> None:
    before = interrupt(configured())
    (Path("storage") / "runs" / before / "run.json").write_text("{}")
    found, said = ask(configured())
    assert found != before
    assert "KeyError" in said or "'config'" in said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_same_command_after_a_kill_ends_with_the_weights_of_an_undisturbed_run(
    configured: Configured, tmp_path: Path, number: signal.Signals
) -> None:
    """correctness 62, through the command line: killed at a random moment, and asked for again."""
    settings = ["trainer.epochs=4", "data.chips_per_epoch=40", "data.batch_size=2", "checkpoints.every_n_steps=3"]
    (tmp_path / "run.yaml").write_text(configured(*settings).to_yaml(), encoding="utf-8")
    cli = [sys.executable, "-c", "import sys; from ununennium.cli import main; sys.exit(main())", "train", "run.yaml"]

    def train(*arguments: str) -> str:
        done = subprocess.run([*cli, *arguments], capture_output=True, text=True, timeout=LONG_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stderr

    train("--set", "storage=undisturbed")
    process = subprocess.Popen(cli, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_until(lambda: (runs := list_runs("storage")) and has_checkpoint(_of(runs)))
        process.send_signal(number)
    finally:
        process.wait(LONG_S)
    (interrupted,) = list_runs("storage")
    assert interrupted.stop_reason == (None if number == signal.SIGKILL else "preempted")
    words = train()
    assert f"going on with {interrupted['run_id']}" in words
    assert "going on from the checkpoint after epoch" in words
    (summary,) = list_runs("storage")
    assert summary.stop_reason == "completed"
    (undisturbed,) = list_runs("undisturbed")
    found, wanted = (newest_checkpoint(_of([each])) for each in (summary, undisturbed))
    assert found["model"].keys() == wanted["model"].keys()  # type: ignore[attr-defined]
    for name, weight in wanted["model"].items():  # type: ignore[attr-defined]
        assert (found["model"][name] == weight).all(), name  # type: ignore[index]
    assert read_json(_of([summary]).result_file)["history"] == read_json(_of([undisturbed]).result_file)["history"]

    train()  # it has come to its end: the next one is new
    assert len(list_runs("storage")) == 2


@pytest.mark.slow
def test_a_prepared_run_is_trained_by_the_launchers_own_command(configured: Configured, tmp_path: Path) -> None:
    """What is typed on each of several machines; here on one."""
    (tmp_path / "run.yaml").write_text(configured("trainer.epochs=1").to_yaml(), encoding="utf-8")
    python = [sys.executable, "-c", "import sys; from ununennium.cli import main; sys.exit(main())"]
    options = {"capture_output": True, "text": True, "timeout": LONG_S, "check": True}
    prepared = subprocess.run([*python, "train", "run.yaml", "--prepare"], **options).stdout.strip()  # type: ignore[call-overload]
    assert list_runs("storage")[0].stop_reason is None
    trained = subprocess.run([sys.executable, "-m", "ununennium.launch.training", prepared], **options)  # type: ignore[call-overload]
    assert "epoch   1  train_loss" in trained.stdout
    shown = subprocess.run([*python, "evaluate", "latest"], **options)  # type: ignore[call-overload]
    assert "passes the gate" in shown.stdout
    assert list_runs("storage")[0].stop_reason == "completed"


def _of(runs: list[dict[str, Any]]) -> RunDirectory:
    return RunDirectory.open(Path("work") / runs[0].run_id)
