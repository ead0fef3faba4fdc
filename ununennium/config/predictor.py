"""Predictor: application of a model to scenes, and the scenes that it accepts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ununennium.config.section import Fraction, PositiveInt, Section
from ununennium.moved import former_name

MapOutput = Literal["map", "probabilities", "confidence", "polygons", "areas", "quicklook"]


class PredictorConfig(Section):
    """Application of a model: changes speed and memory, and hardly a pixel."""

    mixed_precision: bool | Literal["fp16", "bf16", "no"] = False
    """Precision of the forward pass: true for the device's best, ``fp16``, ``bf16``, or false for 32 bits."""
    channels_last: bool | None = None
    """Keep tiles and weights with channels last in memory, which some convolutions are faster with; if not given, on a
    CPU, where most are."""
    compile: bool = False
    """Compile the model with ``torch.compile``: slow to begin, worth it for many or large scenes on a GPU."""
    batch_size: PositiveInt | Literal["auto"] = "auto"
    """Tiles at a time, halved where memory runs out; ``auto`` tries what is fastest on a GPU, and on a CPU is two of
    256 pixels, or as many smaller ones."""
    tile: int | None = Field(default=None, ge=16, le=8192)
    """Side of a tile in pixels; if not given, the training chips', and at least 256."""
    overlap: int | None = Field(default=None, ge=0)
    """Pixels that neighbouring tiles share, at most half a tile; if not given, a quarter."""
    ranks: PositiveInt = 1
    """Processes that share the rows of a scene: one for each GPU, each of which then is its own device."""

    @model_validator(mode="after")
    def _overlap_fits(self) -> PredictorConfig:
        if self.tile is not None and self.overlap is not None and self.overlap > self.tile // 2:
            raise ValueError(f"overlap = {self.overlap} is more than half a tile, {self.tile // 2}")
        return self


class InputCheckConfig(Section):
    """Input check: scenes that do not fit the model's contract are refused with what differs, or aligned."""

    align: Literal["refuse", "warp"] = "refuse"
    """A scene of another pixel size (or CRS, where ``crs`` is ``same``): refused, or warped to the model's pixel size
    first, bilinearly; the map then is on that grid."""
    crs: Literal["any", "same"] = "any"
    """Coordinate system of a scene: ``any`` with pixels of the right size on the ground, or the training scenes'."""
    resolution_tolerance: Fraction = 0.1
    """By how much pixels may be smaller or larger than the training scenes'."""
    values: Literal["check", "any"] = "check"
    """``check`` refuses a scene whose values all lie ten times below or above those of training: another unit."""
    scale: float = Field(default=1.0, gt=0.0)
    """Values are multiplied by it first: 10000 for reflectances in 0..1 where the model learnt on 0..10000. It and
    ``offset`` replace the conversion by the scale and offset of the scene's files."""
    offset: float = 0.0
    """Added after ``scale``."""
    max_pixels: int = Field(default=10**10, ge=1)
    """Largest scene that is mapped, in pixels (rows times columns); a larger one is refused before it is read."""
    max_unreadable: Fraction = 0.0
    """Share of a scene that may be damaged: those blocks are left out of the map with a warning."""


class PolygonsConfig(Section):
    """Polygons of the classes."""

    classes: list[str] = []
    """Classes that are drawn; all if not given. A background that reaches all over is best left out."""
    min_area_m2: float = Field(default=0.0, ge=0.0)
    """Smaller ones are left out."""
    simplify: float = Field(default=0.0, ge=0.0)
    """Outlines may be off by so many pixels (Douglas-Peucker); 0 keeps the pixels' edges. Areas are measured before."""
    formats: list[Literal["geoparquet", "geojson"]] = ["geoparquet", "geojson"]
    """Files that are written: GeoParquet in the map's CRS, GeoJSON in WGS 84."""


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)
