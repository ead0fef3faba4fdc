"""One description of a run: the flow's parameter, the command line's YAML, the file handed to torchrun.

``RunConfig`` is made of small sections, each field with a line of documentation that reappears in the JSON schema
(the form in Prefect's UI) and in the file that ``ununennium init`` writes. Anything of a user's own (model, loss,
optimizer, scheduler, transform) is an import path with keyword arguments.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ununennium.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Component(Section):
    """A model, loss, optimizer, scheduler or transform: an import path with keyword arguments."""

    target: str
    """Import path, such as ``ununennium.models:UNet`` or ``torch.optim:AdamW``."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for it. Band and class counts are filled in where the callable takes them."""


class SceneConfig(Section):
    """One image with its labels."""

    image: str | list[str]
    """GeoTIFF (or anything else that GDAL reads): a path or a URL. A list is a stack of dates on one grid."""
    date: str | list[str] | None = None
    """Day of the image (``2026-05-18``), or of each image of a stack."""
    label: str | None = None
    """A label raster on the image's grid, or a vector file (GeoJSON, GeoPackage, Shapefile)."""
    name: str | None = None
    """Name in reports; the image's file name without its ending if not given."""
    label_field: str | None = None
    """Vector labels: the attribute that holds a class name or value; without it every shape is ``label_value``."""
    label_value: int = Field(default=1, ge=0)
    """Vector labels without ``label_field``: the class value of every shape."""
    outside: Literal["background", "unlabelled"] = "background"
    """Vector labels: what pixels outside every shape are (``unlabelled`` for sparse labels)."""


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


class SplitConfig(Section):
    """Which pixels train, which choose the best epoch (validation), and which judge it (holdout).

    Folds are whole spatial blocks, never random pixels: neighbours are alike, and random pixels leak.
    """

    block_size: int = Field(default=128, ge=8)
    """Side of a block in pixels."""
    buffer: int = Field(default=16, ge=0)
    """Pixels between training and the other folds that are not trained on; the model's receptive radius is ideal."""
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


class DataConfig(Section):
    """Scenes, classes, split and how chips are drawn."""

    scenes: list[SceneConfig] = Field(min_length=1)
    """Images with labels."""
    classes: list[str] = Field(min_length=2)
    """Class names; a class's value in the labels is its place in this list, from 0."""
    bands: list[int | str] | None = None
    """Bands to read in the model's order, by name (the files' descriptions) or counted from 1; all if not given."""
    nodata: float | None = None
    """Pixel value without data, where the files carry no tag or a wrong one."""
    ignore_index: int = 255
    """Label value of unlabelled pixels; used by the loss and by every metric."""
    chip_size: int = Field(default=128, ge=16)
    """Side of a training chip in pixels."""
    chips_per_epoch: int | None = Field(default=None, ge=1)
    """Chips drawn per epoch; if not given, about as many as cover the training pixels once."""
    batch_size: PositiveInt = 8
    """Chips per micro-batch and process."""
    class_balance: Fraction = 0.5
    """Share of chips centred on a labelled pixel of a class drawn evenly among all but the most common one."""
    num_workers: int = Field(default=0, ge=0)
    """Loader processes per rank; 0 reads in the training process."""
    split: SplitConfig = SplitConfig()
    """Training, validation and holdout."""
    augment: AugmentConfig = AugmentConfig()
    """Changes to training chips."""

    @field_validator("classes")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        twice = sorted({name for name in value if value.count(name) > 1})
        if twice:
            raise ValueError(f"each class needs a name of its own; given twice: {', '.join(twice)}")
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


class TrainerSettings(Section):
    """The training loop; the fields of ``ununennium.training.TrainerConfig``."""

    epochs: PositiveInt = 100
    """Max training epochs."""
    device: str = "cuda"
    """Computation device; where CUDA is missing the CPU is used with a warning."""
    require_device: bool = False
    """Fail at once, instead of going on on the CPU, where the device is missing."""
    mixed_precision: bool | Literal["fp16", "bf16", "no"] = True
    """``true``: fp16 on CUDA, bf16 on a CPU that computes it natively; or name one."""
    accumulation_steps: PositiveInt = 1
    """Micro-batches per optimizer step."""
    gradient_clip: float | None = Field(default=1.0, gt=0.0)
    """Max norm of the gradient; null for no clipping."""
    scheduler_interval: Literal["auto", "step", "epoch"] = "auto"
    """When the learning-rate scheduler advances."""
    channels_last: bool = False
    """NHWC memory layout, often faster for convolutions."""
    compile: bool = False
    """Compile the model with ``torch.compile``."""
    deterministic: bool = False
    """Only deterministic kernels: bit-equal runs, somewhat slower."""
    time_limit_s: float | None = Field(default=None, gt=0.0)
    """Stop after so many seconds at the next step, with a checkpoint."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Keep an exponential moving average of the weights, and validate and promote that one."""


