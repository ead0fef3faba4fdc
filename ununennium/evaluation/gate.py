"""Whether a new model may replace the champion: every check, its numbers, and the reason in words.

``gate.json`` of a run::

    verdict         promoted (it may be) or not_promoted
    reason          why, in one sentence
    words           every check and note in a sentence of its own
    checks          Check, in order; ``kind`` is one of KINDS
    notes           what a reader should know of the comparison, and what decided nothing
    bootstrap       {"confidence", "resamples", "seed", "places", "block_size"} of the intervals, or null
    split_sha256, holdout_sha256    the holdout that both were judged on
    run_id, generation, version     the run, and the champion that it was compared with (0, null: none)

Files of earlier versions have verdict, reason, checks (without ``kind`` and ``interval``), split_sha256, run_id and
generation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ununennium.config import GateConfig
from ununennium.errors import ConfigError, GateError
from ununennium.evaluation.bootstrap import LEAST_PLACES, difference_intervals
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.measures import Measures, measures_of, values_by_name
from ununennium.evaluation.slices import DATE, SCENE, parts
from ununennium.evaluation.units import Units, paired
from ununennium.tasks import LOWER_IS_BETTER, TASKS, goodness

KINDS = ("champion", "floor", "measured", "improvement", "class", "slice", "smoke test", "approval")

Interval = tuple[float, float]


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
        kind: one of ``KINDS``.
        interval: of how much better than the champion it is (positive is better also for errors); None without one.
    """

    name: str
    value: float | None
    threshold: float | None
    baseline: float | None
    passed: bool
    reason: str
    kind: str = ""
    interval: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; what is not finite is null."""
        return {name: _finite(value) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class GateDecision:
    """The gate's verdict.

    Attributes:
        verdict: ``promoted`` if the new model may replace the champion.
        reason: why, in words.
        checks: every condition.
        split_sha256: the split that both were judged on.
        holdout_sha256: the labels that both were judged on.
        bootstrap: how intervals were drawn; None without any.
        notes: what a reader should know of the comparison.
    """

    verdict: Literal["promoted", "not_promoted"]
    reason: str
    checks: tuple[Check, ...]
    split_sha256: str
    holdout_sha256: str = ""
    bootstrap: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """What ``gate.json`` holds; what is not finite is null."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "words": [*(check.reason for check in self.checks), *self.notes],
            "checks": [check.to_json() for check in self.checks],
            "notes": list(self.notes),
            "bootstrap": self.bootstrap,
            "split_sha256": self.split_sha256,
            "holdout_sha256": self.holdout_sha256,
        }


def decide(
    challenger: Evaluation,
    champion: Evaluation | None,
    config: GateConfig,
    *,
    champion_error: str | None = None,
    notes: Iterable[str] = (),
) -> GateDecision:
    """Judge a challenger beside the champion, both measured on the same holdout.

    The first model ever has only to be measured, and to reach the floors. A metric that is missing or NaN fails its
    check.

    Args:
        challenger: the new model.
        champion: None if there is none, or it could not be measured.
        config: what is asked for.
        champion_error: why the champion could not be measured, if there is one.
        notes: what a reader should know of the comparison.

    Raises:
        GateError: the champion was measured on another holdout; evaluate it on this one first.
    """
    if champion is not None:
        _check_same_holdout(challenger, champion)
    checks = [] if champion_error is None else [_unreadable(champion_error, config)]
    checks += [_floor(challenger, champion, name, floor) for name, floor in config.floors.items()]
    intervals: dict[str, Interval | None] = {}
    bootstrap: dict[str, Any] | None = None
    if champion is None:
        main = _measured(challenger, config.metric)
        checks.append(main)
    else:
        intervals, bootstrap = _intervals(challenger, champion, config)
        main = _improvement(challenger, champion, config, intervals, bootstrap)
        checks.append(main)
        if config.max_class_drop is not None:
            checks += _class_drops(challenger, champion, config.max_class_drop, intervals)
        if config.max_slice_drop is not None:
            checks += _slice_drops(challenger, champion, config, config.max_slice_drop)
    failed = [check for check in checks if not check.passed]
    reason = "; ".join(check.reason for check in failed) if failed else main.reason
    if not failed:
        if champion is None:
            reason = f"first model: {reason}" if champion_error is None else f"{checks[0].reason}: {reason}"
        if config.floors:
            reason += f"; {len(config.floors)} floor(s) reached"
    return GateDecision(
        "not_promoted" if failed else "promoted",
        reason,
        tuple(checks),
        challenger.split_sha256,
        challenger.holdout_sha256,
        bootstrap,
        tuple(notes),
    )


