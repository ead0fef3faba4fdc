"""What two ranks report of averaged weights, one process can find again from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.training.averaged_ranks import make_model, samples
from ununennium.checkpoints.store import CheckpointStore
from ununennium.training.callbacks.ema import averaged_weights

PROGRAM = Path(__file__).with_name("averaged_ranks.py")


@pytest.mark.slow
def test_the_validation_loss_of_averaged_weights_is_that_of_the_checkpoint(kit: Any, tmp_path: Path) -> None:
    """correctness 32: the averaged BatchNorm buffers, too, are rank 0's on every rank before validation."""
    kit.on_ranks(2, PROGRAM, tmp_path / "checkpoints", tmp_path / "out")
    model = make_model().eval()
    averages = averaged_weights(CheckpointStore.read(str(tmp_path / "checkpoints")))
    assert averages is not None
    model.load_state_dict(averages)
    with torch.no_grad():
        losses = [F.cross_entropy(model(image), target).item() for image, target in samples(9, 6)]
    reported = torch.load(tmp_path / "out", weights_only=True)
    assert reported[-1] == pytest.approx(sum(losses) / len(losses), rel=1e-6)
