"""From scenes to batches: catalog, split, index, statistics, chips, loaders.

Names are imported when first used: looking at imagery and indexing it costs no import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ununennium.data.catalog import Scene, open_catalog
    from ununennium.data.dataset import GridChips, TrainingChips
    from ununennium.data.index import ChipIndex, build_index
    from ununennium.data.loaders import Loaders, build_loaders
    from ununennium.data.reader import SceneReader
    from ununennium.data.sampler import BucketedRandomSampler
    from ununennium.data.splits import HOLDOUT, TRAIN, VALIDATION, Split
    from ununennium.data.statistics import BandStatistics, compute_statistics, normalise

__all__ = [
    "HOLDOUT",
    "TRAIN",
    "VALIDATION",
    "BandStatistics",
    "BucketedRandomSampler",
    "ChipIndex",
    "GridChips",
    "Loaders",
    "Scene",
    "SceneReader",
    "Split",
    "TrainingChips",
    "build_index",
    "build_loaders",
    "compute_statistics",
    "normalise",
    "open_catalog",
]

_HOME = {
    "HOLDOUT": "splits",
    "TRAIN": "splits",
    "VALIDATION": "splits",
    "BandStatistics": "statistics",
    "ChipIndex": "index",
    "GridChips": "dataset",
    "Loaders": "loaders",
    "BucketedRandomSampler": "sampler",
    "Scene": "catalog",
    "SceneReader": "reader",
    "Split": "splits",
    "TrainingChips": "dataset",
    "build_index": "index",
    "build_loaders": "loaders",
    "compute_statistics": "statistics",
    "normalise": "statistics",
    "open_catalog": "catalog",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
