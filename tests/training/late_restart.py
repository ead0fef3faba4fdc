"""What torchrun runs for test_process_group.py: rank 1 is killed three times, and rank 0 comes late each time.

Which of two ranks connects to the other is up to their ports, hence three times.
"""

from __future__ import annotations

import os
import signal
import time

import torch
import torch.distributed as dist

from ununennium.training import distributed

STARTS = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
RANK = os.environ["RANK"]


@distributed.process_group("cpu", timeout_s=20)
def main() -> None:
    dist.all_reduce(torch.ones(1))
    if STARTS < 3 and RANK == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(torch.ones(1))


if __name__ == "__main__":
    if STARTS and RANK == "0":
        time.sleep(3)
    main()
