"""Whether a new model may replace the champion: every check, its numbers, and the reason in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ununennium.config import GateConfig
from ununennium.errors import ConfigError, GateError
from ununennium.evaluation.evaluate import Evaluation
from ununennium.tasks import TASKS, goodness


@dataclass(frozen=True)
class Check:
    """One condition of the gate.

    Attributes:
        name: what is checked, such as ``floor IoU.building``.
        value: the challenger's; None if it has no such metric.
        threshold: what it has to reach or exceed; None if it only has to be a number.
        baseline: the champion's; None without one.
        passed: whether it does.
        reason: the same in words.
    """

    name: str
    value: float | None
    threshold: float | None
    baseline: float | None
    passed: bool
    reason: str


@dataclass(frozen=True)
class GateDecision:
    """The gate's verdict.

    Attributes:
        verdict: ``promoted`` if the new model may replace the champion.
        reason: why, in words.
        checks: every condition.
        split_sha256: the split that both were judged on.
    """

    verdict: Literal["promoted", "not_promoted"]
    reason: str
    checks: tuple[Check, ...]
    split_sha256: str

    def to_json(self) -> dict[str, Any]:
        """What ``gate.json`` holds; what is not finite is null."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "split_sha256": self.split_sha256,
            "checks": [
                {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in asdict(check).items()}
                for check in self.checks
            ],
        }


def decide(challenger: Evaluation, champion: Evaluation | None, config: GateConfig) -> GateDecision:
    """Judge a challenger beside the champion, both measured on the same holdout.

    The first model ever has only to be measured, and to reach the floors. A metric that is missing or NaN fails its
    check.

    Raises:
        GateError: the champion was measured on another holdout; evaluate it on this one first.
    """
    if champion is not None:
        _check_same_holdout(challenger, champion)
    checks = [_floor(challenger, champion, name, floor) for name, floor in config.floors.items()]
    if champion is None:
        main = _measured(challenger, config.metric)
        checks.append(main)
    else:
        main = _improvement(challenger, champion, config)
        checks.append(main)
        if config.max_class_drop is not None:
            checks += _class_drops(challenger, champion, config.max_class_drop)
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = "; ".join(check.reason for check in failed)
        return GateDecision("not_promoted", reason, tuple(checks), challenger.split_sha256)
    reason = f"first model: {main.reason}" if champion is None else main.reason
    if config.floors:
        reason += f"; {len(config.floors)} floor(s) reached"
    return GateDecision("promoted", reason, tuple(checks), challenger.split_sha256)


def check_metrics(config: GateConfig, classes: Sequence[str], task: str = "segmentation") -> None:
    """Refuse a gate that asks for metrics that an evaluation of ``classes`` does not have, before anything is trained.

    Raises:
        ConfigError: an unknown metric or class.
    """
    families, single = TASKS[task].per_class, TASKS[task].overall
    by_class = [f"{family}.{name}" for family in families for name in ("mean", *classes)]
    for field, name in [("gate.metric", config.metric), *(("gate.floors", name) for name in config.floors)]:
        if name not in {*families, *single, *by_class}:
            some = ", ".join([*families, *single, *by_class[1:9]])
            raise ConfigError(field, name, f"there is no such metric; there are {some}")


def _check_same_holdout(challenger: Evaluation, champion: Evaluation) -> None:
    for what, words in (("split", "split of the data"), ("data", "state of the data")):
        ours, theirs = (getattr(measured, f"{what}_sha256") for measured in (challenger, champion))
        if ours != theirs:
            raise GateError(
                f"the champion was measured on another {words} ({theirs[:12]}, the challenger on {ours[:12]}); "
                "evaluate it on the challenger's holdout first"
            )


def _floor(challenger: Evaluation, champion: Evaluation | None, name: str, floor: float) -> Check:
    value = challenger.metric(name)
    baseline = None if champion is None else champion.metric(name)
    passed = value is not None and goodness(name, value) >= goodness(name, floor)
    words, bound = ("reaches" if passed else "is below"), "floor"
    if goodness(name, 1.0) < 0:
        words, bound = ("keeps to" if passed else "is above"), "ceiling"
    return Check(
        f"{bound} {name}", value, floor, baseline, passed, f"{_named(name, value)} {words} the {bound} {floor:g}"
    )


def _improvement(challenger: Evaluation, champion: Evaluation, config: GateConfig) -> Check:
    value, baseline = challenger.metric(config.metric), champion.metric(config.metric)
    name = f"improvement of {config.metric}"
    less_is_better = goodness(config.metric, 1.0) < 0
    if baseline is None or math.isnan(baseline):
        # A class without labels that the champion does not see: a challenger that sees it is wrong, and has a 0.
        passed = value is not None and math.isfinite(value) and (value > 0 or less_is_better)
        reason = f"the champion has no {config.metric}, and the new model has {_named(config.metric, value)}"
        return Check(name, value, 0.0, baseline, passed, reason)
    least = goodness(config.metric, baseline) + config.min_improvement
    threshold = -least if less_is_better else least
    passed = value is not None and goodness(config.metric, value) > least
    words = "exceeds" if passed else "does not exceed"
    if less_is_better:
        words = "is below" if passed else "is not below"
    margin = f" by more than {config.min_improvement:g}" if config.min_improvement else ""
    reason = f"{_named(config.metric, value)} {words} the champion's {baseline:.4f}{margin}"
    return Check(name, value, threshold, baseline, passed, reason)


def _class_drops(challenger: Evaluation, champion: Evaluation, most: float) -> list[Check]:
    """One check for each class that the holdout's labels have; none where there are no classes."""
    checks: list[Check] = []
    if not challenger.confusion:
        return checks
    for label, labelled in zip(challenger.classes, challenger.confusion, strict=True):
        name = f"IoU.{label}"
        value, baseline = challenger.metric(name), champion.metric(name)
        if not sum(labelled) or baseline is None or math.isnan(baseline):
            continue
        threshold = baseline - most
        passed = value is not None and value >= threshold
        words = "is at most" if passed else "falls by more than"
        reason = f"{_named(name, value)} {words} {most:g} below the champion's {baseline:.4f}"
        checks.append(Check(f"class drop {name}", value, threshold, baseline, passed, reason))
    return checks


def _measured(challenger: Evaluation, name: str) -> Check:
    value = challenger.metric(name)
    passed = value is not None and math.isfinite(value)
    reason = _named(name, value) if passed else f"{_named(name, value)} is no number"
    return Check(f"measured {name}", value, None, None, passed, reason)


def _named(name: str, value: float | None) -> str:
    return f"{name} (not measured)" if value is None else f"{name} {value:.4f}"
