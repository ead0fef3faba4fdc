"""A PyTorch-native training loop: mixed precision, accumulation, clipping, callbacks, DDP under torchrun.

Needs torch, NumPy and fsspec only.
"""

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
