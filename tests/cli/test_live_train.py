"""``train`` on a terminal and in a pipe: the plan, waits, a live line, a line per epoch."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.conftest import TINY
from tests.terminals import ROOT, on_terminal
from ununennium.live_line import Wait

SLOW_MODEL = """
import time
from torch import nn

class Slow(nn.Module):
    batches = 0

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, image):
        if self.training:
            Slow.batches += 1
            time.sleep(2.5 if Slow.batches < 4 else 0.8)  # the check has the first two batches, too
        return self.layer(image)
"""
EPOCH = r"epoch +(\d)  train_loss \d\.\d{4}  val_loss \d\.\d{4}  val_IoU \d\.\d{4}  lr "


def train_command(atlanta: Path, *changes: str) -> list[str]:
    return [
        *(sys.executable, "-m", "ununennium", "train", str(atlanta.parent / "run.yaml")),
        *(part for change in [*TINY, "trainer.epochs=3", *changes] for part in ("--set", change)),
    ]


@pytest.mark.slow
def test_a_terminal_shows_waits_then_progress_and_then_the_result(atlanta: Path, tmp_path: Path) -> None:
    (tmp_path / "slow_net.py").write_text(SLOW_MODEL)
    command = train_command(atlanta, 'model={"target":"slow_net:Slow"}', "data.chips_per_epoch=32", "data.batch_size=8")
    status, screen = on_terminal(command, tmp_path)
    assert status == 0, screen
    plan, waits = (
        screen.index("steps         32 chips and 4 steps per epoch, 12 steps in all"),
        screen.index("starting 1 training process ..."),
    )
    live = re.search(
        r"epoch 2 of 3, batch \d of 4(, validating)?; loss \d\.\d{4}  val_\w+ \d\.\d{4}; "
        r"([\d.]+ batches/s, )?at most [\d.]+ s left",
        screen,
    )
    assert live is not None
    assert plan < waits < screen.index("waiting for the first batch ...") < live.start()
    after_check = screen.partition("checked: ")[2].partition("\n")[2]
    assert not after_check.startswith("trying two batches"), "what is over is no longer waited for"
    assert re.findall(EPOCH, screen) == ["1", "2", "3"]
    assert live.start() < screen.index("Next: ununennium evaluate")
    assert "\x1b[2K" in screen, "it is rewritten in its place"


@pytest.mark.slow
def test_a_pipe_gets_whole_lines_and_one_per_epoch(atlanta: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        train_command(atlanta), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert re.findall(EPOCH, done.stderr) == ["1", "2", "3"]
    assert "\x1b" not in done.stderr + done.stdout
    assert "\r" not in done.stderr + done.stdout
    assert "batches/s" not in done.stderr
    assert "starting 1 training process ...\n" in done.stderr, "importing torch twice takes longer than two seconds"


def test_a_wait_is_told_once_it_is_long_and_never_after_its_end() -> None:
    told: list[str] = []
    with Wait("short", told.append, after_s=0.2):
        pass
    with Wait("reading labels of 3 scenes", told.append, after_s=0.05):
        time.sleep(0.5)
    with Wait("unheard", None, after_s=0.0):
        time.sleep(0.1)
    time.sleep(0.3)
    assert told == ["reading labels of 3 scenes ..."]
