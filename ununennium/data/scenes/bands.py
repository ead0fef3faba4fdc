"""Bands of each file: names, nodata, masks, alpha, scale and offset; and the plan of reading them as one unit.

Every image speaks for itself. The bands to read are those of the first scene's first image (``BandSet``); in every
other image they are found by name where both name them, judged by that image's own nodata values and masks, and brought
to the first image's numbers where scale or offset differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.enums import ColorInterp, MaskFlags

from ununennium.errors import ConfigError, DataError

_SAME_UNIT = 1e-6  # relative; tags are often rounded to 32 bits

Tags = tuple[tuple[float, float], ...]
"""(scale, offset) of each band: what is meant by a pixel is ``pixel * scale + offset``."""


@dataclass(frozen=True)
class ImageBands:
    """Properties that a file states for its bands, alpha bands included.

    Attributes:
        names: the file's descriptions; ``band <n>`` where it has none.
        dtypes: of the pixels.
        nodata: pixel values without data; None without a tag.
        masks: number of the band whose mask (``rasterio.read_masks``) holds for the band; 0 if none does, or only its
            nodata value or an alpha band.
        scales: ``pixel * scale + offset`` is the quantity in its unit.
        offsets: see ``scales``.
        alpha: numbers of the alpha bands, by colour interpretation; 0 in one of them is no data in all bands.
    """

    names: tuple[str, ...]
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    masks: tuple[int, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    alpha: tuple[int, ...] = ()

    @classmethod
    def of(cls, dataset: Any) -> ImageBands:
        """Read the properties of an open rasterio dataset."""
        colours = dict(enumerate(dataset.colorinterp, 1))
        alpha = tuple(number for number, colour in colours.items() if colour == ColorInterp.alpha)
        if len(alpha) == dataset.count:  # then it is all that there is to read
            alpha = ()
        flags = dict(enumerate(dataset.mask_flag_enums, 1))
        shared = next((n for n in flags if n not in alpha and MaskFlags.per_dataset in flags[n]), 0)
        return cls(
            names=tuple(text or f"band {number}" for number, text in enumerate(dataset.descriptions, 1)),
            dtypes=tuple(dataset.dtypes),
            nodata=tuple(None if value is None else float(value) for value in dataset.nodatavals),
            masks=tuple(_mask_band(number, flags[number], shared, bool(alpha)) for number in flags),
            scales=tuple(float(scale) for scale in dataset.scales),
            offsets=tuple(float(offset) for offset in dataset.offsets),
            alpha=alpha,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ImageBands:
        """The inverse of ``dataclasses.asdict``, also of what JSON made of it."""
        return cls(**{name: tuple(entries) for name, entries in values.items()})

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the bands that are not alpha."""
        return tuple(number for number in range(1, len(self.names) + 1) if number not in self.alpha)

    @property
    def declares_validity(self) -> bool:
        """Tell whether a nodata value, a mask or an alpha band says what is valid."""
        return bool(self.alpha) or any(self.masks) or any(value is not None for value in self.nodata)

    def with_nodata(self, value: float) -> ImageBands:
        """The same with one nodata value for all bands."""
        return replace(self, nodata=(value,) * len(self.names))


