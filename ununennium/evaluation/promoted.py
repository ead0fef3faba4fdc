"""Evaluation of a promoted model on the holdout of another run, by its own contract."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from ununennium.checkpoints.contract import ModelContract
from ununennium.config import RunConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.targets.regression import TargetScale
from ununennium.errors import ConfigError
from ununennium.evaluation.evaluate import evaluate
from ununennium.evaluation.evaluation import Evaluation
from ununennium.prediction.temperature import temperature_of
from ununennium.tasks import TASKS


def evaluate_artifact(
    model: nn.Module,
    its_contract: ModelContract,
    config: RunConfig,
    index: ChipIndex,
    device: torch.device,
    *,
    prediction_path: Path | None = None,
    beside: Sequence[int | str] | None = None,
) -> Evaluation:
    """Measure a promoted model on the holdout of ``index``.

    It sees the bands and the statistics of its own contract, and is applied as that says. Only pixels count that are
    valid in the bands ``beside`` as well, see ``evaluate``.

    Raises:
        ConfigError: it knows other classes, or was made for another task.
    """
    check_comparable(config, its_contract, num_dates=index.num_dates)
    its_index = copy.copy(index)
    its_index.band_set = index.band_set.of_model(its_contract.band_entries())
    its_index.layout = its_contract.layout
    its_scale = its_contract.target_scale
    its_index.target_scale = None if its_scale is None else TargetScale(*its_scale)
    return evaluate(
        model.to(device),
        its_index,
        BandStatistics(**its_contract.statistics, num_pixels=0),
        config.data,
        device=device,
        tta=bool(its_contract.tta),
        temperature=temperature_of(its_contract),
        prediction_path=prediction_path,
        beside=beside,
    )


def check_comparable(config: RunConfig, champion: ModelContract, *, num_dates: int = 1) -> None:
    """Raise a ConfigError if a champion's contract and ``config`` do not speak of the same task, dates and classes."""
    # What a patch is, the size says: F1 over other patches is another quantity.
    per_patch = TASKS[config.data.task].is_patchwise
    for field, ours, theirs in (
        *([("data.chip_size", config.data.chip_size, champion.chip_size)] if per_patch else []),
        ("data.task", config.data.task, champion.task),
        ("data.scenes", f"{num_dates} date(s)", f"{champion.num_dates} date(s)"),
    ):
        if ours != theirs:
            raise ConfigError(
                field, ours, f"the champion of {config.name!r} was made for {theirs}; give the new model its own name"
            )
    if list(champion.classes) != list(config.data.classes):
        raise ConfigError(
            "data.classes",
            list(config.data.classes),
            f"the champion of {config.name!r} knows {champion.classes}; give the new model a name of its own",
        )
