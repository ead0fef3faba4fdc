"""One description of a run: the flow's parameter, the command line's YAML, the file handed to torchrun.

``RunConfig`` is made of small sections, each field with a line of documentation that reappears in the JSON schema
(the form in Prefect's UI) and in the file that ``ununennium init`` writes. Anything of a user's own (model, loss,
optimizer, scheduler, transform) is an import path with keyword arguments.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from ununennium.config.card import CardConfig
from ununennium.config.catalog import CatalogConfig
from ununennium.config.data import AugmentConfig, DataConfig, RegionConfig, SceneConfig, SplitConfig
from ununennium.config.document import Document
from ununennium.config.launcher import LauncherConfig
from ununennium.config.parsing import apply_overrides, load_settings
from ununennium.config.section import Component, Location, PositiveInt, Section
from ununennium.config.tracking import TrackingConfig
from ununennium.config.yaml_text import write_yaml
from ununennium.moved import former_name
from ununennium.tasks import TASKS

__all__ = [
    "AugmentConfig",
    "CardConfig",
    "CatalogConfig",
    "CheckpointConfig",
    "Component",
    "DataConfig",
    "EarlyStoppingConfig",
    "GateConfig",
    "InferenceConfig",
    "LauncherConfig",
    "RegionConfig",
    "RunConfig",
    "SceneConfig",
    "Section",
    "SplitConfig",
    "TrackingConfig",
    "TrainerSettings",
    "apply_overrides",
]


class TrainerSettings(Section):
    """The training loop; the fields of ``ununennium.training.TrainerConfig``."""

    epochs: PositiveInt = 100
    """Max training epochs."""
    device: str = "cuda"
    """Computation device: ``auto`` (CUDA, else MPS, else the CPU), or a name. ``cuda`` where there is none is the CPU,
    with a warning."""
    require_device: bool = False
    """Fail at once, instead of going on on the CPU, where the device is missing."""
    mixed_precision: bool | Literal["fp16", "bf16", "no"] = True
    """``true``: fp16 on CUDA, bf16 on a CPU that computes it natively; or name one."""
    accumulation_steps: PositiveInt = 1
    """Micro-batches per optimizer step."""
    gradient_clip: float | None = Field(default=1.0, gt=0.0)
    """Max norm of the gradient; null for no clipping."""
    scheduler_interval: Literal["auto", "step", "epoch"] = "auto"
    """Interval of the learning-rate scheduler: ``step``, ``epoch``, or ``auto`` by its kind."""
    channels_last: bool = False
    """NHWC memory layout, often faster for convolutions."""
    compile: bool = False
    """Compile the model with ``torch.compile``."""
    sync_batchnorm: bool = False
    """With several GPUs: BatchNorm over the batches of all of them, for small batches."""
    fully_shard: bool = False
    """With several GPUs: weights, gradients and optimizer state divided over them (FSDP2), for models too large."""
    deterministic: bool = False
    """Only deterministic kernels: bit-equal runs, somewhat slower."""
    scheduler_monitor: str | None = None
    """Metric for ReduceLROnPlateau, such as ``val_IoU``; null is ``val_loss`` (``train_loss`` without validation)."""
    max_nonfinite_steps: PositiveInt = 25
    """End the run after so many optimizer steps in a row with a gradient that is not finite (each is skipped)."""
    agree_every_steps: PositiveInt = 10
    """With several processes: optimizer steps between two agreements on whether to stop."""
    time_limit_s: float | None = Field(default=None, gt=0.0)
    """Stop after so many seconds at the next step, with a checkpoint."""
    callbacks: list[Component] = []
    """Callbacks of your own by import path, such as ``{target: "my.callbacks:Alarm", kwargs: {loss: 5.0}}``; each is a
    ``ununennium.training.Callback``."""
    metrics: dict[str, Component] = {}
    """Further validation metrics by their name in the history, such as ``{val_jaccard: {target:
    "torchmetrics.classification:MulticlassJaccardIndex"}}``: objects with ``update``, ``compute`` and ``reset``."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Keep an exponential moving average of the weights, and validate and promote that one."""

    @field_validator("metrics")
    @classmethod
    def _are_of_validation(cls, value: dict[str, Component]) -> dict[str, Component]:
        for name in value:
            if not name.startswith("val_") or name == "val_loss":
                raise ValueError(f"{name!r}: give a name that begins with 'val_', as metrics of the validation have")
        return value