@dataclass(frozen=True)
class BandSet:
    """The bands that a model reads, in its order.

    Attributes:
        bands: by name, or by number from 1 in the first scene's first image.
        names: their names in that image; empty where nobody knows.
        alpha: numbers of that image's alpha bands.
        tags: (scale, offset) of each band in that image, to which those of others are converted; empty to read numbers
            as the files have them.
        nodata: value without data of each band, for images without a nodata tag; empty for none.
    """

    bands: tuple[int | str, ...]
    names: tuple[str, ...] = ()
    alpha: tuple[int, ...] = ()
    tags: Tags = ()
    nodata: tuple[float | None, ...] = ()

    @classmethod
    def of(cls, image: ImageBands, bands: Sequence[int | str] | None, scene: str) -> BandSet:
        """Bands of an image as others are to be read.

        Args:
            image: the first scene's first image.
            bands: by name or number; None for all but alpha bands.
            scene: name of the scene, for messages.

        Raises:
            ConfigError: the image has no such band.
        """
        wanted = cls(tuple(bands or image.inputs), alpha=image.alpha)
        positions = [number - 1 for number in wanted.numbers(image, scene)]
        names = tuple(image.names[position] for position in positions)
        return replace(wanted, names=names, tags=tuple((image.scales[k], image.offsets[k]) for k in positions))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BandSet:
        """The inverse of ``dataclasses.asdict``, also of what JSON made of it."""
        tags = tuple((scale, offset) for scale, offset in values["tags"])
        return cls(**{**{name: tuple(entries) for name, entries in values.items()}, "tags": tags})

    @classmethod
    def from_contract(cls, entries: Mapping[str, Any]) -> BandSet:
        """Bands of a promoted model, from entries of its contract about bands; see ``to_contract``."""
        bands = tuple(entries["bands"])
        nodata = entries.get("band_nodata") or [entries.get("nodata")] * len(bands)
        tags = tuple((float(scale), float(offset)) for scale, offset in entries.get("band_tags") or ())
        names = tuple(entries.get("band_names") or ())
        return cls(bands, names, tuple(entries.get("alpha_bands") or ()), tags, tuple(nodata))

    def of_model(self, entries: Mapping[str, Any]) -> BandSet:
        """Bands of a promoted model as it reads the scenes that these bands are of.

        Images are valid where these say so; a contract that is older than its tags means the numbers of these.
        """
        its = BandSet.from_contract(entries)
        tags = its.tags or (self.tags if len(its.bands) == len(self.bands) else ())
        return replace(its, tags=tags, nodata=self.nodata)

    def to_contract(self) -> dict[str, Any]:
        """Entries of a model's contract about the bands, beside ``nodata``."""
        return {
            "bands": list(self.bands),
            "band_names": list(self.names),
            "alpha_bands": list(self.alpha),
            "band_tags": [list(tags) for tags in self.tags],
        }

    def numbers(self, image: ImageBands, scene: str) -> tuple[int, ...]:
        """Numbers from 1 of the bands in an image: by name where both name them all, else by number.

        A number counts as in the first image; an alpha band between the others does not shift it.

        Raises:
            ConfigError: the image has no such band.
            DataError: it has one of the names elsewhere, and not all of them.
        """
        found = self._by_name(image)
        if found is not None:
            return found
        numbers = tuple(self._number(band, image, scene) for band in self.bands)
        for name, number in zip(self.names, numbers, strict=False):
            elsewhere = _places(name, image)
            if is_name(name) and len(elsewhere) == 1 and elsewhere[0] != number:
                raise DataError(
                    f"scene {scene!r} names its band {elsewhere[0]} {name!r}, and band {number} would be read as that: "
                    f"its bands are {', '.join(image.names)}, those to read {', '.join(self.names)}; name all of them "
                    "alike (gdal_edit.py, band descriptions), or choose bands by name in data.bands"
                )
        return numbers

    def matches_names(self, image: ImageBands) -> bool:
        """Tell whether the bands are found by name, or have no names to be found by."""
        return not are_names(self.names) or self._by_name(image) is not None

    def _by_name(self, image: ImageBands) -> tuple[int, ...] | None:
        if not are_names(self.names):
            return None
        positions = [_places(name, image) for name in self.names]
        return (
            tuple(position[0] for position in positions) if all(len(position) == 1 for position in positions) else None
        )

    def _number(self, band: int | str, image: ImageBands, scene: str) -> int:
        if isinstance(band, str):
            positions = _places(band, image)
            if len(positions) == 1:
                return positions[0]
        elif band in self.alpha:
            if len(image.alpha) > self.alpha.index(band):
                return image.alpha[self.alpha.index(band)]
        else:
            rank = band - sum(number < band for number in self.alpha)
            if 1 <= rank <= len(image.inputs):
                return image.inputs[rank - 1]
        several = isinstance(band, str) and image.names.count(band) > 1
        inputs = [image.names[number - 1] for number in image.inputs]
        alpha = f", and alpha: band {', '.join(map(str, image.alpha))}" if image.alpha else ""
        raise ConfigError(
            "data.bands",
            list(self.bands),
            f"scene {scene!r} has {'two bands' if several else 'no band'} {band!r}; it has bands "
            f"1..{len(inputs)}: {', '.join(inputs)}{alpha}",
        )