def with_check(gate: Mapping[str, Any], check: Check) -> dict[str, Any]:
    """``gate.json`` with one more check instead of any of its kind; it can refuse, and never lifts a refusal."""
    others = [other for other in gate["checks"] if other.get("kind") != check.kind]
    gone = {other["reason"] for other in gate["checks"] if other.get("kind") == check.kind}
    words = [line for line in gate.get("words", []) if line not in gone]
    changed = {**gate, "checks": [*others, check.to_json()], "words": [*words, check.reason]}
    if not check.passed:
        changed |= {"verdict": "not_promoted", "reason": check.reason}
    return changed


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


def check_slices(config: GateConfig, attributes: Iterable[str]) -> None:
    """Refuse a gate that guards slices by something that no scene has, before anything is trained.

    Raises:
        ConfigError: there is no such attribute.
    """
    known = [SCENE, DATE, *dict.fromkeys(attributes)]
    for by in config.slices:
        if by not in known:
            raise ConfigError(
                "gate.slices",
                by,
                f"no scene has it; there are {', '.join(known)}. Name it in data.catalog.attributes, or give scenes "
                "attributes",
            )


def _check_same_holdout(challenger: Evaluation, champion: Evaluation) -> None:
    for what, words in (("split", "split of the data"), ("data", "state of the data"), ("holdout", "set of labels")):
        ours, theirs = (getattr(measured, f"{what}_sha256") for measured in (challenger, champion))
        if ours != theirs:
            raise GateError(
                f"the champion was measured on another {words} ({theirs[:12]}, the challenger on {ours[:12]}); "
                "evaluate it on the challenger's holdout first"
            )


def _unreadable(error: str, config: GateConfig) -> Check:
    passed = config.unreadable_champion == "replace"
    reason = f"the champion cannot be measured ({error})"
    if passed:
        reason += ", and gate.unreadable_champion = replace lets the new model be judged as a first one"
    else:
        reason += (
            ", so nobody knows whether the new model is better; mend it, go back to an earlier one (ununennium "
            "registry rollback), or set gate.unreadable_champion: replace"
        )
    return Check("champion", None, None, None, passed, reason, "champion")


def _floor(challenger: Evaluation, champion: Evaluation | None, name: str, floor: float) -> Check:
    value = challenger.metric(name)
    baseline = None if champion is None else champion.metric(name)
    passed = value is not None and goodness(name, value) >= goodness(name, floor)
    words, bound = ("reaches" if passed else "is below"), "floor"
    if goodness(name, 1.0) < 0:
        words, bound = ("keeps to" if passed else "is above"), "ceiling"
    reason = f"{_named(name, value)} {words} the {bound} {floor:g}"
    return Check(f"{bound} {name}", value, floor, baseline, passed, reason, "floor")


def _intervals(
    challenger: Evaluation, champion: Evaluation, config: GateConfig
) -> tuple[dict[str, Interval | None], dict[str, Any] | None]:
    """Intervals of the difference, for the metric and for every class's IoU, and how they were drawn."""
    if config.confidence is None or challenger.units is None or champion.units is None:
        return {}, None
    measures = measures_of(challenger.units.kind, challenger.classes)
    names = dict.fromkeys([config.metric, *(f"IoU.{label}" for label in challenger.classes)])
    found = difference_intervals(
        challenger.units,
        champion.units,
        measures,
        list(names),
        confidence=config.confidence,
        resamples=config.resamples,
        seed=config.seed,
    )
    return found, {
        "confidence": config.confidence,
        "resamples": config.resamples,
        "seed": config.seed,
        "places": len(paired(challenger.units, champion.units)[0]),
        "block_size": challenger.units.block_size,
    }


def _improvement(
    challenger: Evaluation,
    champion: Evaluation,
    config: GateConfig,
    intervals: Mapping[str, Interval | None],
    bootstrap: Mapping[str, Any] | None,
) -> Check:
    value, baseline = challenger.metric(config.metric), champion.metric(config.metric)
    name = f"improvement of {config.metric}"
    less_is_better = goodness(config.metric, 1.0) < 0
    if baseline is None or math.isnan(baseline):
        # A class without labels that the champion does not see: a challenger that sees it is wrong, and has a 0.
        passed = value is not None and math.isfinite(value) and (value > 0 or less_is_better)
        reason = f"the champion has no {config.metric}, and the new model has {_named(config.metric, value)}"
        return Check(name, value, 0.0, baseline, passed, reason, "improvement")
    least = goodness(config.metric, baseline) + config.min_improvement
    threshold = -least if less_is_better else least
    passed = value is not None and goodness(config.metric, value) > least
    words = "exceeds" if passed else "does not exceed"
    if less_is_better:
        words = "is below" if passed else "is not below"
    margin = f" by more than {config.min_improvement:g}" if config.min_improvement else ""
    reason = f"{_named(config.metric, value)} {words} the champion's {baseline:.4f}{margin}"
    interval = intervals.get(config.metric)
    if config.confidence is not None and value is not None:
        clear = interval is not None and interval[0] > config.min_improvement
        if passed or interval is not None:
            reason += _noise_in_words(interval, clear or not passed, config, bootstrap)
        passed = passed and clear
    return Check(name, value, threshold, baseline, passed, reason, "improvement", interval)


