"""The data section: scenes, classes, split, and how chips are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ununennium.config.catalog import CatalogConfig
from ununennium.config.section import Component, Fraction, Location, Section, is_stored
from ununennium.tasks import TASKS, task_of

BandFile = Location | tuple[str, int] | tuple[str, int, float, float]
"""A file of one band; or a file and the number of one of its bands, from 1; or these with the band's scale and offset,
instead of the file's tags: ``pixel * scale + offset`` is the quantity in its unit."""
Image = Location | dict[str, BandFile]
"""One raster, or a file for each band by name: all on one grid."""


class RegionConfig(Section):
    """A rectangle of a scene in pixels; an open end (``null``) reaches the scene's edge."""

    scene: str | None = None
    """Name of the scene; every scene if not given."""
    rows: tuple[int, int | None] = (0, None)
    """First row, and the row after the last."""
    columns: tuple[int, int | None] = (0, None)
    """First column, and the column after the last."""

    @field_validator("rows", "columns")
    @classmethod
    def _ordered(cls, value: tuple[int, int | None]) -> tuple[int, int | None]:
        start, stop = value
        if start < 0 or (stop is not None and stop <= start):
            raise ValueError("give [first, one past the last] with 0 <= first < last, or null for the far edge")
        return value


def check_day(text: str, *, whole: bool = False) -> None:
    """Refuse what is no day: ``2026-05-18``, with a time behind it or not; unless ``whole``, a month or year will do.

    Raises:
        ValueError: it is none.
    """
    padded = text + {4: "-01-01", 7: "-01"}.get(len(text), "") if not whole else text
    try:
        date.fromisoformat(padded[:10] if "-" in padded[:8] else padded[:8])
    except ValueError:
        raise ValueError("write a day as 2026-05-18") from None


class SceneConfig(Section):
    """One image with its labels."""

    image: Image | list[Image]
    """GeoTIFF (or anything else that GDAL reads): a path or a URL. A mapping of band names to files is one image
    (``{red: B4.tif, nir: [stack.tif, 5]}``; ``[stack.tif, 5, 0.0001, -0.1]`` with scale and offset). A list is a stack
    of dates on one grid."""
    date: str | list[str] | None = None
    """Day of the image (``2026-05-18``), or of each image of a stack."""
    label: Location | None = None
    """A label raster on the image's grid, or a vector file (GeoJSON, GeoPackage, Shapefile)."""
    name: str | None = None
    """Name in reports; the image's file name without its ending if not given."""
    label_field: str | None = None
    """Vector labels: the attribute that holds a class name or value; if not given, the only one that holds nothing but
    class names, and where there is none, every shape is ``label_value``."""
    label_value: int | None = Field(default=None, ge=0)
    """Vector labels without ``label_field``: the class value of every shape; if not given, the second class. If given,
    an attribute that holds some class names among other values is no error."""
    label_layer: str | None = None
    """Vector labels: the layer to read; required where the file has several layers with geometry."""
    label_buffer_m: float | None = Field(default=None, gt=0.0)
    """Vector labels: grow every shape by this distance to each side, in metres on the ground. Required for lines and
    points, which cover no pixel by themselves: a road of 6 m is a line with 3."""
    label_unknown: Literal["error", "unlabelled"] = "error"
    """Labels that are no class (an unknown or empty attribute value, a raster value outside of the classes): an error
    that names and counts them, or ``unlabelled``."""
    labelled_area: Location | list[RegionConfig] | None = None
    """Area in which the labels are complete: a vector file of polygons, or rectangles of pixels. Pixels outside of it
    are unlabelled, whatever the label says. The whole image if not given."""
    classes: list[str] = []
    """Classification of a scene without a ``label``: the name of its class, or, for ``multilabel``, of all of them."""
    attributes: dict[str, str] = {}
    """Attributes of the scene, such as ``{sensor: sentinel-2a}``: the evaluation is sliced by them."""
    outside: Literal["background", "unlabelled"] | None = None
    """Vector labels: what pixels outside every shape are; if not given, ``unlabelled`` if some shape is of the first
    class, which then is no background, else ``background``."""

    @field_validator("labelled_area")
    @classmethod
    def _of_this_scene(cls, value: str | list[RegionConfig] | None) -> str | list[RegionConfig] | None:
        if isinstance(value, list):
            if not value:
                raise ValueError("give at least one rectangle, or leave it out for the whole image")
            if any(region.scene is not None for region in value):
                raise ValueError("rectangles of a scene are its own: leave out their 'scene'")
        return value

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str | list[str] | None, info: ValidationInfo) -> str | list[str] | None:
        for each in [value] if isinstance(value, str) else value or []:
            if not is_stored(info):
                check_day(each)
        return value

    @field_validator("name")
    @classmethod
    def _names_a_file(cls, value: str | None) -> str | None:
        """Its prediction and pictures are files of that name in the run's folder, and nowhere else."""
        if value is not None and (
            any(part in ("", ".", "..") for part in value.split("/")) or "\\" in value or "\0" in value
        ):
            raise ValueError("files are named after it: give a name without '..', '\\' and '/' at its ends")
        return value


