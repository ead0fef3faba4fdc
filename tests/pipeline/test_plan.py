"""Plan of a run: chips, steps and device are those that training then has."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.tiny import TINY
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.launch import device
from ununennium.runs.directory import RunDirectory
from ununennium.workers.build import Components, check_device

Planned = Callable[..., tuple[RunDirectory, pipeline.RunPlan]]


@pytest.fixture
def planned(atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planned:
    """``planned("trainer.epochs=5")`` makes a run and its plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))

    def plan(*changes: str) -> tuple[RunDirectory, pipeline.RunPlan]:
        run = RunDirectory.create(RunConfig.load(atlanta.parent / "run.yaml", [*TINY, *changes]))
        return run, pipeline.prepare(run)

    return plan


@pytest.mark.parametrize("chips", ["null", "30"])
def test_chips_and_steps_are_those_of_the_loader(planned: Planned, chips: str) -> None:
    changes = (f"data.chips_per_epoch={chips}", "data.batch_size=4", "trainer.accumulation_steps=3", "trainer.epochs=7")
    run, plan = planned(*changes)
    loader = Components(run).loaders.train
    steps = -(-len(loader) // 3)
    told = plan.details["training"]
    assert told["chips_per_epoch"] == len(loader.dataset)
    assert (told["steps_per_epoch"], told["total_steps"]) == (steps, 7 * steps)
    row = dict(plan.rows)["steps"]
    assert row == f"{len(loader.dataset):,} chips and {steps:,} steps per epoch, {7 * steps:,} steps in all"


def test_steps_are_counted_per_rank(planned: Planned) -> None:
    _, plan = planned("data.chips_per_epoch=30", "data.batch_size=4", "launcher.nproc_per_node=2")
    assert plan.details["training"]["steps_per_epoch"] == 4  # 15 chips of each rank


@pytest.mark.filterwarnings("ignore:device='cuda'")
def test_the_plan_names_the_device_that_is_used(planned: Planned) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA; the plan names it")
    for setting, words in (
        ("auto", "cpu (trainer.device is auto), 1 process(es)"),
        ("cuda", "cpu (trainer.device is cuda, and no CUDA device is visible), 1 process(es)"),
        ("cpu", "cpu, 1 process(es)"),
    ):
        run, plan = planned(f"trainer.device={setting}", f"name={setting}")
        assert dict(plan.rows)["device"] == words
        assert plan.details["training"]["device"] == str(check_device(Components(run).settings))


@pytest.mark.slow
def test_torch_is_asked_where_a_driver_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "DRIVERS", ("/dev/null",))
    wanted = "cuda:0" if torch.cuda.is_available() else "cpu"
    assert device.resolved_device("auto") == device.resolved_device("cuda") == wanted
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert device.resolved_device("auto") is None
    assert device.resolved_device("mps") == "mps"