def _noise_in_words(
    interval: Interval | None, unsurprising: bool, config: GateConfig, bootstrap: Mapping[str, Any] | None
) -> str:
    """What the interval of the difference says, as the end of a sentence."""
    if bootstrap is None:
        return ", but blocks were not counted one by one, so nobody can tell whether that is noise; evaluate both anew"
    places = bootstrap["places"]
    if interval is None and places < LEAST_PLACES:
        return (
            f", but the holdout has only {places} block(s), and {LEAST_PLACES} are needed to tell that from noise; "
            "hold out more, lower data.split.block_size, or set gate.confidence: null"
        )
    if interval is None:
        return ", but in half of the draws of the holdout's blocks one of them has no such metric"
    words = f"{config.confidence:.0%} interval of the difference {interval[0]:+.4f} to {interval[1]:+.4f}"
    return f" ({words}, {places} blocks)" + ("" if unsurprising else ", but that may be noise")


def _class_drops(
    challenger: Evaluation, champion: Evaluation, most: float, intervals: Mapping[str, Interval | None]
) -> list[Check]:
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
        interval = intervals.get(name)
        checks.append(Check(f"class drop {name}", value, threshold, baseline, passed, reason, "class", interval))
    return checks


def _slice_drops(challenger: Evaluation, champion: Evaluation, config: GateConfig, most: float) -> list[Check]:
    """One check for each part of the holdout, where there are several, and it has blocks enough."""
    if challenger.units is None or champion.units is None:
        return []
    measures = measures_of(challenger.units.kind, challenger.classes)
    checks: list[Check] = []
    for by in config.slices:
        theirs = dict(parts(champion.units, by))
        found = [(value, chosen) for value, chosen in parts(challenger.units, by) if chosen.any()]
        for value, chosen in found if len(found) > 1 else ():
            ours = challenger.units.of(chosen)
            its = champion.units.of(theirs[value]) if value in theirs else champion.units.of(champion.units.scene < 0)
            checks.append(_slice_drop(f"{by} {value}", ours, its, measures, config.metric, most))
    return checks


def _slice_drop(where: str, ours: Units, theirs: Units, measures: Measures, metric: str, most: float) -> Check:
    value, baseline = (values_by_name(measures, [metric], units.total).get(metric) for units in (ours, theirs))
    number = None if value is None else float(value)
    before = None if baseline is None else float(baseline)
    name, places = f"slice drop {where}", len(ours.places())
    shown = f"{where}: {_named(metric, number)}"
    if before is None or math.isnan(before) or places < LEAST_PLACES:
        why = f"only {places} block(s)" if places < LEAST_PLACES else f"the champion has no {metric} there"
        return Check(name, number, None, before, True, f"{shown} is not guarded: {why}", "slice")
    if metric.partition(".")[0] in LOWER_IS_BETTER:
        threshold, limit = before * (1 + most), f"{most:.0%} above"
        passed = number is not None and number <= threshold
    else:
        least = goodness(metric, before) - most
        threshold, limit = (-least if goodness(metric, 1.0) < 0 else least), f"{most:g} below"
        passed = number is not None and goodness(metric, number) >= least
    words = "is at most" if passed else "is more than"
    return Check(
        name, number, threshold, before, passed, f"{shown} {words} {limit} the champion's {before:.4f}", "slice"
    )


def _measured(challenger: Evaluation, name: str) -> Check:
    value = challenger.metric(name)
    passed = value is not None and math.isfinite(value)
    reason = _named(name, value) if passed else f"{_named(name, value)} is no number"
    return Check(f"measured {name}", value, None, None, passed, reason, "measured")


def _named(name: str, value: float | None) -> str:
    return f"{name} (not measured)" if value is None else f"{name} {value:.4f}"


def _finite(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
