"""The gate's conditions, each with its numbers and the reason in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ununennium.config import GateConfig
from ununennium.evaluation.block_sums import BlockSums, paired
from ununennium.evaluation.bootstrap import LEAST_PLACES, informative_places, interval_of, num_resamples
from ununennium.evaluation.evaluation import Baseline, Evaluation
from ununennium.evaluation.measures import Measures, has_labels, measures_of, values_by_name
from ununennium.evaluation.slices import parts
from ununennium.evaluation.thresholds import exceeds, reaches
from ununennium.files import finite
from ununennium.tasks import LOWER_IS_BETTER, goodness, worst_value

KINDS = ("champion", "floor", "measured", "baseline", "improvement", "class", "slice", "smoke test", "approval")

Interval = tuple[float, float]


@dataclass(frozen=True)
class Check:
    """One condition of the gate.

    Attributes:
        name: name of the check, such as ``floor IoU.building``.
        value: the challenger's; None if it has no such metric.
        threshold: value to reach or exceed; None if it only has to be a number.
        baseline: the champion's, or that of the baseline of a first model; None without one.
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
        return {name: finite(value) for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Check:
        """The check in ``gate.json``; earlier versions wrote neither kind nor interval."""
        interval = values.get("interval")
        return cls(
            name=str(values.get("name", "")),
            value=values.get("value"),
            threshold=values.get("threshold"),
            baseline=values.get("baseline"),
            passed=bool(values.get("passed", False)),
            reason=str(values.get("reason", "")),
            kind=values.get("kind", ""),
            interval=None if interval is None else (interval[0], interval[1]),
        )


@dataclass(frozen=True)
class Noise:
    """Intervals of the difference of two models, and how they were drawn.

    Attributes:
        confidence: share of holdouts whose interval is to hold the truth.
        intervals: for each metric, None where there is none.
        places: for each metric, the blocks that inform it.
        bootstrap: as ``gate.json`` has it; None where blocks were not counted one by one.
        merged: blocks along each side that were put together, because errors of neighbours are correlated.
    """

    confidence: float
    intervals: Mapping[str, Interval | None]
    places: Mapping[str, int]
    bootstrap: Mapping[str, Any] | None
    merged: int = 1

    def interval(self, metric: str) -> Interval | None:
        """Of one metric."""
        return self.intervals.get(metric)


def unreadable(error: str, config: GateConfig) -> Check:
    """A champion that cannot be measured: refused, or judged as if there were none."""
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


def floor(challenger: Evaluation, champion: Evaluation | None, name: str, least: float) -> Check:
    """A value that the challenger has to reach, champion or not."""
    value = challenger.metric(name)
    baseline = None if champion is None else champion.metric(name)
    passed = value is not None and reaches(goodness(name, value), goodness(name, least))
    words, bound = ("reaches" if passed else "is below"), "floor"
    if goodness(name, 1.0) < 0:
        words, bound = ("keeps to" if passed else "is above"), "ceiling"
    reason = f"{named(name, value)} {words} the {bound} {least:g}"
    if _is_bias(name) and value is not None:
        reason += f" ({abs(value):.4f} from 0)"
    return Check(f"{bound} {name}", value, least, baseline, passed, reason, "floor")


def measured(challenger: Evaluation, name: str) -> Check:
    """The metric of a first model has to be a number."""
    value = challenger.metric(name)
    passed = value is not None and math.isfinite(value)
    reason = named(name, value) if passed else f"{named(name, value)} is no number"
    return Check(f"measured {name}", value, None, None, passed, reason, "measured")


def beats_baseline(challenger: Evaluation, baseline: Baseline, metric: str, noise: Noise | None) -> Check:
    """A first model is better than a baseline, by more than noise where there are blocks enough for an interval."""
    value, its = challenger.metric(metric), baseline.evaluation.metric(metric)
    worth = worst_value(metric) if _is_missing(its) else its
    assert value is not None
    assert worth is not None
    passed = exceeds(goodness(metric, value), goodness(metric, worth), 0.0)
    shown = "no such metric" if _is_missing(its) else f"{its:.4f}"
    interval = None if noise is None else noise.interval(metric)
    clear = interval is None or exceeds(interval[0], 0.0)
    reason = f"{named(metric, value)} {'beats' if passed and clear else 'does not beat'} {baseline.name} ({shown})"
    if noise is not None and interval is not None:
        words = f"{noise.confidence:.0%} interval of the difference {interval[0]:+.4f} to {interval[1]:+.4f}"
        reason += f", {words}"
    elif noise is not None:
        reason += ", by the difference alone: the holdout has too few blocks for an interval"
    threshold = None if math.isinf(worth) else worth
    return Check(f"baseline of {metric}", value, threshold, its, passed and clear, reason, "baseline", interval)


def explains_variance(challenger: Evaluation, config: GateConfig, merged: int) -> Check:
    """A regression's R2 is above 0, by more than its interval where there are blocks enough for one."""
    value = challenger.metric("R2")
    interval = None
    if config.confidence is not None and challenger.units is not None:
        interval = interval_of(challenger.units.merged(merged), "R2", config.confidence, config.resamples, config.seed)
    lowest = value if interval is None else interval[0]
    passed = value is not None and lowest is not None and math.isfinite(lowest) and min(value, lowest) > 0
    reason = f"{named('R2', value)} is {'above 0' if passed else 'not above 0'}"
    if interval is not None:
        reason += f" ({config.confidence:.0%} interval {interval[0]:+.4f} to {interval[1]:+.4f})"
    return Check("R2 above 0", value, 0.0, None, passed, reason, "baseline", interval)


def improvement(challenger: Evaluation, champion: Evaluation, config: GateConfig, noise: Noise | None) -> Check:
    """The metric exceeds the champion's by more than asked for, and by more than noise."""
    metric = config.metric
    value, baseline = challenger.metric(metric), champion.metric(metric)
    worth = worst_value(metric) if _is_missing(baseline) else baseline
    assert worth is not None
    least = goodness(metric, worth), config.min_improvement
    passed = value is not None and math.isfinite(value) and exceeds(goodness(metric, value), *least)
    threshold = -sum(least) if goodness(metric, 1.0) < 0 else sum(least)
    reason = _improvement_in_words(metric, value, baseline, config.min_improvement, passed)
    if noise is None or value is None:
        return Check(f"improvement of {metric}", value, threshold, baseline, passed, reason, "improvement")
    interval = noise.interval(metric)
    clear = interval is not None and exceeds(interval[0], config.min_improvement)
    if math.isinf(worth):
        reason += " (no interval was drawn, because its error counts as infinite)"
        clear = True
    elif passed or interval is not None:
        reason += _noise_in_words(metric, interval, clear or not passed, noise)
    return Check(
        f"improvement of {metric}", value, threshold, baseline, passed and clear, reason, "improvement", interval
    )


def _improvement_in_words(metric: str, value: float | None, baseline: float | None, margin: float, passed: bool) -> str:
    words = "exceeds" if passed else "does not exceed"
    if _is_bias(metric):
        words = "is nearer to 0 than" if passed else "is not nearer to 0 than"
    elif goodness(metric, 1.0) < 0:
        words = "is below" if passed else "is not below"
    by = f" by more than {margin:g}" if margin else ""
    if _is_missing(baseline):
        worst = "an infinite error" if math.isinf(worst_value(metric)) else "0"
        return f"{named(metric, value)} {words} {worst}{by}; the champion has no {metric}, and is worth that"
    return f"{named(metric, value)} {words} the champion's {baseline:.4f}{by}"


def _noise_in_words(metric: str, interval: Interval | None, unsurprising: bool, noise: Noise) -> str:
    """Interval of the difference, as the end of a sentence."""
    if noise.bootstrap is None:
        return ", but blocks were not counted one by one, so nobody can tell whether that is noise; evaluate both anew"
    blocks, drawn = noise.places.get(metric, 0), int(noise.bootstrap["places"])
    together = ""
    if noise.merged > 1:
        size = int(noise.bootstrap["block_size"])
        together = f" of {size} px, because errors of neighbouring blocks of {size // noise.merged} px are correlated"
    if interval is None and blocks < LEAST_PLACES:
        holds = f"the holdout has only {blocks} block(s)"
        if blocks < drawn:
            holds = f"only {blocks} of the holdout's {drawn} block(s) have any {metric.partition('.')[2]}"
        return (
            f", but {holds}{together}, and {LEAST_PLACES} are needed to tell that from noise; hold out more, or set "
            "gate.confidence: null"
        )
    if interval is None and num_resamples(blocks, noise.confidence) is None:
        return (
            f", but {blocks} blocks{together} are too few for an interval of confidence {noise.confidence:g}; hold out "
            "more, or lower gate.confidence"
        )
    if interval is None:
        return ", but in half of the draws of the holdout's blocks neither of them has such a metric"
    words = f"{noise.confidence:.0%} interval of the difference {interval[0]:+.4f} to {interval[1]:+.4f}"
    return f" ({words}, {blocks} blocks{together})" + ("" if unsurprising else ", but that may be noise")


def class_drops(challenger: Evaluation, champion: Evaluation, most: float, noise: Noise | None) -> Iterator[Check]:
    """One check of the IoU of each class that the holdout's labels have; none where there are no classes."""
    for label in labelled_classes(challenger):
        name = f"IoU.{label}"
        value, baseline = challenger.metric(name), champion.metric(name)
        if baseline is None or math.isnan(baseline):
            continue  # it is worth 0, and nothing is below that
        passed = value is not None and reaches(value, baseline, -most)
        words = "is at most" if passed else "falls by more than"
        reason = f"{named(name, value)} {words} {most:g} below the champion's {baseline:.4f}"
        interval = None if noise is None else noise.interval(name)
        yield Check(f"class drop {name}", value, baseline - most, baseline, passed, reason, "class", interval)


def slice_drops(challenger: Evaluation, champion: Evaluation, config: GateConfig, most: float) -> Iterator[Check]:
    """One check for each part of the holdout, where there are several, and it has blocks enough."""
    if challenger.units is None or champion.units is None:
        return
    measures = measures_of(challenger.units.kind, challenger.classes)
    for by in config.slices:
        theirs = dict(parts(champion.units, by))
        found = [(value, chosen) for value, chosen in parts(challenger.units, by) if chosen.any()]
        for value, chosen in found if len(found) > 1 else ():
            ours = challenger.units.of(chosen)
            its = champion.units.of(theirs[value]) if value in theirs else champion.units.of(champion.units.scene < 0)
            yield _slice_drop(f"{by} {value}", ours, its, measures, config.metric, most)


def _slice_drop(where: str, ours: BlockSums, theirs: BlockSums, measures: Measures, metric: str, most: float) -> Check:
    value, baseline = (_value(measures, metric, units) for units in (ours, theirs))
    blocks = informative_places(*paired(ours, theirs), measures, metric)
    name, shown = f"slice drop {where}", f"{where}: {named(metric, value)}"
    if blocks < LEAST_PLACES or not has_labels(measures, metric, ours.total):
        why = f"only {blocks} block(s)" if blocks < LEAST_PLACES else "it has no such labels"
        return Check(name, value, None, baseline, True, f"{shown} is not guarded: {why}", "slice")
    number, before = (worst_value(metric) if _is_missing(each) else each for each in (value, baseline))
    assert number is not None
    assert before is not None
    if metric.partition(".")[0] in LOWER_IS_BETTER:
        threshold, limit = before * (1 + most), f"{most:.0%} above"
        passed = reaches(-number, -threshold)
    else:
        least = goodness(metric, before), -most
        passed = reaches(goodness(metric, number), *least)
        threshold, limit = sum(least), f"{most:g} below"
        if _is_bias(metric):
            threshold, limit = -sum(least), f"{most:g} (in the targets' unit) farther from 0 than"
    words = "is at most" if passed else "is more than"
    reason = f"{shown} {words} {limit} the champion's {before:.4f}"
    return Check(name, value, threshold, baseline, passed, reason, "slice")


def labelled_classes(evaluation: Evaluation) -> list[str]:
    """Classes that the holdout's labels have; of a regression none."""
    labelled, _ = _margins(evaluation)
    return [name for name, number in zip(evaluation.classes, labelled, strict=False) if number]


def predicted_without_labels(evaluation: Evaluation) -> dict[str, int]:
    """Classes that the holdout's labels lack, and how many pixels or patches are predicted as such."""
    counts = zip(evaluation.classes, *_margins(evaluation), strict=False)
    return {name: int(predicted) for name, labelled, predicted in counts if predicted and not labelled}


def _margins(evaluation: Evaluation) -> tuple[Sequence[float], Sequence[float]]:
    """Labelled and predicted pixels or patches of each class."""
    if evaluation.units is not None:
        measures, total = measures_of(evaluation.units.kind, evaluation.classes), evaluation.units.total
        return measures.labelled(total, "IoU").tolist(), measures.predicted(total, "IoU").tolist()
    matrix = np.array(evaluation.confusion, np.int64).reshape(len(evaluation.confusion), len(evaluation.confusion))
    return matrix.sum(1).tolist(), matrix.sum(0).tolist()


def named(name: str, value: float | None) -> str:
    """A metric and its value in words."""
    return f"{name} (not measured)" if value is None else f"{name} {value:.4f}"


def _value(measures: Measures, metric: str, units: BlockSums) -> float | None:
    found = values_by_name(measures, [metric], units.total).get(metric)
    return None if found is None else float(found)


def _is_missing(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _is_bias(metric: str) -> bool:
    return metric.partition(".")[0] == "bias"
