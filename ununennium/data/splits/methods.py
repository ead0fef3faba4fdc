"""Split methods: blocks or whole scenes dealt by their labels, by date, or from a file of the user's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ununennium.config import DataConfig, SplitConfig
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.vector_shapes import choose_layer, layer_info, read_shapes
from ununennium.data.splits.label_counts import count_blocks
from ununennium.data.splits.overlaps import overlapping, shared_places
from ununennium.data.splits.splits import (
    FOLDS,
    HOLDOUT,
    TRAIN,
    VALIDATION,
    Drawn,
    Rectangle,
    Split,
    place_on_grid,
    rectangles_of,
)
from ununennium.data.splits.stratify import (
    BLOCK_SIZES,
    Block,
    Histograms,
    assign_blocks,
    choose_block_size,
    coarsen,
)
from ununennium.data.targets.labels import LabelReader
from ununennium.errors import ConfigError, DataError

_BUFFER = 16  # pixels, where there are no blocks to derive it from
_MOST_SMALL_BLOCKS = 20_000
_SMALL_BLOCK = 32  # pixels; smaller ones hardly keep folds apart
_WHOLE = 2**40  # pixels, more than any scene has on a side
_MOST_CHECKED = 4096  # places, of all pairs of scenes that share ground
_MOST_CHECKED_PER_PAIR = 512
_SAME_PLACE = 0.5  # share of ground that makes two scenes one place


def make_split(readers: Sequence[SceneReader], labels: Sequence[LabelReader], config: DataConfig) -> Split:
    """Split the scenes as configured.

    Args:
        readers: of every scene.
        labels: of the same scenes.
        config: the data section of a run.

    Raises:
        DataError: label values outside the classes, or a file of folds that cannot be used.
        ConfigError: settings that do not fit the scenes.
    """
    scenes = [reader.scene for reader in readers]
    split = config.split
    buffer = _BUFFER if split.buffer is None else split.buffer
    size = split.block_size or BLOCK_SIZES[0]
    if split.method == "time":
        return Split(scenes, size, 0, [], {}, whole=_by_date(scenes, split))
    if split.method == "file":
        return Split(scenes, size, buffer, [], {}, drawn=_from_file(scenes, str(split.file)))
    regions = rectangles_of(scenes, split)
    # A scene with a class of its own is one sample: its blocks would tell the other folds the answer.
    whole = [scene.label is None for scene in scenes]
    if any(whole) and not all(whole) and split.method == "blocks":
        warnings.warn(
            "some scenes have a class of their own: all are dealt to the folds whole, none in blocks", stacklevel=2
        )
    if split.method == "scenes" or any(whole):
        return Split(scenes, size, buffer, [*_by_scene(readers, labels, config), *regions], {})
    size, blocks = _blocks(readers, labels, regions, config)
    judged = {block: fold for block, fold in _deal(blocks, split).items() if fold != TRAIN}
    return Split(scenes, size, size // 8 if split.buffer is None else split.buffer, regions, judged)


def expected_folds(split: SplitConfig) -> dict[str, bool]:
    """Fold name to whether it should have labels."""
    holdout = bool(split.holdout_regions) or split.folds is not None or split.holdout > 0
    if split.method == "time":
        holdout = split.holdout_from is not None
    return {"train": True, "validation": split.has_validation, "holdout": holdout and split.method != "file"}


def check_no_leak(split: Split, scenes: Sequence[Scene]) -> None:
    """Make sure, at random places on ground that scenes share, that none trains where another judges.

    Raises:
        AssertionError: one does; the message names the place.
    """
    pairs = [] if split.whole is not None else overlapping(scenes)
    if not pairs:
        return
    number = min(max(_MOST_CHECKED // len(pairs), 1), _MOST_CHECKED_PER_PAIR)
    rng = np.random.default_rng(split.block_size)
    for one, other, _ in pairs[:_MOST_CHECKED]:
        ours, theirs = shared_places(one, other, number, rng)
        for position, its_place in zip(ours.tolist(), theirs.tolist(), strict=True):
            fold = int(split.folds(one, position[0], position[1], 1, 1)[0, 0])
            its_fold = int(split.folds(other, its_place[0], its_place[1], 1, 1)[0, 0])
            folds = {fold, its_fold}
            leaks = TRAIN in folds and max(folds) > TRAIN
            assert not leaks, f"{one.name} {position} and {other.name} {its_place} are one place, in two folds: {folds}"


def _shares(split: SplitConfig) -> dict[int, float]:
    """Share of the labels that lie in no region of the user's; a fold with regions takes no share."""
    validation = 0.0 if split.validation_regions else split.validation
    holdout = 0.0 if split.holdout_regions else split.holdout
    if split.folds is not None:
        holdout = 1 / split.folds
        validation *= 1 - holdout
    return {TRAIN: max(0.0, 1.0 - validation - holdout), VALIDATION: validation, HOLDOUT: holdout}


