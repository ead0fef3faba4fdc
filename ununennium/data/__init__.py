"""From scenes to batches: catalog, split, index, statistics, chips, loaders."""

from ununennium.data.catalog import Scene, open_catalog
from ununennium.data.dataset import GridChips, TrainingChips
from ununennium.data.index import ChipIndex, build_index
from ununennium.data.loaders import Loaders, build_loaders
from ununennium.data.reader import SceneReader
from ununennium.data.sampler import RandomChipSampler
from ununennium.data.splits import HOLDOUT, TRAIN, VALIDATION, Split
from ununennium.data.statistics import BandStatistics, compute_statistics, normalise

__all__ = [
    "HOLDOUT",
    "TRAIN",
    "VALIDATION",
    "BandStatistics",
    "ChipIndex",
    "GridChips",
    "Loaders",
    "RandomChipSampler",
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
