"""A PyTorch-native training loop: mixed precision, accumulation, clipping, callbacks, DDP under torchrun.

Needs torch, NumPy and fsspec only. Names are imported when first used, so that ``ununennium.launch.training``, which
starts training processes, costs its caller no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ununennium.training.callbacks import Callback, CheckpointCallback, EarlyStopping
    from ununennium.training.state import StopReason, TrainerState
    from ununennium.training.trainer import Trainer, TrainerConfig

__all__ = [
    "Callback",
    "CheckpointCallback",
    "EarlyStopping",
    "StopReason",
    "Trainer",
    "TrainerConfig",
    "TrainerState",
]

_HOME = {
    "Callback": "callbacks",
    "CheckpointCallback": "callbacks",
    "EarlyStopping": "callbacks",
    "StopReason": "state",
    "TrainerState": "state",
    "Trainer": "trainer",
    "TrainerConfig": "trainer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
