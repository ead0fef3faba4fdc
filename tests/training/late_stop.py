"""What each rank of test_agreement.py runs: rank 1 is asked to stop just after the ranks have agreed to go on.

Usage: late_stop.py OUT STEP; writes OUT.<rank>.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ununennium.training import StopReason, Trainer, TrainerConfig, distributed


@distributed.process_group("cpu", timeout_s=60)
def main(out: str, step: str) -> None:
    agree = distributed.max_over_ranks

    def agree_and_be_told(value, device):
        agreed = agree(value, device)
        if dist.get_rank() == 1 and trainer.state.global_step == int(step):
            trainer.request_stop(StopReason.PREEMPTED, "SIGTERM was received")
        return agreed

    distributed.max_over_ranks = agree_and_be_told
    model = nn.Linear(4, 3)
    batches = [(torch.randn(2, 4), torch.randint(0, 3, (2,))) for _ in range(4)]
    config = TrainerConfig(epochs=2, device="cpu", mixed_precision=False, agree_every_steps=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), batches, config=config)
    trainer.fit()
    ended = [trainer.state.global_step, str(trainer.state.stop_reason)]
    Path(f"{out}.{dist.get_rank()}").write_text(json.dumps(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
