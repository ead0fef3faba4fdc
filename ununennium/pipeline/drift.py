"""Drift of the champion, measured on the labels as they are now, and kept on record.

No Prefect here, and no torch: the measurement runs in a process of its own. Each check leaves one record, never
changed, beside the model's versions and promotions::

    models/<model>/drift/<when>-<token>.json
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from ununennium.checkpoints.contract import ModelContract
from ununennium.checkpoints.registry import Promotion, Registry
from ununennium.config import RunConfig
from ununennium.errors import CheckpointError, ConfigError, GateError
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import check_metrics
from ununennium.evaluation.thresholds import exceeds
from ununennium.files import finite
from ununennium.launch.stalls import OnLine
from ununennium.pipeline.evaluations import measure_champion
from ununennium.storage.open import open_storage, resolve_storage
from ununennium.tasks import goodness

_FORMAT = 1


@dataclass(frozen=True)
class Drift:
    """Result of a check of the champion for drift.

    Attributes:
        model: its name.
        version: the champion's.
        generation: the champion's.
        run_id: run that trained it.
        metric: metric to compare, as ``gate.metric`` has it.
        value: the champion's on the holdout as it is now; None if that has no such metric.
        baseline: the champion's when it was trained; None if it was not measured then.
        tolerance: how much worse than the baseline is still all right, in the metric's own unit.
        degraded: whether it is worse than that.
        reason: the same in words.
        metrics: all metrics as they are now.
        num_pixels: labelled pixels, or patches, that they were measured on.
        data_sha256: hash of the data as they are now.
        data_changed: whether the data are other ones than the champion was trained and measured on.
        split_sha256: hash of the split.
        checked: when, UTC, ISO 8601.
        actor: person or program that asked for it.
        url: of the record; empty before there is one.
    """

    model: str
    version: str
    generation: int
    run_id: str
    metric: str
    value: float | None
    baseline: float | None
    tolerance: float
    degraded: bool
    reason: str
    metrics: dict[str, Any]
    num_pixels: int
    data_sha256: str
    data_changed: bool
    split_sha256: str
    checked: str
    actor: str
    url: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready, as the record holds it; what is not finite is null."""
        content: dict[str, Any] = finite({"format": _FORMAT, **asdict(self)})
        del content["url"]
        return content


def check_champion(config: RunConfig, *, tolerance: float, actor: str, on_line: OnLine = print) -> Drift:
    """Measure the champion of ``config.name`` on the holdout of the data as they are now, and keep what comes out.

    The baseline is what the champion scored when it was trained, as its contract says; the holdout is that of
    ``config.data.split``, with all labels that have come since.

    Args:
        config: the data, the split and the metric (``gate.metric``); nothing is trained.
        tolerance: how much worse than the baseline is still all right, in the metric's own unit; 0 or more.
        actor: person or program that asks for it.
        on_line: told what is being done, from a thread.

    Raises:
        ConfigError: there is no champion, it knows other classes, or there is no such metric.
        DataError: imagery or labels that cannot be used.
        ProcessLost: the measuring process was killed; a new call begins anew.
    """
    if not tolerance >= 0:
        raise ConfigError("tolerance", tolerance, "say how much worse is still all right: 0 or more")
    check_metrics(config.gate, config.data.classes, config.data.task)
    storage = resolve_storage(config.storage)
    registry = Registry(storage, config.name)
    champion = registry.current()
    if champion is None:
        raise ConfigError(
            "name", config.name, f"has no champion in {storage}; 'ununennium registry list' shows who has"
        )
    measured = measure_champion(config, storage, on_line=on_line)
    if measured.champion is None or measured.generation != champion.generation:
        raise GateError(f"another champion of {config.name!r} was promoted during the check; check that one")
    drift = compare(
        measured.champion,
        registry.contract(champion.version),
        champion,
        model=config.name,
        metric=config.gate.metric,
        tolerance=tolerance,
        actor=actor,
    )
    return _keep(storage, drift)


def compare(
    now: Evaluation,
    contract: ModelContract,
    champion: Promotion,
    *,
    model: str,
    metric: str,
    tolerance: float,
    actor: str,
) -> Drift:
    """Compare the champion's score now with the one in its contract.

    A metric that cannot be measured any more counts as worse; one that never was, does not.
    """
    then = Evaluation(list(contract.classes), [], dict(contract.metrics), 0, "", "")
    value, baseline = finite(now.metric(metric)), finite(then.metric(metric))
    if baseline is None:
        degraded, reason = False, f"{metric} was not measured when the champion was trained: nothing to compare with"
    elif value is None:
        degraded, reason = True, f"{metric} was {baseline:.4f}, and cannot be measured on today's holdout"
    else:
        degraded = exceeds(goodness(metric, baseline), goodness(metric, value), tolerance)
        margin = f"the {tolerance:g} that it may be worse by"
        found = f"{metric} is {value:.4f} on today's holdout and was {baseline:.4f}"
        reason = f"{found}: {'more than' if degraded else 'within'} {margin}"
    return Drift(
        model=model,
        version=champion.version,
        generation=champion.generation,
        run_id=champion.run_id,
        metric=metric,
        value=value,
        baseline=baseline,
        tolerance=tolerance,
        degraded=degraded,
        reason=reason,
        metrics=now.metrics,
        num_pixels=now.num_pixels,
        data_sha256=now.data_sha256,
        data_changed=now.data_sha256 != contract.data_sha256,
        split_sha256=now.split_sha256,
        checked=datetime.now(UTC).isoformat(timespec="milliseconds"),
        actor=actor,
    )


def drift_history(storage: str, model: str) -> list[Drift]:
    """Every check of a model's champions, newest first.

    Raises:
        CheckpointError: a record is damaged, or of a later format.
    """
    records = open_storage(resolve_storage(storage))
    found = []
    for key in sorted(records.list(f"models/{model}/drift/"), reverse=True):
        try:
            values = json.loads(records.read_bytes(key))
            if values.pop("format") != _FORMAT:
                raise ValueError(f"this version reads format {_FORMAT}")
            found.append(Drift(**values, url=records.url(key)))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{records.url(key)} is no record of a check: {error}") from error
    return found


def _keep(storage: str, drift: Drift) -> Drift:
    records = open_storage(storage)
    when = drift.checked[:19].replace("-", "").replace(":", "")
    key = f"models/{drift.model}/drift/{when}Z-{secrets.token_hex(2)}.json"
    records.create(key, (json.dumps(drift.to_json(), indent=1) + "\n").encode())
    return Drift(**{**asdict(drift), "url": records.url(key)})