@dataclass(frozen=True)
class ImagePlan:
    """Plan to read one image.

    Attributes:
        numbers: of the bands, in the model's order.
        nodata: value without data of each band, as the pixels' type has it; None where no pixel can have it.
        masks: bands whose masks hold.
        alpha: alpha bands, which hold as masks.
        conversion: (factor, summand) of each band; None to leave pixels as the file has them.
        dtype: of the pixels, after the conversion.
    """

    numbers: tuple[int, ...]
    nodata: tuple[float | None, ...]
    masks: tuple[int, ...]
    alpha: tuple[int, ...]
    conversion: Tags | None
    dtype: str

    @classmethod
    def of(cls, image: ImageBands, wanted: BandSet, scene: str, nodata: float | None = None) -> ImagePlan:
        """The plan for an image.

        Args:
            image: metadata of the file.
            wanted: the bands.
            scene: name of the scene, for messages.
            nodata: value without data in all bands, instead of the file's tags.

        Raises:
            ConfigError: the image has no such band.
            DataError: bands cannot be told apart by name, or have no usable scale.
        """
        numbers = wanted.numbers(image, scene)
        positions = [number - 1 for number in numbers]
        declared = [image.nodata[position] for position in positions]
        if nodata is not None:
            declared = [nodata] * len(positions)
        elif wanted.nodata and all(value is None for value in declared):
            declared = list(wanted.nodata)
        conversion = _conversion([(image.scales[k], image.offsets[k]) for k in positions], wanted, scene)
        dtypes = [image.dtypes[position] for position in positions]
        return cls(
            numbers=numbers,
            nodata=tuple(_comparable(value, dtype) for value, dtype in zip(declared, dtypes, strict=True)),
            masks=tuple(sorted({image.masks[position] for position in positions} - {0})),
            alpha=image.alpha,
            conversion=conversion,
            dtype=str(np.result_type(*dtypes)) if conversion is None else "float32",
        )

    def valid(self, pixels: npt.NDArray[Any], mask: npt.NDArray[Any] | None) -> npt.NDArray[np.bool_]:
        """Bool (height, width): in every band neither nodata nor NaN or infinite, and not masked.

        Args:
            pixels: (bands, height, width) as the file has them.
            mask: (height, width), 0 where a mask or alpha band says so.
        """
        valid: npt.NDArray[np.bool_] = np.ones(pixels.shape[1:], np.bool_)
        first = self.nodata[0]
        if all(value == first for value in self.nodata):
            if first is not None:
                valid = (pixels != first).all(0)
        else:
            for band, value in zip(pixels, self.nodata, strict=True):
                if value is not None:
                    valid &= band != value
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(0)
        if mask is not None:
            valid &= mask != 0
        return valid

    def converted(self, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Pixels in the numbers of the first scene's first image; as they are if they are that already."""
        if self.conversion is None:
            return pixels
        out = np.empty(pixels.shape, np.float32)
        with np.errstate(invalid="ignore", over="ignore"):  # of what is not valid
            for band, its, (factor, summand) in zip(out, pixels, self.conversion, strict=True):
                band[...] = its.astype(np.float64) * factor + summand
        return out


def name_at_two_places(images: Iterable[ImageBands], wanted: BandSet) -> tuple[str, list[ImageBands]] | None:
    """A band name that stands at different numbers in two images which are both read by number; None without one.

    Args:
        images: of all scenes.
        wanted: the bands that are read of them.
    """
    positions: dict[str, tuple[int, ImageBands]] = {}
    if are_names(wanted.names):
        return None
    for image in images:
        for number, name in enumerate(image.names, 1):
            key = name.casefold()
            if is_name(name) and len(_places(name, image)) == 1:
                known = positions.setdefault(key, (number, image))
                if known[0] != number:
                    return name, [known[1], image]
    return None


def is_name(name: str) -> bool:
    """Tell whether a band has been given a name; ``band 3`` is what one without is called."""
    return not name.startswith("band ")


def are_names(names: Sequence[str]) -> bool:
    """Tell whether bands have been given names, each its own."""
    return bool(names) and len(set(map(str.casefold, names))) == len(names) and all(map(is_name, names))


def _places(name: str, image: ImageBands) -> list[int]:
    """Numbers of the bands of a name: those that are spelt alike, else those that differ in case."""
    exact = [number for number, other in enumerate(image.names, 1) if other == name]
    return exact or [number for number, other in enumerate(image.names, 1) if other.casefold() == name.casefold()]


def _mask_band(number: int, flags: Sequence[MaskFlags], shared: int, has_alpha: bool) -> int:
    if MaskFlags.all_valid in flags or (MaskFlags.alpha in flags and has_alpha):
        return 0
    if MaskFlags.per_dataset in flags:
        return shared or number
    return 0 if MaskFlags.nodata in flags else number  # without a flag, the band has a mask of its own


def _comparable(nodata: float | None, dtype: str) -> float | None:
    """A nodata value as pixels of a type are compared with; None where none can be equal to it, or NaN."""
    if nodata is None or math.isnan(nodata):
        return None
    kind = np.dtype(dtype)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return float(kind.type(nodata))
    if kind.itemsize == 8:  # tags of 64 bits are rounded to a float, and so is what they are compared with
        return nodata
    limits = np.iinfo(kind)
    return int(nodata) if limits.min <= nodata <= limits.max and nodata == int(nodata) else None


def _conversion(tags: Sequence[tuple[float, float]], wanted: BandSet, scene: str) -> Tags | None:
    """Factor and summand of each band that bring an image's numbers to the wanted ones; None if all are already."""
    if not wanted.tags or all(_same_unit(ours, theirs) for ours, theirs in zip(tags, wanted.tags, strict=True)):
        return None
    found = []
    for band, ours, theirs in zip(wanted.names or wanted.bands, tags, wanted.tags, strict=True):
        if any(not math.isfinite(value) for value in (*ours, *theirs)) or 0.0 in (ours[0], theirs[0]):
            raise DataError(
                f"scene {scene!r}: band {band!r} has scale {ours[0]:g} and offset {ours[1]:g}, the first scene's "
                f"{theirs[0]:g} and {theirs[1]:g}: one of them is no unit; write what is right into the file "
                "(gdal_edit.py -scale ... -offset ...)"
            )
        same = _same_unit(ours, theirs)
        found.append((1.0, 0.0) if same else (_short(ours[0] / theirs[0]), _short((ours[1] - theirs[1]) / theirs[0])))
    return tuple(found)


def _same_unit(ours: tuple[float, float], theirs: tuple[float, float]) -> bool:
    if ours == theirs:
        return True
    (scale, offset), (other, its) = ours, theirs
    return abs(scale - other) <= _SAME_UNIT * max(abs(scale), abs(other)) and abs(offset - its) <= _SAME_UNIT * max(
        abs(offset), abs(its)
    )


def _short(number: float) -> float:
    """Without the last digits, in which decimal fractions are rounded."""
    return float(f"{number:.12g}")
