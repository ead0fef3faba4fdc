"""Scenes from STAC: a catalogue, a collection or items in files, or an API."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import shapely

from ununennium.config import CatalogConfig, SceneConfig
from ununennium.config.data import BandFile, Image
from ununennium.config.parsing import make_section
from ununennium.data.scenes.antimeridian import box_meets, boxes_meet, normal_box
from ununennium.data.scenes.raster import open_raster
from ununennium.data.scenes.sources.files import label_settings, read_bytes, without_labels
from ununennium.data.scenes.sources.hrefs import check_href
from ununennium.errors import ConfigError, DataError, UnunenniumError

_FIELD = "data.catalog.stac"

_BASELINE_WITH_OFFSET = 4.0  # https://sentiwiki.copernicus.eu/web/s2-products
_REFLECTANCE_SCALE, _REFLECTANCE_OFFSET = 0.0001, -0.1


def scenes_in_stac(catalog: CatalogConfig, *, labelled: bool = True) -> list[SceneConfig]:
    """The items that the catalogue's settings choose, in its order, each a scene with the item's id as name.

    Args:
        catalog: the section.
        labelled: whether each must have a label; without, none gets one.

    Raises:
        DataError: the catalogue cannot be read, an item lacks an asset, or an image has no label.
        ConfigError: a package is missing.
    """
    assert catalog.stac is not None
    items = list(_items(catalog))
    sources = _label_items(items)
    images = [item for item in items if item.id not in {label.id for label in sources.values()}]
    scenes, unlabelled = [], []
    for item in islice(images, catalog.limit):
        label, label_field = _label(item, sources, catalog) if labelled else (None, None)
        if labelled and label is None:
            unlabelled.append(item.id)
            continue
        settings = label_settings(catalog)
        settings["label_field"] = settings["label_field"] or label_field
        date = item.datetime or item.common_metadata.start_datetime
        scenes.append(
            make_section(
                SceneConfig,
                {
                    "image": _image(item, catalog),
                    "label": label,
                    "name": item.id,
                    "date": date.date().isoformat() if date else None,
                    "attributes": _attributes(item, catalog),
                    **settings,
                },
                field=f"{_FIELD}: item {item.id!r}",
            )
        )
    without_labels(
        unlabelled, catalog, "name their asset in data.catalog.label_asset, or add label items that name them as source"
    )
    return scenes


def _attributes(item: Any, catalog: CatalogConfig) -> dict[str, str]:
    """Properties of an item that evaluations are sliced by."""
    named = {"sensor": "platform"} | {name: name for name in catalog.attributes}
    return {ours: str(item.properties[theirs]) for ours, theirs in named.items() if item.properties.get(theirs)}


def _items(catalog: CatalogConfig) -> Iterator[Any]:
    """Items that the search settings choose, label items among them."""
    try:
        import pystac
        import pystac_client
        from pystac_client.exceptions import APIError
    except ImportError as error:
        raise ConfigError(
            _FIELD, catalog.stac, "STAC needs pystac and pystac-client: pip install 'ununennium-eo[stac]'"
        ) from error

    class Files(pystac.StacIO):
        """Reads local files and URLs, object storage too; writes nothing."""

        def read_text(self, source: Any, *args: Any, **kwargs: Any) -> str:
            href = str(pystac.utils.make_absolute_href(str(getattr(source, "href", source))))
            check_href(href, str(catalog.stac), _FIELD)
            return read_bytes(href, _FIELD).decode()

        def write_text(self, dest: Any, txt: str, *args: Any, **kwargs: Any) -> None:
            raise NotImplementedError("a catalogue is only read")

    assert catalog.stac is not None
    files = Files()
    try:
        content = files.read_json(catalog.stac)
        if content.get("type") == "FeatureCollection":
            root = pystac.ItemCollection.from_dict(content)
            for item in root:
                item.set_self_href(item.get_self_href() or posixpath.join(posixpath.dirname(catalog.stac), item.id))
            yield from _chosen(root, catalog)
        elif any(link.get("rel") == "search" for link in content.get("links", [])):
            api = pystac_client.Client.open(catalog.stac)
            box = None if catalog.bbox is None else normal_box(catalog.bbox)
            search = api.search(
                collections=catalog.collections or None, bbox=box, datetime=catalog.datetime,
                max_items=catalog.limit,
            )  # fmt: skip
            yield from search.items()
        else:
            found = pystac.read_file(catalog.stac, stac_io=files)
            if isinstance(found, pystac.Catalog):
                yield from _chosen(found.get_items(recursive=True), catalog)
            elif isinstance(found, pystac.Item):
                yield found
    except (pystac.STACError, pystac.STACTypeError, APIError, KeyError, ValueError, AttributeError) as error:
        if isinstance(error, UnunenniumError):
            raise
        raise DataError(
            f"{_FIELD}: {catalog.stac} is no STAC that can be read ({type(error).__name__}: {error})"
        ) from error


def _chosen(items: Iterable[Any], catalog: CatalogConfig) -> Iterator[Any]:
    """Items that an API would give: those of the collections that touch the box in the interval."""
    start, end = _interval(catalog.datetime)
    for item in items:
        if catalog.collections and item.collection_id not in catalog.collections:
            continue
        if catalog.bbox is not None and not _touches(item, catalog.bbox):
            continue
        first = item.common_metadata.start_datetime or item.datetime
        last = item.common_metadata.end_datetime or item.datetime
        if (start and last and last < start) or (end and first and first > end):
            continue
        yield item


def _touches(item: Any, box: tuple[float, float, float, float]) -> bool:
    """Tell whether an item lies in a box, by its geometry or else its bounding box; one without either does."""
    try:
        if item.geometry is not None:
            return box_meets(box, shapely.geometry.shape(item.geometry))
        return item.bbox is None or boxes_meet(box, item.bbox)
    except (shapely.errors.ShapelyError, AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(f"{_FIELD}: item {item.id!r} has a geometry or bbox that cannot be read ({error})") from error


def _interval(text: str | None) -> tuple[datetime | None, datetime | None]:
    """Both ends of ``a/b``, of a day, or of a moment; None where open. A day ends with its last moment."""
    if text is None:
        return None, None
    parts = text.split("/") if "/" in text else [text, text]
    try:
        first, last = parts
        ends = []
        for part, midnight in ((first, ""), (last, "T23:59:59.999999")):
            whole = part + midnight if len(part) == len("2026-05-18") else part
            moment = None if part in ("", "..") else datetime.fromisoformat(whole.replace("Z", "+00:00"))
            ends.append(moment.replace(tzinfo=moment.tzinfo or UTC) if moment else None)
    except ValueError as error:
        raise ConfigError("data.catalog.datetime", text, "give 2026-05-18, or 2026-05-01/2026-09-30") from error
    return ends[0], ends[1]


def _label_items(items: list[Any]) -> dict[str, Any]:
    """Label items by what they label: the ids and addresses that their ``source`` links lead to."""
    found = {}
    for item in items:
        for link in item.get_links("source"):
            target = link.target
            where = target.get_self_href() if hasattr(target, "get_self_href") else link.get_absolute_href()
            if where:
                found[where] = item
    return found


def _label(item: Any, sources: dict[str, Any], catalog: CatalogConfig) -> tuple[str | None, str | None]:
    """Address of the item's label, and the attribute with its class where the label extension names one."""
    if catalog.label_asset is not None:
        asset = item.assets.get(catalog.label_asset)
        return (None, None) if asset is None else (_href(item, catalog.label_asset, catalog), None)
    label = sources.get(item.get_self_href())
    if label is None:
        return None, None
    keys = [key for key, asset in label.assets.items() if key == "labels" or "labels" in (asset.roles or [])]
    keys = keys or list(label.assets)[:1]
    if not keys:
        raise DataError(f"{_FIELD}: the label item {label.id!r} of {item.id!r} has no asset; give it one with labels")
    attributes = label.properties.get("label:properties") or []
    vector = label.properties.get("label:type") != "raster"
    return _href(label, keys[0], catalog), attributes[0] if vector and attributes else None


