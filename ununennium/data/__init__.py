"""From scenes to batches: catalog, split, index, statistics, chips, loaders.

Names are imported when first used: looking at imagery and indexing it costs no import of torch.
"""

from typing import TYPE_CHECKING

from ununennium.importing import lazy_names

if TYPE_CHECKING:
    from ununennium.data.chips.dataset import TrainingChips
    from ununennium.data.chips.grid_chips import GridChips
    from ununennium.data.chips.index import ChipIndex, build_index
    from ununennium.data.chips.loaders import Loaders, build_loaders
    from ununennium.data.chips.sampler import BucketedRandomSampler
    from ununennium.data.chips.statistics import BandStatistics, compute_statistics, normalise
    from ununennium.data.scenes.catalog import open_catalog
    from ununennium.data.scenes.reader import SceneReader
    from ununennium.data.scenes.scene import Scene
    from ununennium.data.splits.splits import HOLDOUT, TRAIN, VALIDATION, Split

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

_HOMES = {
    "HOLDOUT": ".splits.splits",
    "TRAIN": ".splits.splits",
    "VALIDATION": ".splits.splits",
    "BandStatistics": ".chips.statistics",
    "ChipIndex": ".chips.index",
    "GridChips": ".chips.grid_chips",
    "Loaders": ".chips.loaders",
    "BucketedRandomSampler": ".chips.sampler",
    "Scene": ".scenes.scene",
    "SceneReader": ".scenes.reader",
    "Split": ".splits.splits",
    "TrainingChips": ".chips.dataset",
    "build_index": ".chips.index",
    "build_loaders": ".chips.loaders",
    "compute_statistics": ".chips.statistics",
    "normalise": ".chips.statistics",
    "open_catalog": ".scenes.catalog",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