class CheckpointConfig(Section):
    """Retention of checkpoints, and resumption from them."""

    monitor: str = "val_loss"
    """Metric that ranks checkpoints: ``val_loss``, ``val_IoU``, ``val_F1``, or one class's, ``val_IoU_building``; or
    ``epoch`` with mode ``max``: the newest is the best, as under a one-cycle learning rate."""
    mode: Literal["min", "max"] = "min"
    """``min`` for a loss, ``max`` for accuracy, IoU or ``epoch``."""
    save_top_k: int = Field(default=1, ge=-1)
    """Best checkpoints kept beside the newest one; -1 keeps all, 0 writes none."""
    every_n_steps: PositiveInt | None = None
    """Save within epochs, too, after so many optimizer steps: what is lost if a process is killed."""
    resume: bool = True
    """Go on with an earlier run of the same configuration, data and code that was killed or asked to stop."""
    background: bool | None = None
    """Upload while training goes on; null does so to object storage, and not to a local folder."""
    snapshot: bool = False
    """Write to a local folder in the background, from a copy of the state: the shortest wait, for the memory of a
    second state; without effect on object storage."""


class EarlyStoppingConfig(Section):
    """Early stopping."""

    monitor: str = "val_loss"
    """Metric that has to improve."""
    mode: Literal["min", "max"] = "min"
    """``min`` for a loss, ``max`` for accuracy or IoU."""
    patience: PositiveInt = 10
    """Epochs in a row without improvement before stopping."""
    min_delta: float = Field(default=0.0, ge=0.0)
    """A change must be larger than this to count."""


class GateConfig(Section):
    """Gate: requirements on the holdout before a new model replaces the champion."""

    metric: str = "IoU"
    """Metric that must improve: ``IoU`` or ``F1`` (mean over the classes that the holdout's labels have), or one
    class's, ``IoU.building``; of a regression ``RMSE``, ``MAE``, ``bias`` or ``R2``. Which way is better is known."""
    floors: dict[str, float] = {}
    """Metric -> value that it must reach, champion or not, such as ``{"IoU.building": 0.3}``; of an error (``RMSE``)
    the most that it may be."""
    min_improvement: float = 0.0
    """The metric must exceed the champion's by more than this; an error must be below it by more than this."""
    max_class_drop: float | None = Field(default=0.1, ge=0.0)
    """The IoU of no labelled class may fall by more than this below the champion's; null for no such guard."""
    confidence: float | None = Field(default=0.9, gt=0.0, lt=1.0)
    """The improvement must be more than noise: so much of the interval that drawing the holdout's blocks gives lies in
    the middle, and its lower end must be an improvement, too; null compares the values alone."""
    resamples: int = Field(default=2000, ge=200, le=1_000_000)
    """Draws of the holdout's blocks, at least: a higher confidence and fewer blocks take more."""
    seed: int = Field(default=0, ge=0)
    """Seed of the draws."""
    slices: list[str] = ["scene"]
    """Parts of the holdout that are guarded, each by itself: ``scene``, ``date``, or an attribute of the scenes such as
    ``sensor``."""
    max_slice_drop: float | None = Field(default=0.2, ge=0.0)
    """In no slice may the metric fall by more than this below the champion's; of ``RMSE`` and ``MAE`` the share by
    which it may grow, of ``bias`` how much farther from 0 it may be, in the targets' unit; null for no such guard.
    Slices of fewer than 6 blocks that have the class are reported, and not guarded."""
    first: Literal["baseline", "any"] = "baseline"
    """A first model has to beat the best constant prediction and, for classes of pixels, a linear classifier of single
    pixels (``baseline``), a regression also R2 = 0; ``any`` takes it as it is."""
    unreadable_champion: Literal["refuse", "replace"] = "refuse"
    """A champion that cannot be loaded: keep it until somebody looks (``refuse``), or judge the new model like a first
    one (``replace``)."""
    approval: Literal["automatic", "manual"] = "automatic"
    """``manual``: what passes the gate is promoted when a person approves; the flow run is suspended meanwhile."""
    approval_timeout_s: int = Field(default=604_800, ge=60)
    """Seconds after which nobody is expected to approve any more."""


class InferenceConfig(Section):
    """Inference: application of the model to the holdout when it is evaluated, and to scenes when they are mapped."""

    tta: bool = False
    """Average over the eight flips and quarter turns of every tile: steadier, and eight times the work."""


