"""Plan of a run: index the imagery, check the settings, and say what the run is going to do."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ununennium.checkpoints.registry import Promotion, Registry
from ununennium.config import Component, RunConfig
from ununennium.data.chips.counts import EpochCounts
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.index_cache import indexed
from ununennium.errors import ConfigError, UnunenniumError
from ununennium.evaluation.gate import check_metrics, check_slices
from ununennium.files import write_json
from ununennium.importing import check_allowed
from ununennium.launch.device import resolved_device
from ununennium.launch.stalls import OnLine
from ununennium.launch.training import check_in_subprocess
from ununennium.live_line import Wait
from ununennium.runs.directory import RunDirectory
from ununennium.storage.open import check_writable, open_storage


@dataclass(frozen=True)
class RunPlan:
    """Plan of a run.

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


def prepare(run: RunDirectory, *, on_line: OnLine | None = None, on_wait: OnLine | None = None) -> RunPlan:
    """Check and index the imagery, compute the statistics of the training fold, and make the plan.

    A run that was interrupted after this keeps what it has.

    Args:
        run: a new run, or one that goes on.
        on_line: told what is being looked at.
        on_wait: told what takes more than two seconds.

    Raises:
        ConfigError: settings that cannot work, or a champion that cannot be compared with.
        DataError: imagery or labels that cannot be used.
    """
    config = run.config()
    _check_components(config)
    if config.checkpoints.save_top_k == 0:
        raise ConfigError("checkpoints.save_top_k", 0, "keeps no checkpoint to evaluate; give 1 or more, or -1")
    check_metrics(config.gate, config.data.classes, config.data.task)
    with Wait(f"reading the registry in {run.storage}", on_wait):
        champion = Registry(run.storage, config.name).current()
    if run.plan_file.exists():
        index = ChipIndex.load(run.index_file)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the index keeps them, and the plan shows them
            data = indexed(config.data, on_line, on_wait=on_wait)
        index = data.index
        check_slices(config.gate, [name for scene in index.scenes for name, _ in scene.attributes])
        index.save(run.index_file)
        with Wait("computing band statistics of the training fold", on_wait):
            data.statistics().save(run.statistics_file)
        write_json(run.split_file, index.split.to_geojson())
    plan = make_plan(run, config, index.summary(), champion)
    write_json(run.plan_file, {"rows": plan.rows, **plan.details})
    return plan


def make_plan(run: RunDirectory, config: RunConfig, data: Mapping[str, Any], champion: Promotion | None) -> RunPlan:
    """Plan of ``run``, for people and for programs.

    Args:
        run: directory of the run.
        config: configuration of the run.
        data: the chip index's summary.
        champion: the model to beat, if there is one.
    """
    trainer, early = config.trainer, config.early_stopping
    counts = EpochCounts.of(
        data["folds"]["train"]["labelled"],
        chip_size=config.data.chip_size,
        batch_size=config.data.batch_size,
        chips_per_epoch=config.data.chips_per_epoch,
        world_size=config.launcher.nproc_per_node,
        accumulation_steps=trainer.accumulation_steps,
        epochs=trainer.epochs,
    )
    device = resolved_device(trainer.device)
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
        ("steps", f"{counts.chips:,} chips and {counts.steps:,} steps per epoch, {counts.total_steps:,} steps in all"),
        ("model", component(config.model)),
        ("loss", component(config.loss)),
        ("optimizer", component(config.optimizer) + (f", {component(config.scheduler)}" if config.scheduler else "")),
        ("device", f"{_device(trainer.device, device)}, {config.launcher.nproc_per_node} process(es)"),
        ("checkpoints", f"{keep} by {config.checkpoints.monitor} ({config.checkpoints.mode}), and the newest"),
        ("gate", "; ".join([*floors, beat if champion else _first(config)])),
        ("champion", f"generation {champion.generation}, version {champion.version}" if champion else "none yet"),
        ("storage", run.storage),
    ]
    details = {
        "run_id": run.run_id,
        "name": config.name,
        "storage": run.storage,
        "data": dict(data),
        "training": {
            "chips_per_epoch": counts.chips,
            "steps_per_epoch": counts.steps,
            "total_steps": counts.total_steps,
            "device": device,
        },
        "champion": None if champion is None else {"generation": champion.generation, "version": champion.version},
        "config": config.model_dump(mode="json"),
    }
    return RunPlan(rows, details)


def _first(config: RunConfig) -> str:
    """Requirement on a first model, in words."""
    if config.gate.first == "any":
        return "first model: not compared with a baseline (gate.first: any)"
    return f"first model: {config.gate.metric} must be better than the baselines' (gate.first)"


def check(run: RunDirectory, plan: RunPlan, *, on_line: OnLine = print) -> RunPlan:
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
    with Wait(f"writing to {run.storage}", on_line):
        _probe(run.storage)
    found = check_in_subprocess(run, on_line=on_line)
    return RunPlan([*plan.rows, ("check", found.pop("words"))], {**plan.details, "check": found})


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
    named = {name: getattr(config, name) for name in ("model", "loss", "optimizer", "scheduler")}
    named["data.augment.transform"] = config.data.augment.transform
    named |= {f"trainer.callbacks.{number}": part for number, part in enumerate(config.trainer.callbacks)}
    named |= {f"trainer.metrics.{name}": part for name, part in config.trainer.metrics.items()}
    for field, part in named.items():
        if part is not None:
            check_allowed(part.target, field=f"{field}.target")


def _device(name: str, used: str | None) -> str:
    """The device that is used, and the setting if it names another."""
    if used is None:
        return f"{name} (torch does not say which that is here; 'ununennium doctor' looks)"
    if used.partition(":")[0] == name.partition(":")[0]:
        return used
    return f"{used} (trainer.device is {name}{'' if name == 'auto' else ', and no CUDA device is visible'})"


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
