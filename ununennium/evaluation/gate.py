"""Whether a new model may replace the champion: every check, its numbers, and the reason in words."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ununennium.config import GateConfig
from ununennium.errors import GateError
from ununennium.evaluation.evaluate import Evaluation


@dataclass(frozen=True)
class Check:
    """One condition of the gate.

    Attributes:
        name: what is checked, such as ``floor IoU.building``.
        value: the challenger's; None if it has no such metric.
        threshold: what it has to reach or exceed.
        baseline: the champion's; None without one.
        passed: whether it does.
        reason: the same in words.
    """

    name: str
    value: float | None
    threshold: float
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

    The first model ever has floors only to pass. A metric that is missing or NaN fails its check.

    Raises:
        GateError: the champion was measured on another holdout; evaluate it on this one first.
    """
    if champion is not None and champion.split_sha256 != challenger.split_sha256:
        raise GateError(
            "the champion was measured on another split of the data; evaluate it on the challenger's holdout first"
        )
    checks = [_floor(challenger, champion, name, floor) for name, floor in config.floors.items()]
    if champion is not None:
        checks.append(_improvement(challenger, champion, config))
        if config.max_class_drop is not None:
            checks += _class_drops(challenger, champion, config.max_class_drop)
    elif not config.floors:
        checks.append(_exists(challenger, config.metric))
    failed = [check for check in checks if not check.passed]
    if failed:
        reason = "; ".join(check.reason for check in failed)
        return GateDecision("not_promoted", reason, tuple(checks), challenger.split_sha256)
    reason = "first model" if champion is None else next(c.reason for c in checks if c.name.startswith("improvement"))
    if config.floors:
        reason += f"; {len(config.floors)} floor(s) reached"
    return GateDecision("promoted", reason, tuple(checks), challenger.split_sha256)


def _floor(challenger: Evaluation, champion: Evaluation | None, name: str, floor: float) -> Check:
    value = challenger.metric(name)
    baseline = None if champion is None else champion.metric(name)
    passed = value is not None and value >= floor
    words = "reaches" if passed else "is below"
    return Check(f"floor {name}", value, floor, baseline, passed, f"{_named(name, value)} {words} the floor {floor:g}")


def _improvement(challenger: Evaluation, champion: Evaluation, config: GateConfig) -> Check:
    value, baseline = challenger.metric(config.metric), champion.metric(config.metric)
    name = f"improvement of {config.metric}"
    if baseline is None or math.isnan(baseline):  # a champion without the metric is beaten by any finite value
        passed = value is not None and math.isfinite(value)
        return Check(name, value, -math.inf, baseline, passed, f"the champion has no {config.metric}")
    threshold = baseline + config.min_improvement
    passed = value is not None and value > threshold
    words = "exceeds" if passed else "does not exceed"
    margin = f" by more than {config.min_improvement:g}" if config.min_improvement else ""
    reason = f"{_named(config.metric, value)} {words} the champion's {baseline:.4f}{margin}"
    return Check(name, value, threshold, baseline, passed, reason)


def _class_drops(challenger: Evaluation, champion: Evaluation, most: float) -> list[Check]:
    checks = []
    for label, baseline in champion.metrics["IoU"].items():
        if label == "mean" or baseline is None or math.isnan(baseline):
            continue
        name = f"IoU.{label}"
        value, threshold = challenger.metric(name), baseline - most
        passed = value is not None and value >= threshold
        words = "keeps within" if passed else "falls by more than"
        reason = f"{_named(name, value)} {words} {most:g} of the champion's {baseline:.4f}"
        checks.append(Check(f"class drop {name}", value, threshold, baseline, passed, reason))
    return checks


def _exists(challenger: Evaluation, name: str) -> Check:
    value = challenger.metric(name)
    passed = value is not None and math.isfinite(value)
    return Check(f"measured {name}", value, -math.inf, None, passed, f"{_named(name, value)} is no number")


def _named(name: str, value: float | None) -> str:
    return f"{name} (not measured)" if value is None else f"{name} {value:.4f}"