class CheckpointSettings(Section):
    """Which checkpoints are kept."""

    monitor: str = "val_loss"
    """Metric that ranks checkpoints: ``val_loss``, ``val_IoU``, ``val_F1``, or one class's, ``val_IoU_building``."""
    mode: Literal["min", "max"] = "min"
    """``min`` for a loss, ``max`` for accuracy or IoU."""
    save_top_k: int = Field(default=1, ge=-1)
    """Best checkpoints kept beside the newest one; -1 keeps all, 0 writes none."""


class EarlyStoppingSettings(Section):
    """When to stop before the last epoch."""

    monitor: str = "val_loss"
    """Metric that has to improve."""
    mode: Literal["min", "max"] = "min"
    """``min`` for a loss, ``max`` for accuracy or IoU."""
    patience: PositiveInt = 10
    """Epochs in a row without improvement before stopping."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """A change must be larger than this to count."""


class GateConfig(Section):
    """What a new model must show on the holdout before it replaces the champion."""

    metric: str = "IoU"
    """Metric that must improve: ``IoU`` or ``F1`` (mean over classes), or one class's, ``IoU.building``."""
    floors: dict[str, float] = {}
    """Metric -> value that it must reach, champion or not, such as ``{"IoU.building": 0.3}``."""
    min_improvement: float = 0.0
    """The metric must exceed the champion's by more than this."""
    max_class_drop: float | None = Field(default=0.1, ge=0.0)
    """No class's IoU may fall by more than this below the champion's; null for no such guard."""


class LauncherConfig(Section):
    """How the training processes are started."""

    nproc_per_node: PositiveInt = 1
    """Processes on this machine, one per GPU."""
    timeout_s: float | None = Field(default=None, gt=0.0)
    """Stop the training, with a checkpoint, after so many seconds."""
    grace_s: float = Field(default=25.0, gt=0.0)
    """Seconds to write a checkpoint after being asked to stop, before being killed."""


