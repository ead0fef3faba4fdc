"""Class names and values, read from the labels of a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ununennium.discover.files import MAX_CLASSES, RasterFile, VectorLayer
from ununennium.discover.pairing import LABEL_WORDS, Pair
from ununennium.errors import DataError

_NO_NAMES = LABEL_WORDS | {"background", "polygons", "shapes", "lines", "points"}
IGNORED = 255
"""Default of ``data.ignore_index``."""


@dataclass
class Classes:
    """Classes that the labels hold.

    Attributes:
        names: class names, by value from 0; or by the value in the files.
        settings: of ``data``, besides the classes.
        guess: guessed part of the names; empty where files name them.
    """

    names: list[str] | dict[int, str]
    settings: dict[str, Any] = field(default_factory=dict)
    guess: str = ""


def classes_of(pairs: list[Pair], notes: list[str]) -> Classes:
    """Class names of the pairs' labels; pairs whose labels are of another kind than most are taken out.

    Raises:
        DataError: labels of one class alone, or of too many.
    """
    _keep_one_kind(pairs, notes)
    rasters = [found.label for found in pairs if isinstance(found.label, RasterFile)]
    layers = [found.label for found in pairs if isinstance(found.label, VectorLayer)]
    name = _name_of(pairs[0].label, pairs[0].image.first)
    return _of_layers(layers, name, notes) if layers else _of_rasters(rasters, name, notes)


def _keep_one_kind(pairs: list[Pair], notes: list[str]) -> None:
    """Leave raster labels, shapes with names, with numbers and without either unmixed."""
    words = {"raster": "a label raster", "text": "shapes with class names", "number": "shapes with class numbers"}

    def kind_of(found: Pair) -> str:
        if isinstance(found.label, RasterFile):
            return "raster"
        if found.label.field is None:
            return "shapes"
        return "text" if isinstance(found.label.values[0], str) else "number"

    counts = Counter(kind_of(found) for found in pairs)
    if len(counts) < 2:
        return
    most = max(counts, key=lambda kind: counts[kind])
    for found in [found for found in pairs if kind_of(found) != most]:
        notes.append(
            f"{found.image.first.path} was left out: it has {words.get(kind_of(found), 'shapes without classes')}, and "
            f"most scenes have {words.get(most, 'shapes without classes')}"
        )
        pairs.remove(found)


def _of_layers(layers: Sequence[VectorLayer], name: str, notes: list[str]) -> Classes:
    values = sorted({value for layer in layers for value in layer.values}, key=lambda value: (str(type(value)), value))
    settings: dict[str, Any] = {}
    unknown = [layer for layer in layers if layer.num_unknown]
    if unknown:
        names = ", ".join(f"{layer.num_unknown} in {layer.path.name}" for layer in unknown)
        notes.append(f"shapes without a class ({names}) were taken to be unlabelled (data.scenes: label_unknown)")
    if not values:
        return Classes(["background", name], settings, "named after the file of the shapes")
    _check_number(values)
    if all(isinstance(value, str) for value in values):
        texts = [str(value) for value in values]
        alike = Counter(text.strip().casefold() for text in texts)
        twice = [text for text in texts if alike[text.strip().casefold()] > 1]
        if twice:
            notes.append(f"class names that are nearly equal are classes of their own: {', '.join(map(repr, twice))}")
        return Classes(texts if len(texts) > 1 else ["background", *texts], settings)
    return _by_value([int(value) for value in values], settings)


def _of_rasters(labels: Sequence[RasterFile], name: str, notes: list[str]) -> Classes:
    values = {value for label in labels for value in label.values or ()}
    settings: dict[str, Any] = {}
    negative = sorted(value for value in values if value < 0)
    values -= set(negative)
    if negative:
        settings["ignore_index"] = negative[0]
        notes.append(f"the label value {negative[0]} was taken to be unlabelled (data.ignore_index)")
        if len(negative) > 1:
            raise DataError(
                f"the labels hold the negative values {', '.join(map(str, negative))}; one value can be unlabelled "
                "(data.ignore_index): write the others as that one"
            )
    elif IGNORED in values:
        if values <= {0, IGNORED}:
            notes.append(f"label values 0 and {IGNORED}: {IGNORED} was taken to be a class, not unlabelled")
        else:
            values -= {IGNORED}
            notes.append(f"the label value {IGNORED} was taken to be unlabelled (data.ignore_index)")
    if len(values) < 2:
        raise DataError(_one_class(labels, values))
    _check_number(values)
    if values == {0, 1}:
        return Classes(["background", name], settings, "named after the label file")
    return _by_value(sorted(values), settings, name)


def _by_value(values: Sequence[int], settings: dict[str, Any], name: str | None = None) -> Classes:
    """Names by value: a list for 0, 1, 2, ..., else a mapping."""
    names = {value: "background" if value == 0 else f"class_{value}" for value in values}
    if name is not None and len(values) == 2 and values[0] == 0:
        names[values[1]] = name
    counted = list(values) == list(range(len(values)))
    guess = "named by their values: give them names"
    return Classes(list(names.values()) if counted else names, settings, guess)


def _name_of(label: RasterFile | VectorLayer, image: RasterFile) -> str:
    """A name for the second of two classes: the last word of the labels' name, where the image's has it not."""
    name = label.layer if isinstance(label, VectorLayer) and label.layer else label.path.stem
    word = label.words[-1] if label.words else ""
    is_useful = len(word) > 2 and name.lower().endswith(word) and word not in image.words and word not in _NO_NAMES
    return word if is_useful else "object"


def _check_number(values: Any) -> None:
    if len(values) > MAX_CLASSES:
        raise DataError(
            f"the labels hold {len(values)} classes; `ununennium init` writes at most {MAX_CLASSES}: write the "
            "configuration by hand, with data.classes"
        )


def _one_class(labels: Sequence[RasterFile], values: set[int]) -> str:
    held = f"the value {min(values)} alone" if values else "no value that is a class"
    tagged = [label for label in labels if label.nodata is not None]
    if tagged:
        return (
            f"the labels hold {held}, and a model tells at least two classes apart: the tag of {tagged[0].path} says "
            f"that {tagged[0].nodata:g} is no data, and so unlabelled; if it is the background, take the tag away: rio "
            f"edit-info --unset-nodata {tagged[0].path}"
        )
    return f"the labels hold {held}; a model tells at least two classes apart: label what is none of it, too"