class SplitConfig(Section):
    """Split of the pixels into training, validation (chooses the best epoch) and holdout (evaluates it).

    Folds are whole spatial blocks, never random pixels: neighbours are alike, and random pixels leak.
    """

    method: Literal["blocks", "scenes", "time", "file"] = "blocks"
    """Unit that is dealt to the folds: ``blocks``, whole ``scenes``, scenes by their date (``time``: the same place
    may be trained on as it was, and evaluated as it is later), or shapes drawn in a ``file``."""
    folds: int | None = Field(default=None, ge=2)
    """Cross-validation (blocks and scenes): so many parts; each ``fold`` holds one of them out."""
    fold: int = Field(default=0, ge=0)
    """The part that is held out, from 0 to ``folds`` - 1."""
    validation_from: str | None = None
    """``time``: first day (``2026-05-18``) of the scenes that validate."""
    holdout_from: str | None = None
    """``time``: first day of the scenes that are held out."""
    file: Location | None = None
    """``file``: polygons with an attribute ``fold`` that says train, validation or holdout, such as the split.geojson
    of a run; where none is drawn for train, it is all that is not drawn."""
    block_size: int | None = Field(default=None, ge=8)
    """Side of a block in pixels; if not given, the largest of 128, 64, 32, 16 and 8 at which every class lies in enough
    blocks to be in every fold."""
    buffer: int | None = Field(default=None, ge=0)
    """Pixels between training and the other folds that are not trained on; the model's receptive radius is ideal. If
    not given, an eighth of a block."""
    validation: Fraction = 0.15
    """Share of the blocks that validate."""
    holdout: Fraction = 0.2
    """Share of the blocks that are held out for the gate (unused where ``holdout_regions`` are given)."""
    validation_regions: list[RegionConfig] = []
    """Rectangles that validate, instead of a share."""
    holdout_regions: list[RegionConfig] = []
    """Rectangles that are held out, instead of a share."""
    seed: int = 0
    """Seed of the assignment of blocks; kept apart from the run's seed so that retraining keeps the holdout."""

    @property
    def has_validation(self) -> bool:
        """Tell whether some pixels should validate, as far as settings tell."""
        if self.method == "time":
            return self.validation_from is not None
        return self.method != "file" and (bool(self.validation_regions) or self.validation > 0)

    @field_validator("validation_from", "holdout_from")
    @classmethod
    def _is_a_day(cls, value: str | None) -> str | None:
        if value is not None:
            check_day(value, whole=True)
        return value

    @model_validator(mode="after")
    def _fits_the_method(self) -> SplitConfig:
        if self.method == "file" and self.file is None:
            raise ValueError("method 'file' needs data.split.file, polygons with an attribute 'fold'")
        if self.method == "time" and self.validation_from is None and self.holdout_from is None:
            raise ValueError("method 'time' needs data.split.validation_from or data.split.holdout_from")
        if self.method in ("time", "file") and (self.validation_regions or self.holdout_regions or self.folds):
            raise ValueError(f"method {self.method!r} goes without regions and folds")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold = {self.fold} is none of the {self.folds} folds 0..{self.folds - 1}")
        if self.folds is not None and self.holdout_regions:
            raise ValueError("folds are held out in turn; leave out holdout_regions")
        if self.validation_from and self.holdout_from and self.holdout_from <= self.validation_from:
            raise ValueError("holdout_from must be later than validation_from")
        return self