def _deal(units: Histograms, split: SplitConfig) -> dict[Block, int]:
    """Fold of each unit. With ``folds``, each unit is held out by exactly one ``fold`` from 0 to ``folds`` - 1."""
    shares = _shares(split)
    if split.folds is None:
        return assign_blocks(units, shares, split.seed)
    parts = assign_blocks(units, dict.fromkeys(range(split.folds), 1 / split.folds), split.seed)
    rest = {unit: units[unit] for unit, part in parts.items() if part != split.fold}
    left = max(1 - shares[HOLDOUT], 1e-9)
    dealt = assign_blocks(rest, {fold: shares[fold] / left for fold in (TRAIN, VALIDATION)}, split.seed)
    return dealt | {unit: HOLDOUT for unit, part in parts.items() if part == split.fold}


def _blocks(
    readers: Sequence[SceneReader], labels: Sequence[LabelReader], rectangles: Sequence[Rectangle], config: DataConfig
) -> tuple[int, dict[Block, npt.NDArray[np.int64]]]:
    """The side of the blocks, and the labelled pixels per class of each that lies in no region of the user's."""

    def count(size: int) -> dict[Block, npt.NDArray[np.int64]]:
        regions = Split([reader.scene for reader in readers], size, 0, rectangles, {})
        return count_blocks(readers, labels, regions, config)

    if config.split.block_size is not None:
        return config.split.block_size, count(config.split.block_size)
    num_folds = config.split.folds or sum(share > 0 for share in _shares(config.split).values())
    finest = _SMALL_BLOCK
    blocks = count(finest)
    size, enough = choose_block_size(blocks, finest, num_folds)
    if not enough and len(blocks) <= _MOST_SMALL_BLOCKS:
        finest = BLOCK_SIZES[-1]
        blocks = count(finest)
        size, enough = choose_block_size(blocks, finest, num_folds)
    if size < _SMALL_BLOCK and num_folds > 1:
        warnings.warn(
            f"labels are so few or so close together that blocks of only {size} pixels bring the classes into every "
            "fold: what is judged lies beside what is trained on, and scores will flatter; label more places, or set "
            "data.split.block_size",
            stacklevel=5,
        )
    return size, coarsen(blocks, size // finest)


def _by_scene(readers: Sequence[SceneReader], labels: Sequence[LabelReader], config: DataConfig) -> list[Rectangle]:
    """Whole scenes of validation and holdout; scenes of one place (most of the smaller's ground) go together."""
    scenes = [reader.scene for reader in readers]
    leader = {scene.name: scene.name for scene in scenes}
    for one, other, share in overlapping(scenes):
        if share > _SAME_PLACE:
            old, new = leader[other.name], leader[one.name]
            leader = {name: new if its == old else its for name, its in leader.items()}
    units: dict[Block, npt.NDArray[np.int64]] = {}
    for reader, label in zip(readers, labels, strict=True):
        whole = count_blocks([reader], [label], Split([reader.scene], _WHOLE, 0, [], {}), config)
        key = leader[reader.scene.name], 0, 0
        for counts in whole.values():
            units[key] = units[key] + counts if key in units else counts
    dealt = _deal(units, config.split)
    found = []
    for fold in (VALIDATION, HOLDOUT):  # the later one wins where scenes share a little ground
        for scene in scenes:
            if dealt.get((leader[scene.name], 0, 0)) == fold:
                group, row, col = place_on_grid(scene)
                found.append((group, fold, row, row + scene.height, col, col + scene.width))
    return found


def _by_date(scenes: Sequence[Scene], split: SplitConfig) -> dict[str, int]:
    """Fold of each scene by the date of its last image."""
    found = {}
    for scene in scenes:
        date = scene.dates[-1]
        if date is None:
            raise ConfigError(
                "data.split.method", "time", f"scene {scene.name!r} has no date; give it one (data.scenes: date)"
            )
        found[scene.name] = TRAIN
        # ISO 8601 dates are ordered as their letters are.
        if split.validation_from is not None and date >= split.validation_from:
            found[scene.name] = VALIDATION
        if split.holdout_from is not None and date >= split.holdout_from:
            found[scene.name] = HOLDOUT
    return found


def _from_file(scenes: Sequence[Scene], path: str) -> Drawn:
    """The shapes of each fold that a file has."""
    what = "data.split.file"
    layer = choose_layer(path, None, None, what)
    known = list(layer_info(path, layer, what)["fields"])
    if "fold" not in known:
        raise DataError(f"data.split.file: {path} has no attribute 'fold' that says {', '.join(FOLDS)}")
    local = {scene.name for scene in scenes if scene.crs is None}
    columns = [name for name in ("fold", "scene") if name in known]
    found = read_shapes(path, layer, columns, what, may_hold_pixels=bool(local))
    names = found.columns.get("scene", [None] * len(found.geometries))
    shapes: list[tuple[int, str | None, str]] = []
    for shape, fold, name in zip(found.geometries, found.columns["fold"], names, strict=True):
        if not isinstance(fold, str) or fold not in FOLDS:
            raise DataError(f"data.split.file: {path} has fold = {fold!r}; the folds are {', '.join(FOLDS)}")
        shapes.append((FOLDS[fold], name if name in local else None, shape.wkt))
    if missing := local - {name for _, name, _ in shapes}:
        raise DataError(
            f"data.split.file: scene {min(missing)!r} has no CRS, and {path} no shape with that attribute scene, in "
            "pixels (x is the column, y the row)"
        )
    if not found.crs and len(local) < len(scenes):
        raise DataError(f"data.split.file: {path} names no CRS; write it with the one it is in")
    return Drawn(found.crs, shapes)
