"""What only a CUDA device can show; `make bench-gpu` measures the speed there."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from ununennium.training import TrainerConfig
from ununennium.training.config import resolve_device

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class Poisoned(nn.Module):
    """Cross-entropy whose gradient is not finite for the chosen calls."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.count = calls, 0

    def forward(self, output, target):
        self.count += 1
        loss = nn.functional.cross_entropy(output, target)
        return loss + torch.sqrt((output * 0).sum()) if self.count in self.calls else loss


@pytest.mark.parametrize("mixed_precision", [False, "bf16", "fp16"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_skip_is_seen_with_and_without_a_fused_optimizer(kit, fused, mixed_precision):
    """correctness 17, on the device: nothing moves, and the skip is counted."""
    model = kit.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    trainer = kit.trainer(
        model, kit.loader(8, 4), Poisoned({1, 2}), optimizer=optimizer, mixed_precision=mixed_precision, device="cuda"
    )
    before = [value.cpu() for value in kit.weights(model)]
    trainer.fit()
    assert (trainer.state.global_step, trainer.state.skipped_steps) == (0, 2)
    assert kit.same(before, [value.cpu() for value in kit.weights(model)])


def test_true_is_fp16_whose_scaler_goes_on_after_a_resume(kit):
    """correctness 19, on the device: fp16 has a scaler, whose state is in the checkpoint; bf16 has none."""
    first = kit.trainer(kit.model(), kit.loader(8, 4), Poisoned({1}), mixed_precision=True, device="cuda")
    assert first.precision.name == "fp16"
    first.fit()
    state = copy.deepcopy(first.state_dict())
    assert state["scaler"]["scale"] == 32768.0
    second = kit.trainer(kit.model(2), kit.loader(8, 4), mixed_precision=True, device="cuda")
    second.load_state_dict(state)
    assert second.precision.scaler.state_dict() == first.precision.scaler.state_dict()
    assert kit.trainer(kit.model(), kit.loader(8, 4), mixed_precision="bf16", device="cuda").precision.scaler is None


def test_the_device_is_chosen_before_a_context_is_made():
    """correctness 71: resolving the device is the first CUDA call, and leaves memory on no other device."""
    code = (
        "import torch; from ununennium.training import TrainerConfig;"
        "from ununennium.training.config import resolve_device;"
        "assert not torch.cuda.is_initialized();"
        "device = resolve_device(TrainerConfig(device='cuda'));"
        "assert device == torch.device('cuda', 0) and torch.cuda.current_device() == 0"
    )
    subprocess.run([sys.executable, "-c", code], timeout=120, check=True)
    assert resolve_device(TrainerConfig()).index == torch.cuda.current_device()


@pytest.mark.xfail(
    reason="the loop reads the norm once per step: optimizers that are not fused cannot skip on the device", strict=True
)
def test_no_step_waits_for_the_device(kit):
    """correctness 73: no synchronisation between log points."""
    batches = [tuple(part.cuda() for part in kit.dataset(4)[:4]) for _ in range(4)]
    trainer = kit.trainer(kit.model(), batches, mixed_precision="bf16", device="cuda")
    step, waits = trainer._optimizer_step, []

    def watched():
        torch.cuda.set_sync_debug_mode("error")
        try:
            step()
        except RuntimeError as error:
            waits.append(str(error))
            raise
        finally:
            torch.cuda.set_sync_debug_mode("default")

    trainer._optimizer_step = watched
    trainer.fit()
    assert waits == []