class AugmentConfig(Section):
    """Seeded changes to training chips; each chip's are a function of (seed, epoch, chip)."""

    flips: bool = True
    """Mirror left-right and up-down."""
    quarter_turns: bool = True
    """Turn by 0, 90, 180 or 270 degrees."""
    brightness: float = Field(default=0.0, ge=0.0)
    """Standard deviation of a shift added to all pixels, in units of the band's standard deviation."""
    contrast: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Standard deviation of a factor around 1 on all pixels."""
    noise: float = Field(default=0.0, ge=0.0)
    """Standard deviation of per-pixel noise, in units of the band's standard deviation."""
    scale: float = Field(default=0.0, ge=0.0, le=3.0)
    """Largest zoom: 0.25 shows things up to 1.25 times smaller or larger; what lies beyond the chip is unlabelled."""
    band_dropout: Fraction = 0.0
    """Probability of each band to be its mean (0 after normalisation) in a chip; one band always stays."""
    transform: Component | None = None
    """A change of your own, after the others, by the import path of its class: an object is called with a chip's
    normalised image, float32 (channels, rows, columns), its target (rows, columns) and a NumPy generator that is seeded
    for the chip, and returns both."""
    where: Literal["cpu", "device"] = "cpu"
    """Chip by chip as they are loaded (``cpu``), or batch by batch where the model computes (``device``): then the
    loader hands over pixels as the file has them, and changes are a function of (seed, epoch, batch, rank)."""

    @model_validator(mode="after")
    def _transform_is_of_chips(self) -> AugmentConfig:
        if self.transform is not None and self.where == "device":
            raise ValueError("augment.transform changes chips as they are loaded; leave out where: device")
        return self


class GridConfig(Section):
    """Pixels of one CRS and size, which begin at multiples of their size."""

    crs: str
    """Coordinate system, such as ``EPSG:32722``."""
    resolution: float = Field(gt=0.0)
    """Side of a pixel in units of the CRS."""


