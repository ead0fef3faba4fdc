"""The attribute of vector labels that holds classes: found in the file where the configuration names none."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.vector_files import read_table
from ununennium.data.scenes.vector_shapes import layer_info
from ununennium.data.targets.class_numbers import ClassNumbers, is_empty, likeness
from ununennium.data.targets.label_shapes import shape_class
from ununennium.errors import DataError

_MOST_NAMED = 6
_STRAY_SHARE = 0.05
"""Share of class names below which they are a coincidence in an attribute whose values are mostly different."""

_PLAIN = ("OFTString", "OFTInteger", "OFTInteger64", "OFTReal")

Columns = Mapping[str, npt.NDArray[Any]]


def with_attribute(scene: Scene, numbers: ClassNumbers) -> Scene:
    """A scene with the class attribute of its vector labels, and what lies outside of its shapes.

    The attribute is the only text with nothing but class names, else the only one with nothing but the values that the
    configuration maps to classes. Pixels outside of all shapes are unlabelled if some shape is of the first class,
    which then is no background.

    Args:
        scene: any scene; one without vector labels stays as it is.
        numbers: finds classes.

    Raises:
        DataError: an attribute holds class names beside other values, or several hold nothing else, and no setting
            chooses.
    """
    if scene.label_kind != "vector" or (scene.label_field is not None and scene.outside is not None):
        return scene
    columns = _columns(scene)
    field = scene.label_field or _find(scene, columns, numbers)
    outside = scene.outside
    if outside is None:
        found = numbers.of_attributes(columns[field]) if field else [shape_class(scene, numbers)]
        outside = "unlabelled" if 0 in found else "background"
    return replace(scene, label_field=field, outside=outside)


def _columns(scene: Scene) -> Columns:
    """Values of the attribute that is configured, or of all attributes of text or numbers."""
    assert scene.label is not None
    info = layer_info(scene.label, scene.label_layer, f"labels of scene {scene.name!r}")
    plain = [str(name) for name, kind in zip(info["fields"], info["ogr_types"], strict=True) if kind in _PLAIN]
    wanted = [scene.label_field] if scene.label_field else plain
    if not wanted:
        return {}
    meta, _, columns = read_table(scene.label, layer=scene.label_layer, columns=wanted, read_geometry=False)
    return {str(name): values for name, values in zip(meta["fields"], columns, strict=True)}


def _find(scene: Scene, columns: Columns, numbers: ClassNumbers) -> str | None:
    """Name of the class attribute; None if every shape is of one class."""
    texts = {name: values for name, values in columns.items() if values.dtype.kind == "O"}
    names = set(numbers.classes)
    fits = [name for name, values in texts.items() if len(values) and names.issuperset(values)]
    if not fits and scene.label_value is None:
        fits = [name for name, values in columns.items() if _holds_values(values, numbers)]
    if fits and all(np.array_equal(columns[fits[0]], columns[other]) for other in fits[1:]):
        if scene.label_value not in (None, 1):
            warnings.warn(
                f"labels of scene {scene.name!r}: classes are read from the attribute {fits[0]!r}, which holds nothing "
                f"but classes; label_value = {scene.label_value} is not used",
                stacklevel=5,
            )
        return fits[0]
    if scene.label_value is not None:
        return None
    file = f"labels of scene {scene.name!r}: {scene.label}"
    if fits:
        raise DataError(
            f"{file}: the attributes {', '.join(map(repr, fits))} hold nothing but classes, and differ; name one "
            "in label_field"
        )
    near = {name: values for name, values in texts.items() if _nearly_fits(values, numbers)}
    near |= {name: values for name, values in columns.items() if _nearly_holds_values(values, numbers)}
    if len(near) == 1 and scene.label_unknown == "unlabelled":
        return next(iter(near))
    if near:
        raise DataError(f"{file}: {_complaint(near, numbers)}")
    _tell_values(columns, scene, numbers, file)
    return None


def _holds_values(values: npt.NDArray[Any], numbers: ClassNumbers) -> bool:
    """Tell whether an attribute holds nothing but values that classes are given, more than one of them."""
    found = set(values.tolist()) if numbers.of_value else set()
    return len(found) > 1 and None not in numbers.of_attributes(found)


def _nearly_holds_values(values: npt.NDArray[Any], numbers: ClassNumbers) -> bool:
    """Tell whether most shapes have a value that the configuration gives a class, and values repeat themselves."""
    if not numbers.of_value:
        return False
    known = [numbers.of_attribute(value) is not None for value in values.tolist()]
    return 2 * sum(known) >= len(known) > 0 and len(set(values.tolist())) <= len(known) / 2


def _nearly_fits(values: npt.NDArray[Any], numbers: ClassNumbers) -> bool:
    """Tell whether an attribute holds class names, in any spelling, that are no coincidence."""
    classes = {likeness(name) for name in numbers.classes}
    texts = [likeness(value) for value in values if not is_empty(value)]
    hits = sum(text in classes for text in texts)
    return bool(hits) and (hits >= _STRAY_SHARE * len(texts) or len(set(texts)) <= len(texts) / 2)


def _is_class(value: Any, numbers: ClassNumbers) -> bool:
    """Tell whether a value is a class name, or a value that the configuration gives a class."""
    return value in numbers.classes or bool(numbers.of_value and numbers.of_attribute(value) is not None)


def _complaint(near: Columns, numbers: ClassNumbers) -> str:
    """Count and name what does not fit, for each attribute that nearly does."""
    parts = []
    for name, values in list(near.items())[:_MOST_NAMED]:
        wrong = [place for place, value in enumerate(values) if not _is_class(value, numbers)]
        parts.append(
            f"{len(wrong)} of {len(values)} shapes have no class by the attribute {name!r}, shape {wrong[0] + 1} the "
            f"first: {name} = {numbers.complaint(values[wrong])} is no class"
        )
    field = next(iter(near)) if len(near) == 1 else "..."
    return (
        f"{'; '.join(parts)}; data.classes are {numbers.in_words()}; correct the attribute, set label_field: {field} "
        "with label_unknown: unlabelled, or label_value: 1 if every shape is of one class"
    )


def _tell_values(columns: Columns, scene: Scene, numbers: ClassNumbers, file: str) -> None:
    """Warn that all shapes are of one class, where an attribute looks like classes of other names."""
    for name, values in columns.items():
        texts = [str(value) for value in values if not is_empty(value)]
        distinct = sorted(set(texts))
        known = values.dtype.kind == "O" or any(numbers.of_attribute(value) is not None for value in values)
        if known and 1 < len(distinct) <= len(texts) / 2:
            some = ", ".join(map(repr, distinct[:_MOST_NAMED])) + (" ..." if len(distinct) > _MOST_NAMED else "")
            warnings.warn(
                f"{file}: no attribute holds class names ({name}: {some}), so every shape is "
                f"{numbers.classes[shape_class(scene, numbers)]!r}; label_value: 1 says so, label_field names an "
                "attribute",
                stacklevel=6,
            )
            return
