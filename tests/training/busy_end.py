"""What torchrun runs for test_process_group.py: a script that ends while Gloo's threads hardly get to run."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from ununennium.training import Trainer, TrainerConfig, distributed


@distributed.process_group("cpu", timeout_s=60)
def main() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, nn.MSELoss(), [(torch.ones(1, 2), torch.ones(1, 2))], config=TrainerConfig(1))
    trainer.fit()
    processor = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {processor})
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().startswith("pt_gloo"):
            os.sched_setaffinity(int(task.name), {processor})
            os.setpriority(os.PRIO_PROCESS, int(task.name), 19)
    time.sleep(0.1)
    for _ in range(20):
        dist.all_reduce(torch.ones(1000))


if __name__ == "__main__":
    main()