def _href(item: Any, key: str, catalog: CatalogConfig) -> str:
    asset = item.assets.get(key)
    if asset is None:
        raise DataError(f"{_FIELD}: item {item.id!r} has no asset {key!r}; it has {', '.join(item.assets) or 'none'}")
    href = str(asset.get_absolute_href() or asset.href)
    check_href(href, str(catalog.stac), f"{_FIELD}: item {item.id!r}", written=str(asset.href))
    return href


def _image(item: Any, catalog: CatalogConfig) -> Image:
    """Bands by name: the asset's key for a file of one band, else what the item says of the file's bands."""
    bands: dict[str, BandFile] = {}
    for key in catalog.assets:
        href = _href(item, key, catalog)
        with open_raster(href, f"asset {key!r} of item {item.id!r}") as source:
            count, described = source.count, source.descriptions
            own = list(zip(source.scales, source.offsets, strict=True))
        if count == 1:
            tags = _tags(item, key, 0, own[0])
            bands[key] = href if tags is None else (href, 1, *tags)
            continue
        fields = item.assets[key].extra_fields
        said = [band.get("name") for band in fields.get("bands") or fields.get("eo:bands") or []]
        names = said if len(said) == count else described
        for number, name in enumerate(names, 1):
            name = name or f"{key}_{number}"
            if name in bands:
                raise DataError(
                    f"{_FIELD}: item {item.id!r} has two bands {name!r} in its assets "
                    f"{', '.join(catalog.assets)}; choose fewer"
                )
            tags = _tags(item, key, number - 1, own[number - 1])
            bands[name] = (href, number) if tags is None else (href, number, *tags)
    return bands


