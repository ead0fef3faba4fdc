"""A map of a whole scene, made with a promoted model and its contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ununennium.inference.outputs import MappedScene
from ununennium.inference.predictor import Predictor

__all__ = ["MappedScene", "map_scene"]


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
        contract: contract of the model.
        image: the scene: a path or URL that GDAL reads, or one for each date of a stack.
        output: the GeoTIFF to write.
        device: computation device.
        tta: average over the eight flips and turns; as the model was judged if not given.
        on_rows: told how many rows of how many are done.

    Raises:
        DataError: the scene cannot be read, or is not what the model was trained for.
    """
    predictor = Predictor(model, contract, device=device, tta=tta)
    return predictor.map(image if isinstance(image, str) else list(image), output, on_rows=on_rows, resume=False)
