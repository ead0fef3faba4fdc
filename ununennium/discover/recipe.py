"""Recipe of ``init``: the settings of a run, derived from the fingerprint of its data, each with its reason.

``RULES`` is the whole of it: one function per setting, from the fingerprint and what was chosen before to a value and
a reason. The constants were chosen by ``benchmarks/recipe.py`` on three data sets and confirmed on three others; the
table is in docs/performance.md. Those for a GPU scale what was measured on CPUs, and were not measured themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ununennium.config import RunConfig
from ununennium.discover.fingerprint import Fingerprint
from ununennium.errors import ConfigError

NAME = "v1"
"""Name of the rules, ``recipe`` in the configuration. Rules that choose otherwise get another name."""

_CHIPS = (32, 64, 128, 256)
_OBJECTS_PER_CHIP = 4
_PIXELS_PER_STEP = 8 * 128**2
_MOST_CHIPS = 32
_STEPS = (300, 1000)  # least and most on a CPU; a GPU takes ten times the most
LEAST_STEPS = 100
"""Optimizer steps that a run takes at least, whatever the budget."""
_PASSES = 20
_EPOCHS = 20
_RARE = 0.5
_SKEWED = 2.0
_LEARNING_RATE = 3e-3
_MANY_BANDS = 16
_LARGE_SCENES = 50_000_000


_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(s|min|h)")


class Choice(NamedTuple):
    """A value, and the reason for it."""

    value: Any
    reason: str


Chosen = Mapping[str, Choice]
Rule = Callable[[Fingerprint, Chosen], Choice | None]


def budget_s(text: str) -> float:
    """Seconds of ``3min``, ``90s`` or ``1.5h``.

    Raises:
        ConfigError: it is none of these.
    """
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or not float(found[1]):
        raise ConfigError("--budget", text, "give a time with its unit: 90s, 3min or 1.5h")
    return float(found[1]) * _UNITS[found[2]]


def derive(data: Fingerprint) -> dict[str, Choice]:
    """Settings for ``data``, by dotted path; those that no rule is for keep their defaults."""
    chosen: dict[str, Choice] = {}
    for path, rule in RULES.items():
        choice = rule(data, chosen)
        if choice is not None:
            chosen[path] = choice
    return chosen


def apply_recipe(config: RunConfig, chosen: Chosen) -> RunConfig:
    """``config`` with the chosen settings.

    Raises:
        ConfigError: they do not fit each other.
    """
    settings: dict[str, Any] = config.model_dump(mode="json")
    for path, choice in chosen.items():
        *sections, name = path.split(".")
        place = settings
        for section in sections:
            place = place[section]
        place[name] = choice.value
    return RunConfig.parse(settings)


def remarks_of(chosen: Chosen) -> dict[str, str]:
    """Dotted path to the remark that stands above the value in the file."""
    return {path: choice.reason for path, choice in chosen.items()}


# ---------------------------------------------------------------------- rules


def _recipe(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice(NAME, "Settings with a reason above them were derived from the data by these rules.")


def _chip_size(data: Fingerprint, chosen: Chosen) -> Choice | None:
    """A few objects, within a few blocks of the split: what lies in other folds is hidden from training."""
    if data.object_px is None:
        return None
    wanted = _OBJECTS_PER_CHIP * data.object_px
    largest = min(_CHIPS[-1] if data.has_gpu else _CHIPS[-2], _OBJECTS_PER_CHIP * data.block_size)
    side = min(next((size for size in _CHIPS if size >= wanted), _CHIPS[-1]), max(_CHIPS[0], largest))
    side = min(side, data.smallest_side // 16 * 16)
    return Choice(
        side, f"{side}: objects are {data.object_px:g} px wide (median), and a block is {data.block_size} px."
    )


def _batch_size(data: Fingerprint, chosen: Chosen) -> Choice | None:
    if "data.chip_size" not in chosen:
        return None
    side = chosen["data.chip_size"].value
    number = max(2, min(_MOST_CHIPS, _PIXELS_PER_STEP // side**2)) * (2 if data.has_gpu else 1)
    return Choice(number, f"{number}: {number * side**2:,} pixels per step.")


def _chips_per_epoch(data: Fingerprint, chosen: Chosen) -> Choice | None:
    """So many steps per epoch that twenty epochs are the whole schedule, whatever the size of the scenes."""
    if "data.batch_size" not in chosen:
        return None
    batch, side = chosen["data.batch_size"].value, chosen["data.chip_size"].value
    least, most = _STEPS
    most *= 10 if data.has_gpu else 1
    steps = max(least, min(most, math.ceil(_PASSES * data.training_pixels / (batch * side**2))))
    why = f"for {data.training_pixels:,} labelled training pixels"
    if data.steps_in_budget is not None:
        steps, why = max(LEAST_STEPS, data.steps_in_budget), "as many as fit the budget on this machine"
    per_epoch = math.ceil(steps / _EPOCHS)
    reason = f"{per_epoch} steps per epoch, {per_epoch * _EPOCHS} in all, {why}."
    return Choice(per_epoch * batch, f"{per_epoch * batch}: {reason}")


def _class_balance(data: Fingerprint, chosen: Chosen) -> Choice | None:
    if data.task != "segmentation":
        return None
    return Choice(0.5, "0.5: half of the chips are centred on a pixel of one of the rarer classes.")


def _transform(data: Fingerprint, chosen: Chosen) -> Choice | None:
    if not (data.is_positive and data.skew >= _SKEWED):
        return None
    return Choice("log", f"log: values are positive, and reach {data.skew:.1f} times as far above the median as below.")


def _model(data: Fingerprint, chosen: Chosen) -> Choice | None:
    if data.task != "segmentation":
        return None
    side = chosen["data.chip_size"].value if "data.chip_size" in chosen else 128
    depth = 4 if side >= 64 else 3
    width = 32 if data.has_gpu or data.in_channels > _MANY_BANDS else 16
    return Choice(
        {"target": "ununennium.models:UNet", "kwargs": {"base_channels": width, "depth": depth}},
        f"{depth} levels for chips of {side} px, {width} channels for {data.in_channels} band(s).",
    )


def _loss(data: Fingerprint, chosen: Chosen) -> Choice | None:
    """Cross-entropy and Dice, weighted by the square roots of the inverse shares where a class is rare."""
    if data.task != "segmentation":
        return None
    kwargs: dict[str, Any] = {"dice_weight": 0.5}
    shares = data.shares
    reason = "cross-entropy, and half as much Dice, which looks at each class as a whole."
    if shares[data.rarest] * len(shares) < _RARE:
        roots = {name: share**-0.5 for name, share in shares.items()}
        mean = sum(roots.values()) / len(roots)
        kwargs["class_weights"] = [float(f"{roots.get(name, mean) / mean:.3g}") for name in data.classes]
        rare = f"{data.rarest} has {shares[data.rarest]:.2%} of the labelled pixels"
        reason += f"\nWeights by the square root of the inverse share: {rare}."
    return Choice({"target": "ununennium.losses:CrossEntropyDiceLoss", "kwargs": kwargs}, reason)


def _optimizer(data: Fingerprint, chosen: Chosen) -> Choice:
    kwargs = {"lr": _LEARNING_RATE, "weight_decay": 1e-4}
    return Choice({"target": "torch.optim:AdamW", "kwargs": kwargs}, "highest learning rate of the one cycle below.")


def _scheduler(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice(
        {"target": "torch.optim.lr_scheduler:OneCycleLR", "kwargs": {"max_lr": _LEARNING_RATE}},
        "one cycle over all steps: up for 30 %, then down to nearly 0.",
    )


def _epochs(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice(_EPOCHS, f"{_EPOCHS}: validations over the one cycle; raise data.chips_per_epoch to train longer.")


def _device(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice("auto", "auto: the GPU where there is one.")


def _channels_last(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice(True, "faster for convolutions on CPUs and on tensor cores.")


def _ema(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice(0.99, "0.99: an average over the last hundred steps or so.")


def _monitor(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice("epoch", "epoch: one cycle is at its best at its end, and a small validation fold is noisy.")


def _mode(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice("max", "max: the newest.")


def _early_stopping(data: Fingerprint, chosen: Chosen) -> Choice:
    return Choice(None, "null: the learning rate has to come down first.")


def _tta(data: Fingerprint, chosen: Chosen) -> Choice | None:
    if data.num_pixels > _LARGE_SCENES:
        return None
    return Choice(True, f"true: {data.num_pixels:,} pixels are mapped soon enough.")


RULES: dict[str, Rule] = {
    "recipe": _recipe,
    "data.chip_size": _chip_size,
    "data.batch_size": _batch_size,
    "data.chips_per_epoch": _chips_per_epoch,
    "data.class_balance": _class_balance,
    "data.transform": _transform,
    "model": _model,
    "loss": _loss,
    "optimizer": _optimizer,
    "scheduler": _scheduler,
    "trainer.epochs": _epochs,
    "trainer.device": _device,
    "trainer.channels_last": _channels_last,
    "trainer.ema_decay": _ema,
    "checkpoints.monitor": _monitor,
    "checkpoints.mode": _mode,
    "early_stopping": _early_stopping,
    "inference.tta": _tta,
}
"""Dotted path of a setting -> the rule for it, in the order in which rules may look at each other."""
