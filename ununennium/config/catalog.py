"""Catalogues of scenes that are not listed one by one: a folder, a table, or STAC."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, model_validator

from ununennium.config.section import Location, Section


class CatalogConfig(Section):
    """Scenes from a folder, a table or a STAC catalogue; give exactly one of ``folder``, ``table`` and ``stac``."""

    folder: Location | None = None
    """Folder with images and labels: a path, or a URL such as ``s3://bucket/prefix``."""
    images: str = "**/*.tif"
    """Folder: pattern of the images' paths in it; ``*`` is any part of a name, ``**`` any sub-folders."""
    labels: str | None = None
    """Folder: a label's path beside its image, such as ``{stem}_mask.tif`` or ``../masks/{stem}.tif``. ``{stem}`` is
    the image's name without its ending, ``{1}`` what the first ``*`` in the name of ``images`` stands for."""
    table: Location | None = None
    """CSV or Parquet file with a row per scene and columns ``image``, ``label`` and others of a scene's settings;
    several images of a stack are separated by ``;``. Relative paths are taken from the table's folder."""
    stac: Location | None = None
    """STAC catalogue, collection or item collection (a file or URL), or the address of a STAC API."""
    collections: list[str] = []
    """STAC: ids of the collections to search; all if not given."""
    bbox: tuple[float, float, float, float] | None = None
    """STAC: west, south, east, north in degrees; only items that touch it. Across the antimeridian west is greater than
    east (``[179, -18, -179, -17]``), or east lies beyond 180."""
    datetime: str | None = None
    """STAC: a day, or an interval such as ``2026-05-01/2026-09-30``; an open end is ``..``."""
    limit: int | None = Field(default=None, ge=1)
    """STAC: at most so many items."""
    assets: list[str] = []
    """STAC: keys of the image assets in the model's order; files of one band become bands with their keys as names."""
    label_asset: str | None = None
    """STAC: key of the label asset; without it, label items (the label extension) that name the image as source."""
    attributes: list[str] = []
    """Table: further columns, STAC: properties, by which the evaluation is sliced, such as ``[season]``; a STAC item's
    ``platform`` is ``sensor`` by itself."""
    label_field: str | None = None
    """Vector labels: the attribute that holds a class, for scenes that name none."""
    label_value: int | None = Field(default=None, ge=0)
    """Vector labels without ``label_field``: the class value of every shape; if not given, the second class."""
    label_layer: str | None = None
    """Vector labels: the layer to read, for scenes that name none."""
    label_buffer_m: float | None = Field(default=None, gt=0.0)
    """Vector labels: metres on the ground by which every shape is grown; required for lines and points."""
    label_unknown: Literal["error", "unlabelled"] = "error"
    """Labels that are no class: an error, or unlabelled."""
    labelled_area: Location | None = None
    """Vector file of the area in which labels are complete; pixels outside of it are unlabelled."""
    class_from: Literal["folder"] | None = None
    """Folder, classification without ``labels``: an image's class is the name of the ``folder`` that it lies in."""
    outside: Literal["background", "unlabelled"] = "background"
    """Vector labels: what pixels outside every shape are, for scenes that do not say."""
    unlabelled: Literal["refuse", "skip"] = "refuse"
    """Images without a label: an error, or left out with a warning that counts them."""

    @model_validator(mode="after")
    def _one_source(self) -> CatalogConfig:
        kinds = [kind for kind in ("folder", "table", "stac") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of folder, table and stac; given: {', '.join(kinds) or 'none'}")
        if self.folder is not None and self.attributes:
            raise ValueError("attributes goes with table and stac, not with folder")
        owners = {"images": "folder", "labels": "folder", "class_from": "folder"}
        owners |= dict.fromkeys(("collections", "bbox", "datetime", "limit", "assets", "label_asset"), "stac")
        for name in sorted(owners):
            if owners[name] != kinds[0] and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} goes with {owners[name]}, not with {kinds[0]}")
        if self.stac is not None and not self.assets:
            raise ValueError("stac needs assets: the keys of the image assets in the model's order")
        return self

    def relocated(self, absolute: Callable[[Any], Any]) -> CatalogConfig:
        """A copy whose own locations went through ``absolute``, a function of a path."""
        paths = ("folder", "table", "stac", "labelled_area")
        return self.model_copy(update={name: absolute(getattr(self, name)) for name in paths})
