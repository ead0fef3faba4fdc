"""A dry run finds what a run would find, and the check that opens a run changes nothing in it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.launch.conftest import TINY
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.errors import ConfigError, UnunenniumError
from ununennium.files import write_json
from ununennium.formatting import duration_text
from ununennium.launch.training import torchrun_command
from ununennium.runs.directory import RunDirectory
from ununennium.training.state import random_state
from ununennium.workers.build import Components
from ununennium.workers.check import CheckResult, check_training
from ununennium.workers.train import build_trainer

HERE = "tests.launch.dropping_model"
PLATEAU = "scheduler={target: 'torch.optim.lr_scheduler:ReduceLROnPlateau', kwargs: {mode: max}}"
Checked = Callable[..., CheckResult]


def scheduler(target: str, **kwargs: Any) -> str:
    return f"scheduler={json.dumps({'target': target, 'kwargs': kwargs})}"


def model(how: str) -> tuple[str, str]:
    return f"model.target={HERE}:Failing", f"model.kwargs={{how: {how}}}"


@pytest.fixture(scope="module")
def ready(atlanta: Path, tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """``ready(change, ...)`` checks the sample run with changes to settings other than those of the data."""
    folder = tmp_path_factory.mktemp("check")

    def load(*changes: str) -> RunConfig:
        plain = [*TINY, "scheduler=null", f"storage={folder / 'storage'}"]
        return RunConfig.load(atlanta.parent / "run.yaml", [*plain, *changes])

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNUNENNIUM_WORK", str(folder / "work"))
        run = RunDirectory.create(load())
        pipeline.prepare(run)
    record = run.record()

    def check(*changes: str) -> CheckResult:
        write_json(run.run_file, {**record.to_json(), "config": load(*changes).model_dump(mode="json")})
        return check_training(Components(run))

    return check


WRONG: list[tuple[tuple[str, ...], str, str, str]] = [
    (("trainer.device=tpu",), "trainer.device", "'tpu'", "or a torch device such as 'cuda'"),
    (("trainer.device=meta",), "trainer.device", "'meta'", "cannot compute here"),
    (("optimizer.target=torch.optim:Adamw",), "optimizer.target", "'torch.optim:Adamw'", "did you mean 'AdamW'?"),
    (("optimizer.kwargs.lr=fast",), "optimizer.kwargs.lr", "'fast'", "give a value of type float"),
    (("optimizer.kwargs.lr=null",), "optimizer.kwargs.lr", "None", "give a value of type float"),
    (("optimizer.kwargs.lr={a: 1}",), "optimizer.kwargs.lr", "{'a': 1}", "give a value of type float"),
    (("optimizer.kwargs.lr=-1",), "optimizer.kwargs.lr", "-1", "Invalid learning rate"),
    (("optimizer.kwargs.lr=yes",), "optimizer.kwargs.lr", "True", "takes a number here, such as 0.001"),
    (("optimizer.kwargs={lr: 0.1, momentom: 1}", "optimizer.target=torch.optim:SGD"), "optimizer.kwargs.momentom", "1",
     "did you mean 'momentum'?"),
    (("optimizer={target: 'torch.optim:LBFGS', kwargs: {}}",), "optimizer.kwargs", "{}", "fails in its first step"),
    (("model.target=my.net:Net",), "model.target", "'my.net:Net'", "cannot be imported: No module named 'my'"),
    (("model.kwargs.depth=65536",), "model.kwargs", "65536", "take more than the"),
    (("model.kwargs.dept=3",), "model.kwargs.dept", "3", "did you mean 'depth'?"),
    (("model.kwargs.num_classes=5",), "model.kwargs", "'num_classes': 5", "5 outputs (4, 5, 64, 64) for 2 classes"),
    (("model.target=torch.nn:Linear", "model.kwargs={in_features: 3, out_features: 3}"), "model.target",
     "'torch.nn:Linear'", "fails on a batch (4, 1, 64, 64) of (batch, channels, rows, columns)"),
    (model("raises"), "model.target", f"'{HERE}:Failing'", "KeyError: 'no such key'"),
    (model("raises in validation"), "model.target", f"'{HERE}:Failing'", "KeyError: 'no such key'"),
    (model("half"), "model.target", f"'{HERE}:Failing'", "gives 32 x 32 px for chips of 64 x 64 px"),
    (("loss={target: 'cuda:99', kwargs: {}}",), "loss.target", "'cuda:99'", "has no attribute '99'"),
    (("loss={target: 'os:path', kwargs: {}}",), "loss.target", "'os:path'", "not something that can be called"),
    ((f"loss={{target: '{HERE}:ThreeArguments', kwargs: {{}}}}",), "loss.target", f"'{HERE}:ThreeArguments'",
     "fails on the output (4, 2, 64, 64) of the model for (4, 1, 64, 64)"),
    (("loss.kwargs.dice_weigh=1",), "loss.kwargs.dice_weigh", "1", "did you mean 'dice_weight'?"),
    ((scheduler("torch.optim.lr_scheduler:OneCycleLR", max_lr="aaa"),), "scheduler.kwargs.max_lr", "'aaa'", "float"),
    ((scheduler("torch.optim.lr_scheduler:OneCycleLR", max_lr=0.1, pct_start=3),), "scheduler.kwargs.pct_start", "3",
     "between 0 and 1"),
    ((scheduler("torch.optim.lr_scheduler:OneCycleLR", max_lr=0.1, total_steps=3),), "scheduler", "total_steps=3",
     "the run takes it to 4 steps"),
    ((scheduler("torch.optim.lr_scheduler:OneCycleLR"),), "scheduler.kwargs", "{}", "missing a required argument"),
    ((scheduler("torch.optim.lr_scheduler:ExponentialLR", gamma="x"),), "scheduler.kwargs", "{'gamma': 'x'}",
     "fails when it advances"),
    ((scheduler(f"{HERE}:unsteady", share="x"),), "scheduler", "LambdaLR", ""),
    ((PLATEAU, "trainer.scheduler_monitor=val_iou"), "trainer.scheduler_monitor", "'val_iou'", "mean 'val_IoU'?"),
    ((PLATEAU, "trainer.scheduler_interval=step"), "trainer.scheduler_interval", "'step'", "exists per epoch"),
    (("checkpoints.monitor=val_iou", "checkpoints.mode=max"), "checkpoints.monitor", "'val_iou'", "mean 'val_IoU'?"),
    (("checkpoints.monitor=$(touch pwn)",), "checkpoints.monitor", "'$(touch pwn)'", "these are: epoch, grad_norm"),
    (("checkpoints.monitor=val_IoU_roof",), "checkpoints.monitor", "'val_IoU_roof'", "val_IoU_building"),
    (("early_stopping.monitor=val_los",), "early_stopping.monitor", "'val_los'", "did you mean 'val_loss'?"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "field", "value", "remedy"), WRONG, ids=[f"{w[1]}={w[2]}"[:50] for w in WRONG])
def test_a_setting_that_cannot_train_is_refused_with_field_value_and_remedy(
    changes: tuple[str, ...], field: str, value: str, remedy: str, ready: Checked
) -> None:
    """correctness 95"""
    with pytest.raises(ConfigError) as caught:
        ready(*changes)
    assert caught.value.field == field
    assert value in str(caught.value)
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("trainer.ema_decay=0.9", "early_stopping.patience=3"),
        ("trainer.mixed_precision=fp16", "trainer.channels_last=true"),
        ("trainer.mixed_precision=bf16", "trainer.accumulation_steps=3", "data.num_workers=2"),
        (PLATEAU, "trainer.scheduler_monitor=val_IoU_building", "trainer.deterministic=true"),
        (scheduler("torch.optim.lr_scheduler:OneCycleLR", max_lr=0.1), "checkpoints.monitor=epoch"),
        ("data.augment.where=device", "trainer.time_limit_s=0.001", "trainer.compile=true"),
        ("loss={target: 'torch.nn:CrossEntropyLoss', kwargs: {label_smoothing: 0.1}}", "checkpoints.monitor=val_F1"),
        (f"model={{target: '{HERE}:Changing', kwargs: {{}}}}", "optimizer={target: 'torch.optim:SGD', kwargs: {}}"),
    ],
)  # fmt: skip
def test_what_trains_is_not_refused(changes: tuple[str, ...], ready: Checked) -> None:
    """correctness 95"""
    found = ready(*changes)
    assert found.batch == [4, 1, 64, 64]
    assert found.output == [4, 2, 64, 64]
    assert found.loss is not None
    assert {"train_loss", "val_loss", "val_IoU", "val_IoU_building", "lr", "epoch"} <= set(found.metrics)
    assert 0 < found.peak_memory_bytes <= found.memory_bytes


@pytest.mark.parametrize("accumulation_steps", [1, 3])
def test_the_time_of_the_training_follows_from_the_second_batch(ready: Checked, accumulation_steps: int) -> None:
    sleeping = (f"model.target={HERE}:Sleeping", "model.kwargs={seconds: 0.3}")
    chips = ("data.batch_size=4", "data.chips_per_epoch=20", "trainer.epochs=7")
    found = ready(*sleeping, *chips, f"trainer.accumulation_steps={accumulation_steps}")
    assert found.batch_s is not None
    assert 0.3 <= found.batch_s < found.duration_s - 0.3  # the first has slept, too
    assert found.training_s == pytest.approx(found.batch_s * 5 * 7)
    assert f"; training takes about {duration_text(found.training_s)}" in found.in_words()


def test_the_time_of_a_single_batch_is_not_known(ready: Checked) -> None:
    found = ready("data.batch_size=4", "data.chips_per_epoch=4")
    assert (found.batch_s, found.training_s) == (None, None)
    assert "training takes" not in found.in_words()


def _prepared(atlanta: Path, folder: Path, *changes: str) -> RunDirectory:
    config = RunConfig.load(atlanta.parent / "run.yaml", [*TINY, f"storage={folder / 'storage'}", *changes])
    run = RunDirectory.create(config)
    pipeline.prepare(run)
    return run


def test_a_model_for_one_date_is_refused_a_stack(
    atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """correctness 95"""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    image = RunConfig.load(atlanta.parent / "run.yaml").data.scenes[0].image
    changes = [f"data.scenes.0.image=[{image}, {image}]", "data.layout=stack"]
    run = _prepared(atlanta, tmp_path, *changes)
    with pytest.raises(ConfigError, match=r"model\.target = 'ununennium\.models:UNet': fails on a batch \(4, 2, 1, 64"):
        check_training(Components(run))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["gate.metric=iou"], "gate.metric = 'iou': there is no such metric; did you mean 'IoU'?"),
        (["gate.floors={IoU.buildin: 0.3}"], "gate.floors = 'IoU.buildin': .* did you mean 'IoU.building'?"),
        (["gate.slices=[scenes]"], "gate.slices = 'scenes': no scene has it; did you mean 'scene'?"),
        (["data.classes=[background, building, pool]"], "no labelled pixel of: 'pool' .* data.classes"),
        (["storage=github://owner/repository"], "storage = "),
        (["data.batch_size=65536", "data.chip_size=512"], "data.batch_size = 65536: a batch of 65536 chips of 512 px"),
    ],
)
def test_names_and_places_are_checked_before_anything_is_trained(
    changes: list[str], message: str, atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """correctness 95"""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    config = RunConfig.load(atlanta.parent / "run.yaml", [*TINY, f"storage={tmp_path / 'storage'}", *changes])

    def dry_run() -> None:
        run = RunDirectory.create(config)
        plan = pipeline.prepare(run)
        if "batch_size" in changes[0]:
            Components(run)
        pipeline.check(run, plan)

    with pytest.raises(UnunenniumError, match=message):
        dry_run()


def test_training_is_bit_identical_with_and_without_the_check(
    atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """correctness 95"""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    changes = [f"model={{target: '{HERE}:Changing', kwargs: {{}}}}", "trainer.ema_decay=0.9"]
    ends = []
    for checked in (False, True):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        run = _prepared(atlanta, tmp_path, *changes)
        components = Components(run)
        before = _copied(random_state())
        weights = _copied(components.model.state_dict())
        if checked:
            check_training(components)
        assert _equal(random_state(), before)
        assert _equal(components.model.state_dict(), weights)
        assert components.model.calls == 0
        trainer, _ = build_trainer(run, components=components)
        history = trainer.fit()
        ends.append((weights, _copied(trainer.state_dict()), history, random_state()["torch"]))
    (first_weights, first, first_history, first_random), (weights, last, history, generator) = ends
    assert _equal(weights, first_weights)
    assert _equal(last["model"], first["model"])
    assert _equal(last["optimizer"], first["optimizer"])
    assert history == first_history
    assert torch.equal(generator, first_random)


def _copied(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.clone()
    if isinstance(state, dict):
        return {key: _copied(value) for key, value in state.items()}
    return [_copied(value) for value in state] if isinstance(state, list | tuple) else state


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)


def test_the_check_can_be_left_out(atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    run = RunDirectory.create(RunConfig.load(atlanta.parent / "run.yaml", TINY))
    assert torchrun_command(run, check=False)[-1] == "--no-check"
    assert "--no-check" not in torchrun_command(run)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_real_run_is_opened_by_the_check(atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """correctness 95"""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    run = _prepared(atlanta, tmp_path, "checkpoints.monitor=val_iou", "checkpoints.mode=max", "launcher.max_restarts=2")
    lines: list[str] = []
    with pytest.raises(ConfigError, match=r"checkpoints\.monitor = 'val_iou': is not logged; did you mean 'val_IoU'\?"):
        pipeline.train(run, on_line=lines.append).require_usable()
    assert not run.metrics_file.exists()
    assert not any(line.startswith("epoch") for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("wrong", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_command_line_checks_in_a_dry_run(wrong: bool, atlanta: Path, tmp_path: Path) -> None:
    """correctness 95"""
    changes = [*TINY, f"storage={tmp_path / 'storage'}", *(["optimizer.kwargs.lr=fast"] if wrong else [])]
    command = [sys.executable, "-m", "ununennium", "train", str(atlanta.parent / "run.yaml"), "--dry-run", "--json"]
    command += [part for change in changes for part in ("--set", change)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False, cwd=tmp_path)
    if wrong:
        assert done.returncode == 2
        assert "error: optimizer.kwargs.lr = 'fast': give a value of type float" in done.stderr
        assert "Traceback" not in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["check"]["batch"] == [4, 1, 64, 64]
    assert not (tmp_path / "storage").exists()
    assert not any((tmp_path / ".ununennium" / "runs").glob("*"))
