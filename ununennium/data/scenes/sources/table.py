"""Scenes from a table: a row each."""

from __future__ import annotations

import csv
import io
from typing import Any

from pydantic import ValidationError

from ununennium.config import CatalogConfig, SceneConfig
from ununennium.data.scenes.sources.files import joined, label_settings, read_bytes, without_labels
from ununennium.data.scenes.sources.hrefs import check_href
from ununennium.errors import ConfigError, DataError


def scenes_in_table(catalog: CatalogConfig, *, labelled: bool = True) -> list[SceneConfig]:
    """The scenes of a CSV or Parquet table, in its order.

    Args:
        catalog: the section.
        labelled: whether each must have a label or classes, if the table has a column for them.

    Raises:
        DataError: it cannot be read, or a row lacks a value or has one that cannot work.
        ConfigError: Parquet without pyarrow.
    """
    assert catalog.table is not None
    table, folder = catalog.table, catalog.table.replace("\\", "/").rpartition("/")[0]
    rows = _rows_of(table)
    known = sorted(SceneConfig.model_fields.keys() - {"attributes"})
    columns = list(rows[0][1]) if rows else []
    unknown = [column for column in columns if column not in known and column not in catalog.attributes]
    missing = [column for column in catalog.attributes if rows and column not in columns]
    if missing:
        raise ConfigError("data.catalog.attributes", missing[0], f"{table} has no such column: {', '.join(columns)}")
    if rows and (unknown or "image" not in columns):
        problem = f"has a column {unknown[0]!r}" if unknown else "has no column 'image'"
        raise DataError(
            f"data.catalog.table: {table} {problem}; a scene's columns are {', '.join(known)}, and those that "
            "data.catalog.attributes names"
        )
    scenes, unlabelled = [], []
    for row, values in rows:
        given = {name: value for name, value in values.items() if value not in (None, "")}
        if "image" not in given:
            raise DataError(f"data.catalog.table: {table}, row {row}: column 'image' is empty; give the image's path")
        if labelled and "label" in columns and "label" not in given and "classes" not in given:
            unlabelled.append(f"row {row}, column 'label' ({given['image']})")
            continue
        own = {name: str(given.pop(name)) for name in catalog.attributes if name in given and name not in known}
        own |= {name: str(given[name]) for name in catalog.attributes if name in given}
        settings: dict[str, Any] = label_settings(catalog) | given | {"attributes": own}
        for name in ("image", "date"):
            if name in given:
                settings[name] = _one_or_many(str(given[name]))
        if "classes" in given:
            settings["classes"] = [name.strip() for name in str(given["classes"]).split(";") if name.strip()]
        settings["image"] = _located(settings["image"], folder)
        for name in ("label", "labelled_area"):
            if name in given and not str(given[name]).startswith("<"):
                settings[name] = _located(str(given[name]), folder)
        images = settings["image"] if isinstance(settings["image"], list) else [settings["image"]]
        for href in [*images, *filter(None, [settings.get("label")])]:
            check_href(str(href), table, f"data.catalog.table, row {row}")
        try:
            scenes.append(SceneConfig.model_validate(settings))
        except ValidationError as error:
            complaint = error.errors()[0]
            column = complaint["loc"][0] if complaint["loc"] else "image"
            raise DataError(
                f"data.catalog.table: {table}, row {row}, column {column!r}: {given.get(str(column))!r}: "
                f"{complaint['msg'].removeprefix('Value error, ')}"
            ) from None
    without_labels(unlabelled, catalog, "fill them in")
    return scenes


def _one_or_many(text: str) -> str | list[str]:
    """A cell with ``;`` between several values."""
    parts = [part.strip() for part in text.split(";") if part.strip()]
    return parts if len(parts) > 1 else text.strip().rstrip(";")


def _located(path: Any, folder: str) -> Any:
    return [joined(folder, one) for one in path] if isinstance(path, list) else joined(folder, str(path))


def _rows_of(table: str) -> list[tuple[int, dict[str, Any]]]:
    """Row numbers, as an editor or a spreadsheet counts them, with column -> value."""
    content = read_bytes(table, "data.catalog.table")
    if table.lower().endswith((".parquet", ".pq")):
        return _parquet(table, content)
    try:
        reader = csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        rows = []
        for values in reader:
            if None in values or None in values.values():
                raise DataError(
                    f"data.catalog.table: {table}, row {reader.line_num}: has "
                    f"{'more' if None in values else 'fewer'} cells than the header; quote cells with commas"
                )
            rows.append((reader.line_num, {name.strip(): value.strip() for name, value in values.items()}))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"data.catalog.table: {table} is no CSV in UTF-8 ({error})") from error
    return rows


def _parquet(table: str, content: bytes) -> list[tuple[int, dict[str, Any]]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(
            "data.catalog.table", table, "Parquet needs pyarrow: pip install 'ununennium-eo[parquet]', or write CSV"
        ) from error
    try:
        rows = pyarrow.parquet.read_table(pyarrow.BufferReader(content)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"data.catalog.table: {table} is no Parquet table ({error})") from error
    return [
        (number, {name: None if value is None else str(value) for name, value in row.items()})
        for number, row in enumerate(rows, 1)
    ]
