"""Device on which the training processes of this machine compute, told without importing torch where that can be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DRIVERS = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvmap", "/dev/dxg", "/dev/kfd")
"""Files of the drivers by which torch reaches a GPU on Linux: NVIDIA's, Jetson's, WSL's, AMD's."""
_ASK_TORCH = (
    "import sys; from ununennium.training.config import TrainerConfig, resolve_device; "
    "print(resolve_device(TrainerConfig(device=sys.argv[1])))"
)
_TORCH_S = 120.0


def resolved_device(name: str) -> str | None:
    """The device that ``trainer.device`` stands for here; None if torch does not answer.

    torch is asked, in a process of its own, where a GPU may be; where there is no driver of one, nothing is started.
    """
    if name != "auto" and name.partition(":")[0] != "cuda":
        return name
    if sys.platform.startswith("linux") and not any(Path(file).exists() for file in DRIVERS):
        return "cpu"
    try:
        answer = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _ASK_TORCH, name],
            capture_output=True,
            text=True,
            timeout=_TORCH_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
