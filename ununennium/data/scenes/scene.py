"""One image with its labels, as its files describe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import rasterio

from ununennium.data.scenes.bands import BandSet, ImageBands


@dataclass(frozen=True)
class Scene:
    """One image with its labels.

    Attributes:
        name: unique among the scenes.
        images: rasterio path of each date, all on one grid: a path, a URL, or the text of a GDAL VRT.
        dates: day of each image (ISO 8601), where known.
        files: every file that the images and labels are read from: the scene changes if one of them does.
        label: path or URL of the labels; None if it has none.
        label_kind: ``raster`` on the image's grid, or ``vector``.
        label_field: vector attribute with the class; None if every shape is ``label_value``.
        label_value: class value of shapes without a field; None for the second class.
        outside: class of pixels outside every shape; None if nobody said (``data.chips.defaults`` finds out).
        width: columns.
        height: rows.
        num_bands: bands in the first image, without alpha bands: those are masks.
        dtype: of the pixels, that of all bands and dates.
        crs: WKT of the coordinate reference system; None without one.
        transform: affine coefficients (a, b, c, d, e, f): x = a col + b row + c, y = d col + e row + f.
        nodata: pixel value without data, by the first image's tag.
        band_names: of the first image, without alpha bands: the file's descriptions; ``band <n>`` where it has none.
        has_mask: whether an image carries a mask or alpha band.
        block_shape: (rows, columns) of the blocks in which the file is compressed.
        classes: of the scene as a whole, where it has no label file.
        placed_by: ``transform``, ``points`` (the transform is fitted to ground control points), or ``none``; without a
            CRS, ``points``, ``polynomials`` or ``arrays`` place the image only when it is warped.
        attributes: names and values of what else is known of it, by which evaluations are sliced.
        label_layer: layer of a vector file with labels.
        label_buffer_m: metres on the ground by which its shapes are grown.
        label_unknown: ``error`` or ``unlabelled``, for labels that are no class.
        labelled_area: vector file of the area in which labels are complete; None for the whole image.
        labelled_regions: the same as rectangles (first row, row after the last, first column, column after the last).
        class_values: (label value, class number) pairs, where they differ; empty where they do not.
        image_bands: properties of the bands of each image, as its file states them; empty in indexes of version 4.
    """

    name: str
    images: tuple[str, ...]
    dates: tuple[str | None, ...]
    files: tuple[str, ...]
    label: str | None
    label_kind: Literal["raster", "vector"] | None
    label_field: str | None
    label_value: int | None
    outside: Literal["background", "unlabelled"] | None
    width: int
    height: int
    num_bands: int
    dtype: str
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    nodata: float | None
    band_names: tuple[str, ...]
    has_mask: bool
    block_shape: tuple[int, int]
    classes: tuple[str, ...] = ()
    attributes: tuple[tuple[str, str], ...] = ()
    placed_by: str = "transform"
    label_layer: str | None = None
    label_buffer_m: float | None = None
    label_unknown: Literal["error", "unlabelled"] = "error"
    labelled_area: str | None = None
    labelled_regions: tuple[tuple[int, int, int, int], ...] = ()
    class_values: tuple[tuple[int, int], ...] = ()
    image_bands: tuple[ImageBands, ...] = ()

    @property
    def affine(self) -> rasterio.Affine:
        """The transform as an ``Affine``."""
        return rasterio.Affine(*self.transform)

    @property
    def resolution(self) -> tuple[float, float]:
        """Size of a pixel in units of the CRS, (x, y), both positive."""
        a, b, _, d, e, _ = self.transform
        return (a**2 + d**2) ** 0.5, (b**2 + e**2) ** 0.5

    @property
    def num_dates(self) -> int:
        """Images in the stack; 1 for a single one."""
        return len(self.images)

    @property
    def bands_of_images(self) -> tuple[ImageBands, ...]:
        """Properties of the bands of each image; in indexes of version 4 the first image's hold for all."""
        if self.image_bands:
            return self.image_bands
        count, masks = self.num_bands, (1 if self.has_mask else 0,) * self.num_bands
        scales, offsets, nodata = (1.0,) * count, (0.0,) * count, (self.nodata,) * count
        alike = ImageBands(self.band_names, (self.dtype,) * count, nodata, masks, scales, offsets)
        return (alike,) * self.num_dates

    def band_set(self, bands: Sequence[int | str] | None = None) -> BandSet:
        """Bands that are meant by name, or by number from 1, in the order given; all but alpha bands if not given.

        Raises:
            ConfigError: the first image has no such band.
        """
        found = BandSet.of(self.bands_of_images[0], bands, self.name)
        return found if self.image_bands else replace(found, names=(), tags=())

    def band_numbers(self, bands: Sequence[int | str]) -> tuple[int, ...]:
        """Numbers from 1 in the first image of the bands that are meant by name, or by number, in the order given.

        Raises:
            ConfigError: the scene has no such band.
        """
        image = self.bands_of_images[0]
        return BandSet(tuple(bands), alpha=image.alpha).numbers(image, self.name)

    def names_of(self, bands: BandSet | Sequence[int | str] | None = None) -> list[str]:
        """Names in the first image of bands, those of another scene among them; of all but alpha bands if not given.

        Raises:
            ConfigError: the scene has no such band.
        """
        image = self.bands_of_images[0]
        wanted = bands if isinstance(bands, BandSet) else BandSet(tuple(bands or image.inputs), alpha=image.alpha)
        return [image.names[number - 1] for number in wanted.numbers(image, self.name)]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Scene:
        """The inverse of ``to_dict``."""
        names = ("images", "dates", "files", "transform", "band_names", "block_shape", "classes")
        tuples = {name: tuple(values[name]) for name in names}
        for name in ("attributes", "labelled_regions", "class_values"):
            tuples[name] = tuple(tuple(each) for each in values.get(name, ()))
        images = tuple(ImageBands.from_dict(image) for image in values.get("image_bands", ()))
        return cls(**{**values, **tuples, "image_bands": images})
