"""Gate between a new model and the champion: every check, its numbers, and the reason in words.

``gate.json`` of a run::

    verdict         promoted (it may be) or not_promoted
    reason          why, in one sentence
    words           every check and note in a sentence of its own
    checks          Check, in order; ``kind`` is one of KINDS
    notes           what a reader should know of the comparison, and what decided nothing
    bootstrap       {"confidence", "resamples", "seed", "places", "block_size"} of the intervals, or null; blocks may
                    be larger than the split's, see ``ununennium.evaluation.correlation``
    split_sha256, holdout_sha256    the holdout that both were judged on
    run_id, generation, version     the run, and the champion that it was compared with (0, null: none)

Files of earlier versions have verdict, reason, checks (without ``kind`` and ``interval``), split_sha256, run_id and
generation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ununennium.config import GateConfig
from ununennium.errors import ConfigError, GateError
from ununennium.evaluation import checks
from ununennium.evaluation.block_sums import paired
from ununennium.evaluation.bootstrap import difference_intervals, informative_places, num_resamples
from ununennium.evaluation.checks import KINDS, Check, Noise
from ununennium.evaluation.correlation import merge_factor
from ununennium.evaluation.evaluation import Baseline, Evaluation
from ununennium.evaluation.measures import baseline_metric, measures_of
from ununennium.evaluation.records import GateRecord
from ununennium.evaluation.slices import DATE, SCENE
from ununennium.hints import did_you_mean
from ununennium.tasks import TASKS, goodness, worst_value

__all__ = ["KINDS", "Check", "GateDecision", "check_metrics", "check_slices", "decide", "with_check"]


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
        notes: remarks on the comparison, for a reader.
    """

    verdict: Literal["promoted", "not_promoted"]
    reason: str
    checks: tuple[Check, ...]
    split_sha256: str
    holdout_sha256: str = ""
    bootstrap: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Contents of ``gate.json``; numbers that are not finite are null."""
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
    baselines: Sequence[Baseline] = (),
) -> GateDecision:
    """Judge a challenger beside the champion, both measured on the same holdout.

    A first model has to reach the floors, and to be better than the strongest of the baselines (``gate.first: any``
    leaves them out). A metric that is missing or NaN fails its check; a champion without one is worth the worst value
    there is.

    Args:
        challenger: the new model.
        champion: None if there is none, or it could not be measured.
        config: configuration of the gate.
        champion_error: why the champion could not be measured, if there is one.
        notes: remarks on the comparison, for a reader.
        baselines: measured on the same holdout, where there is no champion.

    Raises:
        GateError: the champion was measured on another holdout, or counted on other pixels of it; evaluate it anew
            first.
    """
    if champion is not None:
        _check_same_holdout(challenger, champion)
    found = [] if champion_error is None else [checks.unreadable(champion_error, config)]
    found += [checks.floor(challenger, champion, name, floor) for name, floor in config.floors.items()]
    noise: Noise | None = None
    if champion is None:
        main = checks.measured(challenger, config.metric)
        found.append(main)
        if main.passed and baselines and config.first == "baseline":
            main, noise = _beside_baseline(challenger, baselines, config)
            found.append(main)
            if challenger.metric("R2") is not None:
                found.append(checks.explains_variance(challenger, config, noise.merged if noise else 1))
    else:
        noise = _noise(challenger, champion, config)
        main = checks.improvement(challenger, champion, config, noise)
        found.append(main)
        if config.max_class_drop is not None:
            found += checks.class_drops(challenger, champion, config.max_class_drop, noise)
        if config.max_slice_drop is not None:
            found += checks.slice_drops(challenger, champion, config, config.max_slice_drop)
    failed = [check for check in found if not check.passed]
    reason = "; ".join(check.reason for check in failed) if failed else main.reason
    if not failed:
        if champion is None:
            first = "first model" if config.first == "baseline" else "first model, not compared with a baseline"
            reason = f"{first}: {reason}" if champion_error is None else f"{found[0].reason}: {reason}"
        if config.floors:
            reason += f"; {len(config.floors)} floor(s) reached"
    return GateDecision(
        "not_promoted" if failed else "promoted",
        reason,
        tuple(found),
        challenger.split_sha256,
        challenger.holdout_sha256,
        None if noise is None or noise.bootstrap is None else dict(noise.bootstrap),
        (*notes, *_own_notes(challenger, champion, config)),
    )


def _beside_baseline(
    challenger: Evaluation, baselines: Sequence[Baseline], config: GateConfig
) -> tuple[Check, Noise | None]:
    """The comparison with the strongest baseline, and its intervals."""
    metric = baseline_metric(config.metric)

    def worth(baseline: Baseline) -> float:
        value = baseline.evaluation.metric(metric)
        missing = value is None or math.isnan(value)
        return goodness(metric, worst_value(metric) if missing or value is None else value)

    strongest = max(baselines, key=worth)
    _check_same_holdout(challenger, strongest.evaluation)
    by_metric = config.model_copy(update={"metric": metric})
    noise = _noise(challenger, strongest.evaluation, by_metric)
    return checks.beats_baseline(challenger, strongest, metric, noise), noise


def with_check(gate: GateRecord, check: Check) -> GateRecord:
    """``gate.json`` with one more check instead of any of its kind; it can refuse, and never lifts a refusal."""
    others = [other for other in gate.checks if other.kind != check.kind]
    gone = {other.reason for other in gate.checks if other.kind == check.kind}
    words = [line for line in gate.words if line not in gone]
    changed = replace(gate, checks=(*others, check), words=[*words, check.reason])
    return changed if check.passed else replace(changed, verdict="not_promoted", reason=check.reason)


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
            hint = did_you_mean(name, [*families, *single, *by_class])
            raise ConfigError(field, name, f"there is no such metric; {f'{hint} ' if hint else ''}there are {some}")


def check_slices(config: GateConfig, attributes: Iterable[str]) -> None:
    """Refuse a gate that guards slices by something that no scene has, before anything is trained.

    Raises:
        ConfigError: there is no such attribute.
    """
    known = [SCENE, DATE, *dict.fromkeys(attributes)]
    for by in config.slices:
        if by not in known:
            hint = did_you_mean(by, known)
            there = f"{f'{hint} ' if hint else ''}there are {', '.join(known)}"
            remedy = f"no scene has it; {there}. Name it in data.catalog.attributes, or give scenes attributes"
            raise ConfigError("gate.slices", by, remedy)


def _check_same_holdout(challenger: Evaluation, champion: Evaluation) -> None:
    """Refuse to compare counts of other pixels; hashes say which, and counts per block are the proof."""
    for what, words in (
        ("split", "split of the data"),
        ("data", "state of the data"),
        ("holdout", "set of labels and valid pixels"),
    ):
        ours, theirs = (getattr(measured, f"{what}_sha256") for measured in (challenger, champion))
        if ours != theirs:
            raise GateError(
                f"the champion was measured on another {words} ({theirs[:12]}, the challenger on {ours[:12]}); "
                "evaluate it on the challenger's holdout first ('ununennium evaluate' measures both anew)"
            )
    differing = _differing_blocks(challenger, champion)
    if differing is not None:
        raise GateError(
            f"the champion's counts rest on other pixels than the challenger's ({differing}); measure both anew on the "
            "pixels that both have data for: evaluate the run again ('ununennium evaluate')"
        )


def _differing_blocks(challenger: Evaluation, champion: Evaluation) -> str | None:
    """In words how many blocks have other counts of labels; None if none has."""
    ours, theirs = challenger.units, champion.units
    counted = f"{champion.num_pixels:,} counted, the challenger's {challenger.num_pixels:,}"
    if ours is None or theirs is None:
        return None if challenger.num_pixels == champion.num_pixels else counted
    if (ours.kind, ours.block_size, ours.sums.shape[1]) != (theirs.kind, theirs.block_size, theirs.sums.shape[1]):
        return (
            f"{theirs.kind} in blocks of {theirs.block_size} px, the challenger's {ours.kind} of {ours.block_size} px"
        )
    measures = measures_of(ours.kind, challenger.classes)
    one, other = (measures.reference(sums) for sums in paired(ours, theirs))
    differ = int((one != other).any(-1).sum())
    return f"in {differ} of {len(one)} blocks; {counted}" if differ else None


def _noise(challenger: Evaluation, champion: Evaluation, config: GateConfig) -> Noise | None:
    """Intervals of the difference, for the metric and for every class's IoU; None where none are asked for."""
    if config.confidence is None:
        return None
    if challenger.units is None or champion.units is None:
        return Noise(config.confidence, {}, {}, None)
    measures = measures_of(challenger.units.kind, challenger.classes)
    names = list(dict.fromkeys([config.metric, *(f"IoU.{label}" for label in measures.classes)]))
    factor = merge_factor(challenger.units, champion.units, measures, config.metric)
    one, other = challenger.units.merged(factor), champion.units.merged(factor)
    found = difference_intervals(
        one,
        other,
        measures,
        names,
        confidence=config.confidence,
        resamples=config.resamples,
        seed=config.seed,
    )
    ours, theirs = paired(one, other)
    blocks = {name: informative_places(ours, theirs, measures, name) for name in names}
    drawn = [num_resamples(number, config.confidence, config.resamples) for number in blocks.values()]
    bootstrap = {
        "confidence": config.confidence,
        "resamples": max((number for number in drawn if number is not None), default=config.resamples),
        "seed": config.seed,
        "places": len(ours),
        "block_size": one.block_size,
    }
    return Noise(config.confidence, found, blocks, bootstrap, merged=factor)


def _own_notes(challenger: Evaluation, champion: Evaluation | None, config: GateConfig) -> Iterator[str]:
    """Notes on checks that could not be made, and on predictions of classes that the holdout lacks."""
    if champion is not None and config.max_class_drop is not None and not checks.labelled_classes(challenger):
        yield "no class is guarded (gate.max_class_drop): there are no labelled classes"
    if champion is not None and config.max_slice_drop is not None and None in (challenger.units, champion.units):
        yield "no slice is guarded (gate.max_slice_drop): blocks were not counted one by one; evaluate both anew"
    left_out = {"the new model": challenger.left_out, "the champion": 0 if champion is None else champion.left_out}
    for side, number in left_out.items():
        if number:
            yield f"{number:,} labelled pixels that only {side} has data for are not counted, for either of them"
    sides = {"the new model": checks.predicted_without_labels(challenger)}
    if champion is not None:
        sides["the champion"] = checks.predicted_without_labels(champion)
    for label in dict.fromkeys(name for counts in sides.values() for name in counts):
        said = " and ".join(f"{side} predicts it {counts.get(label, 0):,} times" for side, counts in sides.items())
        yield f"the holdout has no label of {label!r}: {said}, each an error of the class that is labelled there"
