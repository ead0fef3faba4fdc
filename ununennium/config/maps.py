"""Maps to make, scenes and model: the parameter of the flow ``predict``."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, field_validator, model_validator

from ununennium.config.catalog import CatalogConfig
from ununennium.config.data import Image, check_day
from ununennium.config.document import Document
from ununennium.config.parsing import apply_overrides, load_settings
from ununennium.config.predictor import InputCheckConfig, MapOutput, PolygonsConfig, PredictorConfig
from ununennium.config.section import Location, PositiveInt, Section
from ununennium.errors import ConfigError
from ununennium.tasks import TASKS, TaskSpec

_NEEDS: Mapping[str, Callable[[TaskSpec], bool]] = {
    "probabilities": lambda task: task.has_classes,
    "confidence": lambda task: task.is_exclusive,
    "polygons": lambda task: task.is_exclusive,
}


def check_outputs(outputs: Collection[str], task: str) -> None:
    """Refuse what a task has not.

    Raises:
        ConfigError: such as polygons of a regression.
    """
    for output in outputs:
        if output in _NEEDS and not _NEEDS[output](TASKS[task]):
            raise ConfigError("outputs", output, f"a model of the task {task} has none; leave it out")


class MapSceneConfig(Section):
    """One scene to map."""

    image: Image | list[Image]
    """Path or URL of the image, or a file for each band by name; of a stack, one for each date."""
    date: str | list[str] | None = None
    """Day of the image (``2026-05-18``), or of each image of a stack."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)
    """Name of its map's folder; the image's without its ending if not given."""

    @field_validator("date")
    @classmethod
    def _is_a_day(cls, value: str | list[str] | None) -> str | list[str] | None:
        for each in [value] if isinstance(value, str) else value or []:
            check_day(each)
        return value


class FanOutConfig(Section):
    """Many scenes at once, on Dask through ``prefect-dask``; each is mapped in a process of its own.

    ``workers: 1`` without an address maps them one after the other in one process, without Dask.
    """

    workers: PositiveInt = 1
    """Scenes at once on a cluster of this run's own."""
    threads: bool = False
    """Workers are threads of the flow's process, not processes: they start at once, but end with it."""
    address: str | None = None
    """A Dask scheduler that runs already, such as ``tcp://scheduler:8786``."""
    cluster: str | None = None
    """Import path of another kind of cluster, such as ``dask_kubernetes.operator:KubeCluster``."""
    cluster_kwargs: dict[str, Any] = {}
    """Keyword arguments for it."""
    scenes_per_task: PositiveInt = 1
    """Scenes that one task maps one after the other, with the model loaded once."""
    retries: int = Field(default=2, ge=0)
    """Retries of a scene whose process was killed, or whose storage did not answer."""
    retry_delay_s: float = Field(default=5.0, ge=0.0)
    """Seconds before that."""

    @model_validator(mode="after")
    def _one_place(self) -> FanOutConfig:
        if self.address is not None and (self.cluster is not None or self.cluster_kwargs):
            raise ValueError("give the address of a scheduler, or a cluster, not both")
        if self.cluster_kwargs and self.cluster is None:
            raise ValueError("cluster_kwargs goes with cluster")
        return self

    @property
    def on_dask(self) -> bool:
        """Tell whether a scheduler is needed at all."""
        return self.workers > 1 or self.address is not None or self.cluster is not None


class MapsConfig(Document):
    """Scenes, a model, and where the maps go."""

    described: ClassVar[str] = "a mapping of settings: model, scenes or images, output"

    model: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)
    """Name of the model in the registry; its champion makes the maps."""
    scenes: list[MapSceneConfig] = []
    """The scenes to map."""
    images: list[Location] = []
    """Patterns of paths or URLs, each match a scene of its own: ``scenes/**/*.tif``, ``s3://bucket/new/*.tif``."""
    catalog: CatalogConfig | None = None
    """A folder, table or STAC catalogue of scenes; labels are not asked for."""
    recent_days: float | None = Field(default=None, gt=0.0)
    """STAC: only what was taken in the last so many days."""
    new_only: bool = False
    """Leave a scene alone that has a map in ``output`` already, by whichever version: what is mapped is what is new
    since the last run. Otherwise a scene is mapped anew when its files, the model or the outputs have changed."""
    outputs: list[MapOutput] = ["map", "areas", "quicklook"]
    """Outputs of each scene; ``map`` is always made. ``probabilities`` and ``confidence`` are rasters, ``polygons``
    vector files, ``areas`` a table, ``quicklook`` a picture."""
    change: bool = False
    """Compare with the last map of the place, on the same grid: area gained and lost of each class, and a picture."""
    polygons: PolygonsConfig = PolygonsConfig()
    """Settings of the polygons."""
    predictor: PredictorConfig = PredictorConfig()
    """Speed and memory."""
    fit: InputCheckConfig = InputCheckConfig()
    """Checks that a scene must pass before the model is applied to it."""
    fan_out: FanOutConfig = FanOutConfig()
    """Parallel mapping of scenes by the flow ``predict``."""
    output: Location = "maps"
    """Folder or fsspec URL that gets a folder of each scene; what is there and made alike is not made again."""
    storage: Location = "storage"
    """Storage of the registry: a folder or any fsspec URL."""
    tta: bool | None = None
    """Average over flips and turns, or not; null: as the model was judged."""
    device: str = "cuda"
    """Computation device; where CUDA is missing the CPU is used with a warning."""
    timeout_s: float | None = Field(default=None, gt=0.0)
    """End after so many seconds; what was made by then stays. null for no limit."""

    @model_validator(mode="after")
    def _has_scenes(self) -> MapsConfig:
        if not self.scenes and not self.images and self.catalog is None:
            raise ValueError("give scenes, or patterns of images, or a catalog")
        if self.recent_days is not None and (self.catalog is None or self.catalog.stac is None):
            raise ValueError("recent_days goes with catalog.stac")
        if not self.outputs:
            raise ValueError("outputs: give at least map")
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> MapsConfig:
        """Read a YAML file, with ``overrides`` such as ``output=here`` applied on top. Relative paths stay relative.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or a setting cannot work.
        """
        settings = load_settings(path, wanted=f"is not {cls.described}")
        return cls.parse(apply_overrides(settings, overrides))
