"""A PyTorch-native training loop: mixed precision, accumulation, clipping, callbacks, DDP under torchrun.

Needs torch, NumPy and fsspec only. Names are imported when first used, so that ``ununennium.launch.training``, which
starts training processes, costs its caller no import of torch.
"""

from typing import TYPE_CHECKING

from ununennium.importing import lazy_names

if TYPE_CHECKING:
    from ununennium.training.callbacks import Callback, CheckpointCallback, EarlyStopping, Progress
    from ununennium.training.state import StopReason, TrainerState
    from ununennium.training.trainer import Trainer, TrainerConfig

__all__ = [
    "Callback",
    "CheckpointCallback",
    "EarlyStopping",
    "Progress",
    "StopReason",
    "Trainer",
    "TrainerConfig",
    "TrainerState",
]

_HOMES = {
    "Callback": ".callbacks",
    "CheckpointCallback": ".callbacks",
    "EarlyStopping": ".callbacks",
    "Progress": ".callbacks",
    "StopReason": ".state",
    "TrainerState": ".state",
    "Trainer": ".trainer",
    "TrainerConfig": ".trainer",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
