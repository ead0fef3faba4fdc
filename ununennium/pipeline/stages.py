"""The stages of a run, in order: prepare, train, judge. The command line and the flow are both made of these.

No Prefect here, and no torch: training and evaluation run in processes of their own.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ununennium.checkpoints.registry import PROMOTED, Promotion, Registry
from ununennium.config import Component, RunConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.index_cache import check_unchanged, indexed
from ununennium.errors import ConfigError, GateError, PromotionConflict, UnunenniumError
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import Check, check_metrics, check_slices, decide, with_check
from ununennium.files import write_json
from ununennium.importing import check_allowed
from ununennium.launch.result import TrainingResult
from ununennium.launch.training import check_in_subprocess, evaluate_in_subprocess, launch, smoke_test
from ununennium.launch.watch import OnLine
from ununennium.pipeline import approval
from ununennium.pipeline.approval import Answer
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.storage.open import check_writable, open_storage
from ununennium.tasks import headline

ATTEMPTS = 3
"""Times that a candidate is judged anew because another champion was promoted in the meantime."""


@dataclass(frozen=True)
class Plan:
    """What a run is going to do.

    Attributes:
        rows: heading and text, for people.
        details: the same for programs.
    """

    rows: list[tuple[str, str]]
    details: dict[str, Any]

    def lines(self) -> list[str]:
        """One line per row."""
        width = max(len(heading) for heading, _ in self.rows)
        return [f"{heading:<{width}}  {text}" for heading, text in self.rows]


def prepare(run: RunDirectory, *, on_line: OnLine | None = None) -> Plan:
    """Check and index the imagery, compute the statistics of the training fold, and make the plan.

    A run that was interrupted after this keeps what it has.

    Args:
        run: a new run, or one that goes on.
        on_line: told what is being looked at.

    Raises:
        ConfigError: settings that cannot work, or a champion that cannot be compared with.
        DataError: imagery or labels that cannot be used.
    """
    config = run.config()
    _check_components(config)
    if config.checkpoints.save_top_k == 0:
        raise ConfigError("checkpoints.save_top_k", 0, "keeps no checkpoint to evaluate; give 1 or more, or -1")
    check_metrics(config.gate, config.data.classes, config.data.task)
    champion = Registry(run.storage, config.name).current()
    if run.plan_file.exists():
        index = ChipIndex.load(run.index_file)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the index keeps them, and the plan shows them
            data = indexed(config.data, on_line)
        index = data.index
        check_slices(config.gate, [name for scene in index.scenes for name, _ in scene.attributes])
        index.save(run.index_file)
        data.statistics().save(run.statistics_file)
        write_json(run.split_file, index.split.to_geojson())
    plan = make_plan(run, config, index.summary(), champion)
    write_json(run.plan_file, {"rows": plan.rows, **plan.details})
    return plan


def make_plan(run: RunDirectory, config: RunConfig, data: Mapping[str, Any], champion: Promotion | None) -> Plan:
    """What ``run`` is going to do, for people and for programs.

    Args:
        run: where.
        config: what.
        data: the chip index's summary.
        champion: the model to beat, if there is one.
    """
    trainer, early = config.trainer, config.early_stopping
    training = f"up to {trainer.epochs} epochs, {config.data.batch_size} chips of {config.data.chip_size} px per batch"
    if early is not None:
        training += f"; stops after {early.patience} epochs without a better {early.monitor}"
    if trainer.time_limit_s is not None:
        training += f"; at most {trainer.time_limit_s:g} s"
    keep = "all" if config.checkpoints.save_top_k == -1 else f"the best {config.checkpoints.save_top_k}"
    floors = [f"{name} >= {value:g}" for name, value in config.gate.floors.items()]
    beat = f"{config.gate.metric} must exceed the champion's by more than {config.gate.min_improvement:g}"
    rows = [
        ("run", run.run_id),
        ("data", "; ".join(_scene(scene) for scene in data["scenes"])),
        *_data_rows(data),
        *(("  warning", note) for note in data["notes"]),
        ("training", training),
        ("model", component(config.model)),
        ("loss", component(config.loss)),
        ("optimizer", component(config.optimizer) + (f", {component(config.scheduler)}" if config.scheduler else "")),
        ("device", f"{trainer.device}, {config.launcher.nproc_per_node} process(es)"),
        ("checkpoints", f"{keep} by {config.checkpoints.monitor} ({config.checkpoints.mode}), and the newest"),
        ("gate", "; ".join([*floors, beat if champion else f"no champion yet: {'only these' if floors else 'any'}"])),
        ("champion", f"generation {champion.generation}, version {champion.version}" if champion else "none yet"),
        ("storage", run.storage),
    ]
    details = {
        "run_id": run.run_id,
        "name": config.name,
        "storage": run.storage,
        "data": dict(data),
        "champion": None if champion is None else {"generation": champion.generation, "version": champion.version},
        "config": config.model_dump(mode="json"),
    }
    return Plan(rows, details)


def check(run: RunDirectory, plan: Plan, *, on_line: OnLine = print) -> Plan:
    """Try what a run would do first: write to the storage, build every component, train one batch.

    Args:
        run: a prepared run; nothing of the check is kept.
        plan: of the run.
        on_line: told what the process prints.

    Returns:
        The plan, with what was found.

    Raises:
        ConfigError: a setting with which the run cannot train; field, value and remedy.
        StorageError: the storage cannot be written.
    """
    _probe(run.storage)
    found = check_in_subprocess(run, on_line=on_line)
    return Plan([*plan.rows, ("check", found.pop("words"))], {**plan.details, "check": found})


def train(run: RunDirectory, *, check: bool = True, on_line: OnLine = print) -> TrainingResult:
    """Train under torchrun; a run that has checkpoints goes on from the newest. ``require_usable`` tells failures.

    Args:
        run: a prepared run.
        check: train one batch on copies first, so that a wrong setting shows itself at once.
        on_line: told what rank 0 prints.

    Raises:
        DataError: the imagery or labels changed since the run indexed them.
    """
    settings = run.config().launcher
    check_unchanged(ChipIndex.load(run.index_file))
    run.publish([run.plan_file, run.index_file, run.statistics_file, run.split_file])
    result = launch(
        run,
        nproc=settings.nproc_per_node,
        timeout_s=settings.timeout_s,
        grace_s=settings.grace_s,
        stall_timeout_s=settings.stall_timeout_s,
        max_restarts=settings.max_restarts,
        check=check,
        on_line=on_line,
    )
    summarise(run)
    run.publish([run.result_file, run.metrics_file, run.summary_file])
    report(run, on_line=on_line)
    return result


def evaluate(run: RunDirectory, *, on_line: OnLine = print) -> dict[str, Any]:
    """Measure the best checkpoint and the champion on the holdout, and decide; promotes nothing.

    Returns:
        The decision, which is also ``gate.json``.
    """
    evaluate_in_subprocess(run, on_line=on_line)
    measured = read_json(run.evaluation_file)
    challenger = Evaluation.from_json(measured["challenger"])
    champion = None if measured["champion"] is None else Evaluation.from_json(measured["champion"])
    decision = decide(
        challenger,
        champion,
        run.config().gate,
        champion_error=measured["champion_error"],
        notes=_notes(challenger, measured),
    ).to_json()
    compared = {"run_id": run.run_id, "generation": measured["generation"], "version": measured["version"]}
    write_json(run.gate_file, decision | compared)
    run.publish(
        [
            *(run.evaluation_file, run.gate_file, run.probe_file, run.artifact_folder),
            *(run.prediction_folder, run.pictures_folder),
        ]
    )
    return decision


def _notes(challenger: Evaluation, measured: Mapping[str, Any]) -> list[str]:
    """What a reader of the verdict should know."""
    notes = list(challenger.worst)
    before = measured.get("champion_holdout")
    if before is not None:
        if before["split_sha256"] != challenger.split_sha256:
            notes.append(
                "the holdout is not the one that the champion was judged on, so it was measured anew; it may have been "
                "trained on a part of it, which flatters it (data.split.file with its run's split.geojson keeps folds)"
            )
        elif before["data_sha256"] != challenger.data_sha256:
            notes.append("the data changed since the champion was judged, so it was measured anew")
    return notes


def promote(run: RunDirectory, *, actor: str) -> Promotion:
    """Make the judged candidate of ``run`` the champion, once the storage has shown that it holds that very model.

    Raises:
        GateError: the gate's verdict does not allow it, or the stored artefact fails the smoke test.
        PromotionConflict: the champion it was compared with is no longer the champion.
    """
    from ununennium.report.card import write_card

    config, gate = run.config(), read_json(run.gate_file)
    registry = Registry(run.storage, config.name)
    if gate["verdict"] != PROMOTED:
        raise GateError(f"{run.run_id} cannot be promoted: {gate['reason']}")
    version = registry.add_version(run.artifact_folder)
    gate = with_check(gate, _smoke_test(run, registry.version_url(version)))
    _write_gate(run, gate)
    if gate["verdict"] != PROMOTED:
        raise GateError(f"{run.run_id} is not promoted: {gate['reason']}")
    registry.describe(version, write_card(run, version, gate))
    promotion = registry.promote(
        version,
        expected_generation=gate["generation"],
        gate=gate,
        actor=actor,
        run_id=run.run_id,
        token=run.run_id,
        checkpoint=read_json(run.evaluation_file).get("checkpoint"),
        flow_run_id=str(run.record().get("started_by", {}).get("flow_run_id") or ""),
    )
    write_json(run.promotion_file, {"generation": promotion.generation, "version": promotion.version, "actor": actor})
    summarise(run)
    run.publish([run.promotion_file, run.summary_file])
    return promotion


def _smoke_test(run: RunDirectory, url: str) -> Check:
    """Whether what the storage holds is the model that was judged."""
    if not run.probe_file.exists():
        passed, words = False, "the run has nothing to compare with; evaluate it again ('ununennium evaluate')"
    else:
        passed, words = smoke_test(url, run.probe_file, run.run_file)
    reason = f"loaded from the storage by a fresh process: {words}"
    return Check("smoke test", None, None, None, passed, reason, "smoke test")


def _write_gate(run: RunDirectory, gate: Mapping[str, Any]) -> None:
    write_json(run.gate_file, gate)
    run.publish([run.gate_file])


def judge(run: RunDirectory, *, actor: str, on_line: OnLine = print) -> dict[str, Any]:
    """Evaluate, decide, and promote if the gate allows it; judged anew if the champion changes meanwhile.

    With ``gate.approval: manual`` what passes waits for a person, see ``settle``.

    Returns:
        The run's summary.
    """
    for attempt in range(1, ATTEMPTS + 1):
        decision = evaluate(run, on_line=on_line)
        if decision["verdict"] != PROMOTED:
            break
        if run.config().gate.approval == "manual":
            approval.ask(run, read_json(run.gate_file)["generation"])
            break
        try:
            promote(run, actor=actor)
            break
        except GateError as refused:  # gate.json says why
            on_line(str(refused))
            break
        except PromotionConflict as conflict:
            if attempt == ATTEMPTS:
                raise
            on_line(f"{conflict}; evaluating against the new champion")
    summary = summarise(run)
    run.publish([run.summary_file])
    report(run, on_line=on_line)
    return summary


def waits(run: RunDirectory) -> bool:
    """Whether ``run`` has been judged, and a person was asked, whatever they said since."""
    return approval.record_of(run) is not None


def refresh(run: RunDirectory) -> None:
    """Take over what somebody elsewhere may have said of a run that waits, or done about it."""
    run.refresh([run.run_file, run.approval_file, run.gate_file, run.promotion_file, run.summary_file])


def go_on(run: RunDirectory, *, on_line: OnLine = print) -> dict[str, Any]:
    """Where a run stands about which a person was asked; an approval that nobody acted upon is acted upon.

    Returns:
        The run's summary.
    """
    answer = approval.answer_of(run)
    if answer is not None and answer.approved and not run.promotion_file.exists():
        return settle(run, answer, on_line=on_line)
    return summarise(run)


def settle(run: RunDirectory, answer: Answer, *, on_line: OnLine = print) -> dict[str, Any]:
    """Act on what a person said of a run that waits: promote it or not.

    If another champion was promoted while it waited, it is judged anew, and waits again if it passes. What has been
    promoted stays so, whatever is said later.

    Returns:
        The run's summary.
    """
    refresh(run)
    if run.promotion_file.exists():
        on_line(f"{run.run_id} has been promoted already; 'ununennium registry rollback' goes back")
        return summarise(run)
    approval.note(run, answer)
    _write_gate(run, with_check(read_json(run.gate_file), answer.check()))
    try:
        if answer.approved:
            promote(run, actor=answer.by)
    except GateError as refused:
        on_line(str(refused))
    except PromotionConflict as conflict:
        on_line(f"{conflict}; evaluating against the new champion")
        return judge(run, actor=answer.by, on_line=on_line)
    summary = summarise(run)
    run.publish([run.summary_file])
    report(run, on_line=on_line)
    return summary


def report(run: RunDirectory, *, on_line: OnLine = print) -> None:
    """Write and publish the report of ``run`` as it stands; what hinders it is said, and ends no run."""
    from ununennium.report.run import write_report

    try:
        run.publish([write_report(run)])
    except Exception as error:
        on_line(f"the report of {run.run_id} could not be written: {type(error).__name__}: {error}")


def summarise(run: RunDirectory, *, stop_reason: str | None = None, reason: str | None = None) -> dict[str, Any]:
    """Write and return ``summary.json``, what ``ununennium runs`` lists, from the files that the run has so far.

    Args:
        run: the run.
        stop_reason: how it ended, where no file says so.
        reason: the same in words.
    """
    record = run.record()
    result, measured, gate, promotion = (
        read_json(file) if file.exists() else None
        for file in (run.result_file, run.evaluation_file, run.gate_file, run.promotion_file)
    )
    metrics = measured["challenger"]["metrics"] if measured else None
    champion = Registry(run.storage, record["name"]).current()
    stop_reason = result["stop_reason"] if result else stop_reason
    verdict, gate_reason = _verdict(gate, promotion, approval.record_of(run))
    summary = {
        "run_id": run.run_id,
        "name": record["name"],
        "started": record["started"],
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds") if stop_reason else None,
        "stop_reason": stop_reason,
        "epochs": result["epochs"] if result else None,
        "best_epoch": result["best_epoch"] if result else None,
        "data_wait": result.get("data_wait") if result else None,
        "holdout": headline(metrics) if metrics else None,
        "verdict": verdict,
        "reason": reason or gate_reason or (result["message"] if result else None),
        "checkpoints": result["checkpoints"] if result else [],
        "champion": champion_summary(run.storage, record["name"], champion) if champion else None,
        "places": _places(run),
    }
    write_json(run.summary_file, summary)
    return summary


def champion_summary(storage: str, name: str, promotion: Promotion) -> dict[str, Any]:
    """Which model is the champion, and where it lies."""
    return {
        "generation": promotion.generation,
        "version": promotion.version,
        "run_id": promotion.run_id,
        "url": Registry(storage, name).version_url(promotion.version),
    }


def component(part: Component) -> str:
    """A component as it would be written in Python."""
    arguments = ", ".join(f"{key}={value!r}" for key, value in part.kwargs.items())
    return f"{part.target.replace(':', '.').rpartition('.')[2]}({arguments})"


def _probe(storage: str) -> None:
    """Write and remove a small object; folders that this makes are removed again.

    Raises:
        StorageError: the storage refuses.
        ConfigError: it cannot be opened.
    """
    folder = Path(storage.partition("://")[2] if storage.startswith(("file://", "local://")) else storage)
    is_local = "://" not in str(storage) or storage.startswith(("file://", "local://"))
    made = [each for each in (folder, *folder.parents) if not each.exists()] if is_local else []
    try:
        check_writable(open_storage(storage))
    except UnunenniumError:
        raise
    except Exception as error:
        raise ConfigError("storage", storage, f"cannot be written to: {type(error).__name__}: {error}") from error
    finally:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()


def _check_components(config: RunConfig) -> None:
    """Refuse code that may not run here before anything is read."""
    for field in ("model", "loss", "optimizer", "scheduler"):
        part: Component | None = getattr(config, field)
        if part is not None:
            check_allowed(part.target, field=f"{field}.target")


def _scene(scene: Mapping[str, Any]) -> str:
    dates = f", {scene['dates']} dates" if scene["dates"] > 1 else ""
    return f"{scene['name']} {scene['width']} wide x {scene['height']} high, in px, {scene['bands']} band(s){dates}"


def _data_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labelled pixels per fold and class."""
    rows = []
    for fold, counts in data["folds"].items():
        total = counts["labelled"]
        shares = "  ".join(f"{name} {count / max(total, 1):.1%}" for name, count in counts["classes"].items())
        rows.append((f"  {fold}", f"{total:,} labelled px: {shares}"))
    return rows


def _verdict(
    gate: dict[str, Any] | None, promotion: dict[str, Any] | None, asked: dict[str, Any] | None
) -> tuple[str | None, str | None]:
    """Verdict and reason; a candidate that may be promoted and has not been is not promoted, or waits for a person."""
    if gate is None:
        return None, None
    if gate["verdict"] != PROMOTED or promotion is not None:
        return gate["verdict"], gate["reason"]
    if asked is not None and asked["state"] == approval.PENDING:
        return approval.AWAITING, f"passes the gate ({gate['reason']}), and waits for a person to approve it"
    return (
        "not_promoted",
        f"passes the gate ({gate['reason']}), but has not been promoted: 'ununennium promote' does it",
    )


def _places(run: RunDirectory) -> dict[str, str]:
    """Where to look for what."""
    made = {
        "checkpoints": (run.result_file, "checkpoints"),
        "gate": (run.gate_file, "gate.json"),
        "prediction": (run.prediction_folder, "prediction"),
        "pictures": (run.pictures_folder, "pictures"),
        "report": (run.report_file, run.report_file.name),
    }
    return {"files": run.url} | {name: f"{run.url}/{key}" for name, (file, key) in made.items() if file.exists()}
