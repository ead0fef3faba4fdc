"""A model made ready to map scenes, in three lines::

from ununennium.inference import Predictor

predictor = Predictor.champion("roads", storage="storage")
predictor.map("scene.tif", "roads.tif", outputs=["map", "probabilities", "polygons"])
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ununennium.checkpoints.contract import ModelContract
from ununennium.config.data import Image
from ununennium.config.maps import check_outputs
from ununennium.config.predictor import InputCheckConfig, PolygonsConfig, PredictorConfig
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.scenes.images import files_of
from ununennium.data.scenes.overwriting import local_output, refuse_overwriting
from ununennium.errors import ConfigError
from ununennium.files import work_root
from ununennium.inference.input_check import CheckedScene, open_checked
from ununennium.inference.jobs import fingerprint
from ununennium.inference.layers import layers_of
from ununennium.inference.outputs import MappedScene, paths_of_outputs, write_outputs
from ununennium.inference.strip_store import StripStore, strip_store
from ununennium.prediction.forward import Forward, cpu_batch_size, find_batch_size, ready
from ununennium.prediction.map_kinds import MAP_KINDS
from ununennium.prediction.strips import ReadWindow, Strip, predict_strips
from ununennium.prediction.temperature import temperature_of
from ununennium.prediction.tiles import num_strips, overlap_of, rows_of_strip
from ununennium.prediction.windows import blocks_of_a_row, window_reader
from ununennium.tasks import TASKS
from ununennium.training.precision import resolve_precision
from ununennium.version import __version__

OnRows = Callable[[int, int], None]
"""Told how many rows of how many are done."""


@dataclass(frozen=True)
class ScenePlan:
    """A scene about to be mapped.

    Attributes:
        opened: the scene.
        read: its normalised windows.
        count: strips of rows.
        outputs: outputs to make.
    """

    opened: CheckedScene
    read: ReadWindow
    count: int
    outputs: tuple[str, ...]


class Predictor:
    """Maps scenes with one model.

    Args:
        network: as ``load_artifact`` gives it.
        contract: contract of the model.
        device: computation device.
        tta: average over the eight flips and turns; as the model was judged if not given.
        settings: speed and memory.
        fit: checks that a scene must pass.

    Attributes:
        version: of the model, if it came from a registry.
        source: folder or URL of the model in the registry, likewise.

    Raises:
        ConfigError: settings that do not fit the model or the device.
    """

    def __init__(
        self,
        network: nn.Module,
        contract: Mapping[str, Any],
        *,
        device: torch.device | str = "cpu",
        tta: bool | None = None,
        settings: PredictorConfig | None = None,
        fit: InputCheckConfig | None = None,
    ) -> None:
        self.contract = described = ModelContract.of(contract)
        self.settings = settings or PredictorConfig()
        self.fit = fit or InputCheckConfig()
        self.device = torch.device(device)
        self.classes = list(described.classes)
        self.tta = bool(described.tta) if tta is None else tta
        self.temperature = temperature_of(described)
        self.task = TASKS[described.task]
        self.map_kind = MAP_KINDS[self.task.kind](self.classes, described.target_scale)
        self.tile, self.overlap = self._tiling()
        precision = resolve_precision(self.settings.mixed_precision, self.device)
        self.autocast = None if precision.name == "fp32" else precision.dtype
        self.model: Any = self.map_kind.dense(network).to(self.device).eval()
        if self.settings.compile:
            self.model = torch.compile(self.model)
        self.version: str | None = None
        self.source: str | None = None
        self._batch_size: int | None = None

    @classmethod
    def champion(cls, model: str, *, storage: str = "storage", version: str | None = None, **options: Any) -> Predictor:
        """The champion of a model, or another of its versions.

        Args:
            model: its name in the registry.
            storage: folder or URL of the registry.
            version: this one instead of the champion.
            options: of the constructor.

        Raises:
            ConfigError: it has no champion.
            CheckpointError: there is no such version, or it is damaged.
        """
        from ununennium.checkpoints.artifact import load_artifact
        from ununennium.checkpoints.registry import Registry
        from ununennium.storage.open import resolve_storage

        registry = Registry(resolve_storage(storage), model)
        if version is None:
            current = registry.current()
            if current is None:
                remedy = f"has no champion in {storage}; 'ununennium registry list' shows who has"
                raise ConfigError("model", model, remedy)
            version = current.version
        network, contract = load_artifact(registry.version_url(version))
        predictor = cls(network, contract, **options)
        predictor.version = version
        predictor.source = registry.url
        return predictor

    def map(
        self,
        image: Image | Sequence[Image],
        output: str | Path,
        outputs: Sequence[str] = ("map",),
        *,
        polygons: PolygonsConfig | None = None,
        on_rows: OnRows | None = None,
        resume: bool = True,
        picture: Path | None = None,
    ) -> MappedScene:
        """Map a scene.

        Args:
            image: a path or URL that GDAL reads, or one for each date of a stack.
            output: the GeoTIFF to write; what else is made lies beside it (``roads-probabilities.tif``).
            outputs: outputs to make.
            polygons: how they are drawn.
            on_rows: told how many rows of how many are done.
            resume: keep what is done on this machine (in ``UNUNENNIUM_WORK``), so that a killed process's successor
                goes on from there.
            picture: a file that the caller draws afterwards; it must not be an input either.

        Raises:
            ConfigError: an output is an input: the image, a file that it refers to, or a file of the model.
            DataError: the scene cannot be read, or is not what the model was trained for.
            StorageError: a file cannot be written.
        """
        target = local_output(output)
        images = [image] if isinstance(image, str | dict) else list(image)
        made = paths_of_outputs(target, outputs, polygons or PolygonsConfig())
        self.check_overwriting(made if picture is None else {**made, "picture": picture}, images)
        if not resume:
            with tempfile.TemporaryDirectory(prefix=f".{target.name}-strips-", dir=_made(target.parent)) as folder:
                return self._map(images, target, outputs, StripStore(Path(folder)), polygons, on_rows)
        root, key = work_root() / "maps", self.key(images, outputs)
        with strip_store(root, target.stem, key) as store:
            return self._map(images, target, outputs, store, polygons, on_rows)

    def check_overwriting(self, outputs: Mapping[str, str | Path], images: Sequence[Any]) -> None:
        """Refuse outputs that are images, or what they refer to, or files of the model.

        Raises:
            ConfigError: names both.
        """
        refuse_overwriting(outputs, [*files_of(images), *([] if self.source is None else [self.source])])

    def _map(
        self,
        images: Sequence[Image],
        target: Path,
        outputs: Sequence[str],
        store: StripStore,
        polygons: PolygonsConfig | None,
        on_rows: OnRows | None,
    ) -> MappedScene:
        plan = self.plan(images, outputs, folder=store.folder)
        self.predict(plan, store, on_rows=on_rows)
        return self.write(plan, store, target, polygons)

    def plan(
        self,
        images: Image | Sequence[Image],
        outputs: Sequence[str] = ("map",),
        *,
        name: str | None = None,
        date: str | list[str] | None = None,
        folder: Path | None = None,
    ) -> ScenePlan:
        """Open a scene, and see whether it fits.

        Args:
            images: the scene.
            outputs: outputs to make.
            name: of the scene.
            date: its day, or days.
            folder: folder for warped files.

        Raises:
            DataError: it cannot be read, or does not fit: the message says what differs.
            ConfigError: an output that the model's task does not have.
        """
        check_outputs(outputs, self.task.name)
        listed = images if isinstance(images, str | dict) or len(images) > 1 else images[0]
        opened = open_checked(listed, self.contract, self.fit, name=name, date=date, folder=folder)
        read = window_reader(
            opened.reader,
            BandStatistics(**self.contract.statistics, num_pixels=0),
            layout=self.contract.layout,
            scale=self.fit.scale,
            offset=self.fit.offset,
            cache_bytes=blocks_of_a_row(opened.reader, self.tile),
        )
        count = num_strips(opened.scene.height, self.tile, self.overlap)
        return ScenePlan(opened, read, count, tuple(dict.fromkeys(outputs)))

    def predict(
        self, plan: ScenePlan, store: StripStore, *, share: tuple[int, int] = (0, 1), on_rows: OnRows | None = None
    ) -> None:
        """Predict the strips that ``store`` does not have.

        Args:
            plan: of the scene.
            store: keeps each strip as soon as it is made.
            share: this process's number, and of how many: each makes a part of the scene of its own.
            on_rows: told how many rows of how many are done.
        """
        rank, ranks = share
        scene, mine = plan.opened.scene, range(plan.count * rank // ranks, plan.count * (rank + 1) // ranks)
        missing = set(store.missing(plan.count))
        for run in _runs([number for number in mine if number in missing]):
            number = run[0]
            for strip in self._strips(plan, store, run):
                store.put(number, layers_of(strip, self.map_kind, plan.outputs))
                if on_rows is not None:
                    on_rows(strip.row + len(strip.valid), scene.height)
                number += 1
                del strip  # or it would be held while the next is made

    def write(
        self, plan: ScenePlan, store: StripStore, target: Path, polygons: PolygonsConfig | None = None, **options: Any
    ) -> MappedScene:
        """Make the files of a scene of which every strip is kept; see ``write_outputs``."""
        height = plan.opened.scene.height
        rows = [rows_of_strip(number, height, self.tile, self.overlap)[0] for number in range(plan.count)]
        return write_outputs(
            store, rows, plan.opened, plan.outputs, self.map_kind, self.contract, target, polygons or PolygonsConfig(),
            **options,
        )  # fmt: skip

    def key(self, images: Sequence[Any], outputs: Sequence[str]) -> dict[str, Any]:
        """Key of the strips that are kept: all that decides a pixel of them, JSON-ready."""
        return {
            "weights": self.contract.weights_sha256,
            "files": fingerprint(images),
            "tta": self.tta,
            "temperature_of_blended": self.temperature,
            "tiling": [self.tile, self.overlap],
            "settings": self.settings.model_dump(mode="json", exclude={"ranks"}),
            "fit": self.fit.model_dump(mode="json"),
            "layers": sorted({"probabilities", "confidence"} & set(outputs)),
            "device": self.device.type,
            "versions": [__version__, torch.__version__],
        }

    def _strips(self, plan: ScenePlan, store: StripStore, run: tuple[int, int]) -> Iterator[Strip]:
        scene = plan.opened.scene
        return predict_strips(
            self.model, plan.read, scene.height, scene.width,
            num_classes=len(self.classes), tile=self.tile, overlap=self.overlap,
            batch_size=store.agreed("batch_size", lambda: self._tiles_at_a_time(plan.read)),
            device=self.device, autocast=self.autocast, tta=self.tta, output=self.map_kind.output,
            temperature=self.temperature, channels_last=self.settings.channels_last, compiled=self.settings.compile,
            strips=run,
        )  # fmt: skip

    def _tiles_at_a_time(self, read: ReadWindow) -> int:
        if self._batch_size is None:
            asked = self.settings.batch_size
            self._batch_size = asked if asked != "auto" else cpu_batch_size(self.tile)
            if asked == "auto" and self.device.type != "cpu":
                channels_last = bool(self.settings.channels_last)
                forward = Forward(
                    self.model, len(self.classes), autocast=self.autocast, tta=self.tta, output=self.map_kind.output,
                    channels_last=channels_last,
                )  # fmt: skip
                example = torch.from_numpy(read(0, 0, self.tile, self.tile)[0])
                with ready(self.model, channels_last=channels_last):
                    self._batch_size = find_batch_size(forward, example.to(self.device))
        return self._batch_size

    def _tiling(self) -> tuple[int, int]:
        chip = int(self.contract.chip_size)
        tile, overlap = self.map_kind.tiling(chip)
        wanted = self.settings
        if overlap == 0 and (wanted.tile is not None or wanted.overlap is not None):
            remedy = f"this model judges patches of {chip} pixels; leave tile and overlap out"
            raise ConfigError("predictor.tile", wanted.tile, remedy)
        tile = wanted.tile or tile
        overlap = overlap_of(tile, overlap if wanted.overlap is None else wanted.overlap)
        if overlap > tile // 2:
            raise ConfigError("predictor.overlap", overlap, f"give at most half a tile, {tile // 2}")
        return tile, overlap


def _runs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Numbers in order as ranges without a gap: the first, and the one after the last."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number:
            runs[-1] = runs[-1][0], number + 1
        else:
            runs.append((number, number + 1))
    return runs


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder
