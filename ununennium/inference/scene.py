"""A map of a whole scene, made with a promoted model and its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ununennium.config import SceneConfig
from ununennium.data.catalog import Scene, open_scene
from ununennium.data.reader import SceneReader
from ununennium.data.statistics import BandStatistics
from ununennium.errors import ConfigError, DataError
from ununennium.inference.predict import predict_bands
from ununennium.inference.windows import window_reader
from ununennium.tasks import TASKS

_MOST_STRETCH = 1.1


@dataclass(frozen=True)
class MappedScene:
    """What was mapped.

    Attributes:
        scene: the image's metadata.
        path: the map.
        pixels: mapped pixels per class name; of a regression, of the one name.
        unmapped: pixels without data.
    """

    scene: Scene
    path: Path
    pixels: dict[str, int]
    unmapped: int


def map_scene(
    model: nn.Module,
    contract: Mapping[str, Any],
    image: str | Sequence[str],
    output: str | Path,
    *,
    device: torch.device | str = "cpu",
    tta: bool | None = None,
    on_rows: Callable[[int, int], None] | None = None,
) -> MappedScene:
    """Write the map of a scene: its classes, or the values that a regression predicts.

    Args:
        model: as ``load_artifact`` gives it.
        contract: what goes with it.
        image: the scene: a path or URL that GDAL reads, or one for each date of a stack.
        output: the GeoTIFF to write.
        device: computation device.
        tta: average over the eight flips and turns; as the model was judged if not given.
        on_rows: told how many rows of how many are done.

    Raises:
        DataError: the scene cannot be read, or is not what the model was trained for.
    """
    scene = open_scene(SceneConfig(image=image if isinstance(image, str) else list(image)))
    check_fits(scene, contract)
    nodata = None if scene.nodata is not None else contract["nodata"]
    reader = SceneReader(scene, list(contract["bands"]), nodata)
    statistics = BandStatistics(**contract["statistics"], num_pixels=0)
    classes = list(contract["classes"])
    counts, unmapped = np.zeros(len(classes), np.int64), 0
    task = TASKS[contract.get("task", "segmentation")]
    tile, overlap = task.tiling(int(contract["chip_size"]))
    scores = task.scores(classes, contract.get("ignore_index", 255), contract.get("target_scale"), tile)
    with scores.writer(Path(output), scene, row=0, col=0, height=scene.height, width=scene.width) as writer:
        for band in predict_bands(
            task.dense(model.to(device)),
            window_reader(reader, statistics, layout=contract.get("layout", "channels")),
            scene.height,
            scene.width,
            num_classes=len(classes),
            tile=tile,
            overlap=overlap,
            device=device,
            tta=bool(contract.get("tta", False)) if tta is None else tta,
            output=scores.output,
        ):
            predicted = scores.predict(band)
            writer.write(band.row, predicted, band.valid)
            counts += scores.tally(predicted, band.valid)
            unmapped += int((~band.valid).sum())
            if on_rows is not None:
                on_rows(band.row + len(band.valid), scene.height)
    return MappedScene(scene, Path(output), dict(zip(classes, counts.tolist(), strict=True)), unmapped)


def check_fits(scene: Scene, contract: Mapping[str, Any]) -> None:
    """Refuse a scene that the model was not trained for.

    Raises:
        DataError: bands are missing, pixels have another size, or there are more or fewer dates.
    """
    num_dates = contract.get("num_dates", 1)
    if scene.num_dates != num_dates:
        raise DataError(
            f"scene {scene.name!r} has {scene.num_dates} date(s), and the model reads {num_dates}; give one image for "
            "each, in the order of the training scenes"
        )
    try:
        scene.band_numbers(contract["bands"])
    except ConfigError as error:
        raise DataError(f"the model reads bands {list(contract['bands'])}, and {error.remedy}") from error
    trained_on = contract["resolution"]
    if contract["crs"] is None or scene.crs is None or trained_on is None:
        return
    for ours, theirs in zip(scene.resolution, trained_on, strict=True):
        if max(ours, theirs) > _MOST_STRETCH * min(ours, theirs):
            raise DataError(
                f"scene {scene.name!r} has pixels of {ours:g} (units of its CRS), and the model was trained on "
                f"{theirs:g}; resample it first (gdalwarp -tr {trained_on[0]:g} {trained_on[1]:g})"
            )