def _tags(item: Any, key: str, position: int, own: tuple[float, float]) -> tuple[float, float] | None:
    """Scale and offset of a band, as the item states them; None where only the file does, or nobody.

    They stand in ``raster:bands`` (STAC 1.0), in ``bands``, or at the asset itself (STAC 1.1). Sentinel-2 items without
    them are of numbers / 10000, from baseline 04.00 on with 1000 added.

    Args:
        item: the item.
        key: of the asset.
        place: of the band in the asset's file, from 0.
        own: scale and offset that the file states.
    """
    fields = item.assets[key].extra_fields
    said: dict[str, Any] = {
        name: fields[f"raster:{name}"] for name in ("scale", "offset") if f"raster:{name}" in fields
    }
    for listed, prefix in (("bands", "raster:"), ("raster:bands", "")):
        entries = fields.get(listed) or []
        entry = entries[position] if position < len(entries) else {}
        said |= {name: entry[prefix + name] for name in ("scale", "offset") if entry.get(prefix + name) is not None}
    applied = any(item.properties.get(f"{catalog}:boa_offset_applied") for catalog in ("earthsearch", "sentinel"))
    if said:
        return float(said.get("scale", 1.0)), 0.0 if applied else float(said.get("offset", 0.0))
    baseline = item.properties.get("s2:processing_baseline") or item.properties.get("sentinel:processing_baseline")
    if baseline is None or own != (1.0, 0.0) or not _is_reflectance(key, fields):
        return None
    try:
        has_offset = float(baseline) >= _BASELINE_WITH_OFFSET and not applied
    except ValueError:
        return None
    return _REFLECTANCE_SCALE, _REFLECTANCE_OFFSET if has_offset else 0.0


def _is_reflectance(key: str, fields: Mapping[str, Any]) -> bool:
    """Tell whether a Sentinel-2 asset holds a spectral band, and not classes, a picture, or water vapour."""
    if re.fullmatch(r"B(0?[1-9]|8A|1[0-2])(_\d+m)?", key, re.IGNORECASE):
        return True
    bands = fields.get("eo:bands") or fields.get("bands") or []
    return len(bands) == 1 and bool(bands[0].get("common_name") or bands[0].get("eo:common_name"))