class DataConfig(Section):
    """Scenes, classes, split and how chips are drawn."""

    catalog: CatalogConfig | None = None
    """Scenes from a folder, a table or STAC."""
    scenes: list[SceneConfig] = Field(default=[], validate_default=True)
    """Images with labels, one by one; after those of ``catalog``."""
    task: Literal["segmentation", "change", "regression", "classification", "multilabel"] = "segmentation"
    """Task to learn: ``segmentation`` (a class for every pixel), ``change`` (the same from two dates),
    ``regression`` (a number for every pixel), ``classification`` (a class for every patch of ``chip_size``) or
    ``multilabel`` (which classes are in it)."""
    layout: Literal["channels", "stack"] = "channels"
    """Shape of stacks of dates at the model's input: (batch, dates x bands, rows, columns), or, for ``stack``, (batch,
    dates, bands, rows, columns)."""
    classes: list[str] = Field(min_length=1)
    """Class names; a class's value in the labels is its place in this list, from 0. A mapping of values to names
    (``{8: artificial surface, 10: bare}``) is for labels with other values: it is ``class_values`` with the names in
    the order of their values. For a regression the one name of what is predicted, such as ``elevation``."""
    class_values: dict[int, str] = {}
    """Class name of each label value, where values are not 0, 1, 2 and so on; several values may be one class. Values
    that are not listed are no class, see ``label_unknown``. Models, maps and reports number the classes from 0."""
    allow_absent: list[str] = []
    """Classes that may be without a labelled pixel in the training fold; any other class without one is an error."""
    bands: list[int | str] | None = None
    """Bands to read in the model's order, by name (the files' descriptions) or counted from 1 in the first scene's
    first image; all but alpha bands if not given."""
    nodata: float | None = None
    """Pixel value without data, where the files carry no tag or a wrong one: it replaces the tags of all bands."""
    transform: Literal["linear", "log"] = "linear"
    """Transform of pixel values before they are standardised: ``log`` for positive values whose range is skewed, such
    as counts of a panchromatic or radar sensor."""
    values: Literal["check", "any"] = "check"
    """``check`` refuses scenes or dates whose medians differ more than 50-fold in every band, or fractions beside whole
    numbers in one: they are in another unit."""
    align: Literal["native", "refuse", "warp"] = "native"
    """Scenes of other coordinate systems or pixel sizes: each on its own grid (``native``; pixel sizes that differ are
    warned of), ``refuse`` them, or ``warp`` them once to one grid."""
    grid: GridConfig | None = None
    """``warp``: the grid; the first scene's CRS and pixel size if not given."""
    ignore_index: int = 255
    """Label value of unlabelled pixels; used by the loss and by every metric."""
    chip_size: int = Field(default=128, ge=16, le=16_384)
    """Side of a training chip in pixels."""
    chips_per_epoch: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Chips drawn per epoch; if not given, about as many as cover the training pixels once."""
    batch_size: int = Field(default=8, ge=1, le=65_536)
    """Chips per micro-batch and process."""
    class_balance: Fraction = 0.5
    """Share of chips centred on a labelled pixel of a class drawn evenly among all but the most common one."""
    num_workers: int = Field(default=0, ge=0, le=1024)
    """Loader processes per rank; 0 reads in the training process."""
    cache_mb: int = Field(default=256, ge=1, le=10_000_000)
    """Decoded pixels that each process keeps (every rank and every loader worker), in MB; training chips are shuffled
    within what fits, and mix eight places at any moment."""
    max_pixels: int = Field(default=10**10, ge=1)
    """Largest raster that is read, in pixels (rows times columns); a larger one is refused."""
    max_unreadable: Fraction = 0.01
    """Share of a scene that may be damaged: those blocks are named and left out; beyond it the run fails."""
    split: SplitConfig = SplitConfig()
    """Training, validation and holdout."""
    augment: AugmentConfig = AugmentConfig()
    """Changes to training chips."""

    @field_validator("scenes")
    @classmethod
    def _at_least_one(cls, value: list[SceneConfig], info: ValidationInfo) -> list[SceneConfig]:
        if not value and info.data.get("catalog", "refused") is None:
            raise ValueError("give at least 1 image here, or data.catalog: a folder, a table or STAC")
        return value

    @model_validator(mode="before")
    @classmethod
    def _split_class_mapping(cls, settings: Any) -> Any:
        """Turn a mapping of values to names into the list of names and ``class_values``."""
        classes = settings.get("classes") if isinstance(settings, Mapping) else None
        if not isinstance(classes, Mapping) or settings.get("class_values"):
            return settings
        try:
            names = [classes[value] for value in sorted(classes, key=int)]
        except (TypeError, ValueError):
            return settings
        return {**settings, "classes": list(dict.fromkeys(map(str, names))), "class_values": dict(classes)}

    @field_validator("classes", mode="before")
    @classmethod
    def _is_a_list(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            raise ValueError(
                "give a list of class names, or a mapping of label values (whole numbers) to names without class_values"
            )
        return value

    @field_validator("classes")
    @classmethod
    def _fit_the_task(cls, value: list[str], info: ValidationInfo) -> list[str]:
        task = info.data.get("task", "segmentation")
        has_classes = TASKS[task].has_classes
        if not has_classes and len(value) != 1:
            raise ValueError("a regression predicts one thing: give one name for it")
        if has_classes and len(value) < 2:
            raise ValueError(f"{task} tells at least 2 classes apart; give the name of each")
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"each class needs a name of its own; given twice: {', '.join(twice)}")
        return value

    @field_validator("class_values")
    @classmethod
    def _name_classes(cls, value: dict[int, str], info: ValidationInfo) -> dict[int, str]:
        if value and not task_of(info.data).has_classes:
            raise ValueError("a regression has no class values; leave it out")
        _check_names(list(value.values()), info)
        return value

    @field_validator("allow_absent")
    @classmethod
    def _are_classes(cls, value: list[str], info: ValidationInfo) -> list[str]:
        _check_names(value, info)
        return value

    @field_validator("bands")
    @classmethod
    def _from_one(cls, value: list[int | str] | None) -> list[int | str] | None:
        if value is not None and (not value or any(isinstance(band, int) and band < 1 for band in value)):
            raise ValueError("bands count from 1; leave it out (null) to read all")
        return value

    @model_validator(mode="after")
    def _ignore_index_is_no_class(self) -> DataConfig:
        if 0 <= self.ignore_index < len(self.classes):
            raise ValueError(
                f"ignore_index = {self.ignore_index} is also the value of class "
                f"{self.classes[self.ignore_index]!r}; choose a value outside 0..{len(self.classes) - 1}, such as 255"
            )
        return self


def _check_names(names: Sequence[str], info: ValidationInfo) -> None:
    """Make sure that all names are classes; a list of classes that is wrong itself has its own complaint."""
    classes = info.data.get("classes")
    unknown = [name for name in names if classes is not None and name not in classes]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no class; data.classes are {', '.join(classes or ())}")
