"""``Progress`` and the argument of the same name: on a terminal, in a notebook, in a pipe."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from tests.terminals import ROOT, on_terminal
from ununennium.errors import ConfigError
from ununennium.training import Progress, Trainer, TrainerConfig
from ununennium.training.callbacks import EarlyStopping

PROGRAM = """
    import sys, time
    if {plain}:
        sys.modules["rich"] = None  # as if it were not installed
    import torch
    from torch import nn
    from torch.utils.data import DataLoader, Dataset
    from ununennium.training import EarlyStopping, Trainer, TrainerConfig

    class Slow(Dataset):
        def __len__(self):
            return 8
        def __getitem__(self, number):
            time.sleep({item_s})
            return torch.randn(2, 8, 8), torch.randint(0, 2, (8, 8))

    model = nn.Conv2d(2, 2, 1)
    Trainer(
        model, torch.optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), DataLoader(Slow(), batch_size=2),
        DataLoader(Slow(), batch_size=8), callbacks=[EarlyStopping("val_loss", 10)],
        config=TrainerConfig(epochs=3, device="cpu", mixed_precision=False), progress={progress},
    ).fit()
    print("the end")
"""
LIVE = r"epoch {epoch} of 3, batch \d of 4; (loss \d\.\d{{4}}{metric}; )?([\d.]+ batches/s, )?at most [\d.]+ s left"


def program(*, progress: bool | None = None, plain: bool = False, item_s: float = 0.3) -> list[str]:
    values = {"progress": progress, "plain": plain, "item_s": item_s}
    return [sys.executable, "-c", textwrap.dedent(PROGRAM).format(**values)]


def in_pipe(command: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment, check=True)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["rich", "without rich"])
def test_a_terminal_shows_epoch_batch_loss_metric_and_time_left(tmp_path: Path, plain: bool) -> None:
    status, screen = on_terminal(program(plain=plain), tmp_path)
    assert status == 0, screen
    first, later = LIVE.format(epoch=1, metric=""), LIVE.format(epoch=3, metric=r"  val_loss \d\.\d{4}")
    assert screen.index("waiting for the first batch") < re.search(first, screen).start()
    assert re.search(later, screen)
    assert "batch 4 of 4, validating; loss" in screen
    told = re.findall(r"epoch +(\d)  train_loss \d\.\d{4}  val_loss \d\.\d{4}  lr ", screen)
    assert told == ["1", "2", "3"]
    assert ("\x1b[" in screen) is not plain
    before_end = screen.partition("the end")[0]
    assert before_end.endswith(" \r" if plain else "\x1b[1A\x1b[2K"), "the live line is taken away"


@pytest.mark.slow
def test_a_narrow_terminal_loses_the_speed_and_keeps_the_time_left(tmp_path: Path) -> None:
    status, screen = on_terminal(program(plain=True), tmp_path, columns=80)
    assert status == 0, screen
    assert re.search(r"epoch 3 of 3, batch \d of 4; loss \d\.\d{4}  val_loss \d\.\d{4}; at most [\d.]+ s left", screen)


@pytest.mark.slow
def test_false_is_silent_on_a_terminal(tmp_path: Path) -> None:
    assert on_terminal(program(progress=False, item_s=0.0), tmp_path) == (0, "the end\r\n")


@pytest.mark.slow
def test_a_pipe_gets_nothing_by_itself_and_a_line_per_epoch_if_asked() -> None:
    assert in_pipe(program(item_s=0.0)).stderr == ""
    waits, *lines = in_pipe(program(progress=True, item_s=1.2)).stderr.splitlines()
    assert waits == "waiting for the first batch ..."
    assert [line[:9] for line in lines] == ["epoch   1", "epoch   2", "epoch   3"]


def test_a_short_wait_is_not_worth_a_line(kit, capsys) -> None:
    kit.trainer(kit.model(), kit.loader(), callbacks=[Progress()]).fit()
    time.sleep(2.5)
    assert capsys.readouterr().err.startswith("epoch   1")


class _OutStream(io.StringIO):
    """Output as a Jupyter kernel has it."""

    def isatty(self) -> bool:
        return False


_OutStream.__module__ = "ipykernel.iostream"


def test_a_notebook_shows_a_line_that_is_rewritten_below_the_cell(kit, monkeypatch, capsys) -> None:
    output = _OutStream()
    monkeypatch.setattr(sys, "stdout", output)
    model = kit.model()
    config = TrainerConfig(epochs=2, device="cpu", mixed_precision=False)
    Trainer(
        model, torch.optim.SGD(model.parameters(), 0.1), torch.nn.CrossEntropyLoss(), kit.loader(), config=config
    ).fit()
    text = output.getvalue()
    assert "\repoch 1 of 2, batch 1 of 6; loss " in text
    assert "\x1b" not in text
    assert "epoch   2  train_loss" in text
    assert capsys.readouterr().err == "", "standard error is red there"


def test_a_progress_that_the_user_gave_is_the_only_one(kit) -> None:
    def made(progress, callbacks=None):
        model = kit.model()
        return Trainer(
            model, torch.optim.SGD(model.parameters(), 0.1), torch.nn.CrossEntropyLoss(), kit.loader(),
            callbacks=callbacks, config=TrainerConfig(device="cpu"), progress=progress,
        ).callbacks  # fmt: skip

    mine = Progress()
    assert made(True, [mine]) == [mine]
    assert made(False, [mine]) == [mine]
    assert [type(each) for each in made(True)] == [Progress]
    assert made(False) == made(None) == []
    with pytest.raises(ConfigError, match="progress = 'yes'"):
        made("yes")


def test_fit_says_how_many_epochs_it_trains_to_and_a_loader_needs_no_length(kit, capsys) -> None:
    class Endless(IterableDataset):
        def __iter__(self):
            return iter(kit.dataset(8))

    trainer = kit.trainer(kit.model(), DataLoader(Endless(), batch_size=4), callbacks=[Progress(live=True)], epochs=9)
    trainer.fit(2)
    err = capsys.readouterr().err
    assert "epoch 1 of 2, batch 1; loss " in err
    assert trainer.epochs == 2


def test_a_run_resumes_with_and_without_progress(kit) -> None:
    state = kit.trainer(kit.model(), kit.loader(), callbacks=[Progress(), EarlyStopping("train_loss")]).state_dict()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = kit.trainer(kit.model(), kit.loader(), callbacks=[EarlyStopping("train_loss")])
        other.load_state_dict(state)
        kit.trainer(kit.model(), kit.loader(), callbacks=[Progress(), EarlyStopping("train_loss")]).load_state_dict(
            other.state_dict()
        )
