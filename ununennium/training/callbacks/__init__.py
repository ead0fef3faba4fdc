"""Callbacks hook into the training lifecycle; ``Callback`` is their base."""

from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.checkpoint import CheckpointCallback
from ununennium.training.callbacks.early_stopping import EarlyStopping
from ununennium.training.callbacks.ema import EMA
from ununennium.training.callbacks.mlflow import MLflow
from ununennium.training.callbacks.monitor import Monitor
from ununennium.training.callbacks.presence_metrics import PresenceMetrics
from ununennium.training.callbacks.progress import Progress
from ununennium.training.callbacks.regression_metrics import RegressionMetrics
from ununennium.training.callbacks.segmentation_metrics import SegmentationMetrics
from ununennium.training.callbacks.torch_metric import TorchMetric
from ununennium.training.callbacks.tracking import MetricsFile, TensorBoard

__all__ = [
    "EMA",
    "Callback",
    "CheckpointCallback",
    "EarlyStopping",
    "MLflow",
    "MetricsFile",
    "Monitor",
    "PresenceMetrics",
    "Progress",
    "RegressionMetrics",
    "SegmentationMetrics",
    "TensorBoard",
    "TorchMetric",
]