class RunConfig(Section):
    """One description of a run."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)
    """Name of the model in the registry: lower-case letters, digits, ``-`` and ``_``."""
    data: DataConfig
    """Scenes, classes, split and chips."""
    model: Component = Component(target="ununennium.models:UNet")
    """The model; its parameters ``in_channels`` and ``num_classes`` are filled in."""
    loss: Component = Component(target="ununennium.losses:CrossEntropyLoss")
    """The loss; its parameters ``ignore_index`` and ``num_classes`` are filled in."""
    optimizer: Component = Component(target="torch.optim:AdamW", kwargs={"lr": 1e-3, "weight_decay": 1e-4})
    """The optimizer; called with the model's parameters first."""
    scheduler: Component | None = None
    """The learning-rate scheduler; called with the optimizer first; ``total_steps`` and ``epochs`` are filled in."""
    trainer: TrainerSettings = TrainerSettings()
    """The training loop."""
    checkpoints: CheckpointSettings = CheckpointSettings()
    """Which checkpoints are kept."""
    early_stopping: EarlyStoppingSettings | None = None
    """When to stop before the last epoch; null to train all epochs."""
    gate: GateConfig = GateConfig()
    """What a new model must show before it is promoted."""
    launcher: LauncherConfig = LauncherConfig()
    """How the training processes are started."""
    storage: str = "storage"
    """Where runs, checkpoints and the registry live: a folder or any fsspec URL, such as ``s3://bucket/prefix``."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the weights, the chips and the augmentation."""

    @classmethod
    def parse(cls, settings: Mapping[str, Any], *, source: str = "configuration") -> RunConfig:
        """Validate ``settings``.

        Raises:
            ConfigError: the first setting that cannot work, with its dotted path, its value and what is right.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(source, settings, "a run configuration is a mapping of sections; see 'ununennium init'")
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise _as_config_error(cls, error, settings) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a YAML file, with ``overrides`` such as ``trainer.epochs=5`` applied on top.

        Relative scene paths are taken from the file's folder; ``storage`` from the working directory.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or a setting cannot work.
        """
        file = Path(path)
        try:
            settings = yaml.safe_load(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError("config", str(path), f"cannot be read: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError("config", str(path), f"is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict):
            raise ConfigError("config", str(path), "is not a mapping of sections; 'ununennium init' writes one")
        settings = apply_overrides(settings, overrides)
        return cls.parse(settings, source=str(path)).with_scenes_relative_to(file.parent)

    def with_scenes_relative_to(self, folder: str | Path) -> RunConfig:
        """Return a copy whose relative scene paths are absolute, taken from ``folder``."""
        base = Path(folder).resolve()

        def absolute(location: str | None) -> str | None:
            if location is None or "://" in location or location.startswith("/vsi"):
                return location
            return str(base / location)

        scenes = [
            scene.model_copy(
                update={
                    "image": [absolute(one) for one in scene.image]
                    if isinstance(scene.image, list)
                    else absolute(scene.image),
                    "label": absolute(scene.label),
                }
            )
            for scene in self.data.scenes
        ]
        return self.model_copy(update={"data": self.data.model_copy(update={"scenes": scenes})})

    def to_yaml(self) -> str:
        """The configuration as YAML that ``load`` reads back to an equal one."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    @model_validator(mode="after")
    def _monitors_exist(self) -> RunConfig:
        split = self.data.split
        if split.validation == 0.0 and not split.validation_regions:
            for section in ("checkpoints", "early_stopping"):
                settings = getattr(self, section)
                if settings is not None and settings.monitor.startswith("val_"):
                    raise ValueError(
                        f"{section}.monitor = {settings.monitor!r} needs validation, but data.split.validation is 0; "
                        "give it a share or regions, or monitor 'train_loss'"
                    )
        if self.trainer.compile and self.trainer.deterministic:
            raise ValueError("trainer.compile and trainer.deterministic do not go together; choose one")
        return self


def apply_overrides(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``settings`` with dotted ``path=value`` overrides applied; values are read as YAML.

    ``data.scenes.0.image=a.tif`` reaches into lists. A path that does not exist yet is created, so that validation
    names it if it is unknown.

    Raises:
        ConfigError: an override without ``=``, or one that goes through something that is not a section.
    """
    result: dict[str, Any] = copy.deepcopy(dict(settings))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError("overrides", override, "write path=value, such as trainer.epochs=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                "overrides", override, f"the value is not valid YAML: {' '.join(str(error).split())}"
            ) from error
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text; a person means the number
            with contextlib.suppress(ValueError):
                value = float(value)
        node: Any = result
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(node, list):
                if not key.isdigit() or int(key) >= len(node):
                    raise ConfigError("overrides", override, f"{'.'.join(keys[:depth])} has items 0..{len(node) - 1}")
                slot: Any = int(key)
            elif isinstance(node, dict):
                slot = key
            else:
                raise ConfigError("overrides", override, f"{'.'.join(keys[:depth])} is not a section")
            if last:
                node[slot] = value
            elif isinstance(node, dict) and node.get(slot) is None:
                node[slot] = {}
            node = node[slot]
    return result


def _as_config_error(model: type[BaseModel], error: ValidationError, settings: Mapping[str, Any]) -> ConfigError:
    """The first of pydantic's complaints, in our words."""
    problem = error.errors()[0]
    field = _field(problem["loc"]) or "configuration"
    value = problem.get("input")
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        known = _fields_at(model, problem["loc"][:-1])
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return ConfigError(field, value, f"there is no such setting; {hint}")
    if problem["type"] == "missing":
        return ConfigError(field, None, "is required")
    # A union gives one complaint per member; any of them would be right.
    complaints = [other["msg"] for other in error.errors() if _field(other["loc"]) == _field(problem["loc"])]
    message = ", or: ".join(dict.fromkeys(complaint.removeprefix("Value error, ") for complaint in complaints))
    if field == "configuration":
        value = "..."
    return ConfigError(field, value, message)


def _field(location: Sequence[Any]) -> str:
    """A location as a dotted path."""
    return ".".join(str(part) for part in location if not _is_union_tag(part))


def _is_union_tag(part: Any) -> bool:
    """Pydantic adds the tried type to the location of a union's member; a user's path has no such part."""
    return isinstance(part, str) and (part in {"bool", "str", "int", "float"} or part.startswith("literal["))


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields of the section at ``location``."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation if part in current.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if current is None:
            return []
    return sorted(current.model_fields)