class RunConfig(Document):
    """One description of a run."""

    described: ClassVar[str] = "a mapping of sections; 'ununennium init' writes one"

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)
    """Name of the model in the registry: lower-case letters, digits, ``-`` and ``_``."""
    recipe: Literal["v1"] | None = None
    """Name of the rules that derived settings from the data when ``ununennium init`` wrote this file; null if chosen
    by hand. It changes nothing: the derived settings are all here."""
    data: DataConfig
    """Scenes, classes, split and chips."""
    model: Component = Component(target="ununennium.models:UNet")
    """The model; its parameters ``in_channels`` and ``num_classes`` are filled in. That of a classification is
    ``ununennium.models:PatchClassifier`` if none is given."""
    loss: Component = Component(target="ununennium.losses:CrossEntropyLoss")
    """The loss; its parameters ``ignore_index`` and ``num_classes`` are filled in. A regression's is
    ``ununennium.losses:MSELoss`` if none is given, that of ``multilabel`` ``ununennium.losses:PresenceLoss``."""
    optimizer: Component = Component(target="torch.optim:AdamW", kwargs={"lr": 1e-3, "weight_decay": 1e-4})
    """The optimizer; called with the model's parameters first."""
    scheduler: Component | None = None
    """The learning-rate scheduler; called with the optimizer first; ``total_steps`` and ``epochs`` are filled in."""
    trainer: TrainerSettings = TrainerSettings()
    """The training loop."""
    checkpoints: CheckpointConfig = CheckpointConfig()
    """Retention of checkpoints, and resumption from them."""
    early_stopping: EarlyStoppingConfig | None = None
    """Early stopping; null to train all epochs."""
    gate: GateConfig = GateConfig()
    """Requirements that a new model must meet before it is promoted."""
    inference: InferenceConfig = InferenceConfig()
    """Application of the model to scenes."""
    launcher: LauncherConfig = LauncherConfig()
    """Launcher: start of the training processes."""
    tracking: TrackingConfig = TrackingConfig()
    """Experiment trackers, beside the run's own files: TensorBoard, MLflow."""
    card: CardConfig = CardConfig()
    """Texts of the model card that lies beside each promoted version."""
    storage: Location = "storage"
    """Storage of runs, checkpoints and the registry: a folder or any fsspec URL, such as ``s3://bucket/prefix``."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the weights, the chips and the augmentation."""

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """Read a YAML file, with ``overrides`` such as ``trainer.epochs=5`` applied on top.

        Relative scene paths are taken from the file's folder; ``storage`` from the working directory.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or a setting cannot work.
        """
        settings = load_settings(path, wanted=f"is not {cls.described}")
        settings = apply_overrides(settings, overrides)
        return cls.parse(settings, source=str(path)).with_scenes_relative_to(Path(path).parent)

    def with_scenes_relative_to(self, folder: str | Path) -> RunConfig:
        """Return a copy whose relative scene and catalogue paths are absolute, taken from ``folder``."""
        base = Path(folder).resolve()

        def absolute(location: Any) -> Any:
            if isinstance(location, str):
                return location if _is_absolute(location) else str(base / location)
            if isinstance(location, Mapping):
                return {name: absolute(file) for name, file in location.items()}
            if isinstance(location, tuple):
                return absolute(location[0]), *location[1:]
            return [absolute(one) for one in location] if isinstance(location, list) else location

        scenes = []
        for scene in self.data.scenes:
            paths = {"image": absolute(scene.image), "label": absolute(scene.label)}
            if isinstance(scene.labelled_area, str):
                paths["labelled_area"] = absolute(scene.labelled_area)
            scenes.append(scene.model_copy(update=paths))
        catalog = self.data.catalog.relocated(absolute) if self.data.catalog else None
        split = self.data.split.model_copy(update={"file": absolute(self.data.split.file)})
        data = self.data.model_copy(update={"scenes": scenes, "catalog": catalog, "split": split})
        return self.model_copy(update={"data": data})

    def to_yaml(self) -> str:
        """The configuration as YAML that ``load`` reads back to an equal one."""
        return write_yaml(self.model_dump(mode="json"))

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, settings: Any) -> Any:
        """Fill in the model, the loss and the gate's metric that the task has, where none is given."""
        if not isinstance(settings, dict):
            return settings
        data, gate = settings.get("data"), settings.get("gate", {})
        name = data.get("task") if isinstance(data, dict) else getattr(data, "task", None)
        task = TASKS.get(name) if isinstance(name, str) else None
        if task is None or name == "segmentation":
            return settings
        filled = {"loss": {"target": task.loss}, "model": {"target": task.model}, **settings}
        if isinstance(gate, dict):
            filled["gate"] = {"metric": task.gate_metric, **gate}
        return filled

    @model_validator(mode="after")
    def _monitors_exist(self) -> RunConfig:
        split = self.data.split
        if not split.has_validation and split.method != "file":
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


def _is_absolute(location: str) -> bool:
    """A URL, one of GDAL's virtual paths, or the text of a virtual raster; the folder has no say in it."""
    return "://" in location or location.startswith(("/vsi", "<"))


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)
