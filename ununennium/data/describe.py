"""Description of the training data in words: facts of scenes, and labelled pixels per fold and class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ununennium.data.chips.index import ChipIndex
from ununennium.data.scenes.bands import BandSet
from ununennium.data.scenes.places import crs_text, length_text, pixel_text, size_text
from ununennium.data.scenes.scene import Scene
from ununennium.data.splits.overlaps import overlapping

_MOST_NAMED = 12

Row = dict[str, str]


def scene_facts(scene: Scene, bands: BandSet | Sequence[int | str] | None = None) -> Row:
    """Facts that a scene's files state, each as a short text.

    Args:
        scene: a scene.
        bands: those that are read, by name or from 1, or as another scene has them; all if not given.
    """
    facts = {
        "size": size_text(scene.height, scene.width),
        "pixel": pixel_text(scene),
        "CRS": crs_text(scene.crs),
        "bands": _named(scene.names_of(bands), "bands"),
        "type": scene.dtype,
        "nodata": _nodata_text(scene),
        "blocks": size_text(*scene.block_shape),
        "labels": "none" if scene.label is None else "raster",
    }
    dates = [date for date in scene.dates if date is not None]
    if dates or scene.num_dates > 1:
        facts["dates"] = _named(dates, "dates") if dates else f"{scene.num_dates} dates"
    if scene.classes and scene.label is None:
        facts["labels"] = f"the scene is {', '.join(scene.classes)}"
    if scene.label_kind == "vector":
        facts["labels"] = _shapes_text(scene)
    if scene.labelled_area is not None:
        facts["labelled area"] = scene.labelled_area
    elif scene.labelled_regions:
        facts["labelled area"] = f"{len(scene.labelled_regions)} rectangle(s)"
    if scene.class_values:
        facts["label values"] = ", ".join(f"{value} is class {number}" for value, number in scene.class_values)
    if scene.label_unknown == "unlabelled" and scene.label is not None:
        facts["labels"] += "; what is no class is unlabelled"
    return facts


def _shapes_text(scene: Scene) -> str:
    """Vector labels of a scene in words."""
    value = 1 if scene.label_value is None else scene.label_value
    parts = [scene.label_field or f"all {value}", f"{scene.outside or 'background'} outside"]
    if scene.label_layer is not None:
        parts.insert(0, f"layer {scene.label_layer}")
    if scene.label_buffer_m is not None:
        parts.append(f"grown by {scene.label_buffer_m:g} m")
    return f"shapes ({'; '.join(parts)})"


def _nodata_text(scene: Scene) -> str:
    """Nodata values of all bands and dates, and a mask or alpha band."""
    images = scene.bands_of_images
    values = dict.fromkeys(image.nodata[number - 1] for image in images for number in image.inputs)
    texts = list(dict.fromkeys(f"{value:g}" for value in values if value is not None))
    if scene.has_mask and not texts:
        texts.append("a mask")
    return ", ".join(texts) or "none"


def scene_rows(index: ChipIndex) -> list[Row]:
    """One row per scene: its name, its facts, and the shares of it that are valid and labelled."""
    rows = []
    for scene_index, scene in enumerate(index.scenes):
        cells, area = index.survey.of(scene_index), scene.height * scene.width
        facts = scene_facts(scene, index.band_set)
        if index.nodata is not None:
            facts["nodata"] = f"{index.nodata:g} (data.nodata)"
        shares = {"valid": percent(cells.valid.sum() / area), "labelled": percent(cells.counts.sum() / area)}
        rows.append({"scene": scene.name, **facts, **shares})
    return rows


def common_and_own(rows: Sequence[Row]) -> tuple[Row, list[Row]]:
    """Facts that all scenes share, once; and rows of those in which they differ."""
    if not rows:
        return {}, []
    names = list(dict.fromkeys(name for row in rows for name in row))
    values = {name: {row.get(name, "none") for row in rows} for name in names}
    own = [name for name in names if name == "scene" or len(values[name]) > 1]
    common = {name: values[name].pop() for name in names if name not in own}
    return common, [{name: row.get(name, "none") for name in own} for row in rows]


def fold_rows(index: ChipIndex) -> list[Row]:
    """One row per class: labelled pixels of each fold, and their share of the fold; the last row: of all folds."""
    totals = {fold: sum(counts) for fold, counts in index.labelled.items()}
    rows = [
        {"class": name, **{fold: _counted(counts[number], totals[fold]) for fold, counts in index.labelled.items()}}
        for number, name in enumerate(index.classes)
    ]
    grand = sum(totals.values())
    return [*rows, {"class": "all classes", **{fold: _counted(total, grand) for fold, total in totals.items()}}]


def _counted(count: int, total: int) -> str:
    return f"{count:,}  {percent(count / total) if total else '-':>7}"


def split_text(index: ChipIndex) -> str:
    """Method of the split, in words."""
    split, scene = index.split, index.scenes[0]
    size, buffer = (
        f"{pixels} px" + (f" ({length_text(scene, pixels)})" if scene.crs is not None else "")
        for pixels in (split.block_size, split.buffer)
    )
    regions = f", {len(split.rectangles)} region(s) by hand" if split.rectangles else ""
    return f"blocks of {size}{regions}, buffer of {buffer}"


def overlap_texts(scenes: Sequence[Scene]) -> list[str]:
    """Scenes that share ground, in words; the split gives it one fold in all of them."""
    pairs = overlapping(scenes)
    texts = [
        f"{one.name} and {other.name} share {percent(share)} of the smaller one's ground"
        for one, other, share in sorted(pairs, key=lambda pair: -pair[2])[:_MOST_NAMED]
    ]
    return texts + ([f"{len(pairs) - _MOST_NAMED} more pairs share ground"] if len(pairs) > _MOST_NAMED else [])


def percent(share: float) -> str:
    """A share with as many digits as it takes to be seen, but no more."""
    if 0 < share < 0.001:
        return f"{100 * share:.2g} %"
    return f"{100 * share:.1f} %"


def _named(names: Sequence[str], what: str) -> str:
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{names[0]}, {names[1]} .. {names[-1]} ({len(names)} {what})"


def to_json(index: ChipIndex) -> dict[str, Any]:
    """The same for programs."""
    scenes = []
    for scene_index, scene in enumerate(index.scenes):
        cells = index.survey.of(scene_index)
        scenes.append(
            {
                **scene.to_dict(),
                "valid_pixels": int(cells.valid.sum()),
                "labelled_pixels": dict(zip(index.classes, cells.counts.sum(0).tolist(), strict=True)),
            }
        )
    return {
        **index.summary(),
        "scenes": scenes,
        "bands": index.bands,
        "split": {"block_size": index.split.block_size, "buffer": index.split.buffer},
        "overlaps": [[one.name, other.name, share] for one, other, share in overlapping(index.scenes)],
        "notes": index.notes,
    }
