"""Modules that have moved: their former names can be imported for one version, with a DeprecationWarning."""

from __future__ import annotations

import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import warnings
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

MOVED = {
    "approval": "pipeline.approval",
    "arrivals": "pipeline.arrivals",
    "checkpoints.load_cache": "checkpoints.object_cache",
    "checkpoints.local_storage": "storage.local",
    "checkpoints.object_storage": "storage.object_store",
    "checkpoints.patience": "storage.patience",
    "checkpoints.s3_client": "storage.s3_client",
    "checkpoints.saving": "checkpoints.savers",
    "checkpoints.storage": "storage.base storage.open",
    "checkpoints.storage_errors": "storage.errors",
    "data.align": "data.scenes.align",
    "data.antimeridian": "data.scenes.antimeridian",
    "data.bands": "data.scenes.bands",
    "data.batch_transforms": "data.chips.batch_transforms",
    "data.bounds": "data.chips.bounds",
    "data.cache": "files",
    "data.catalog": "data.scenes.catalog data.scenes.scene data.scenes.open",
    "data.class_attributes": "data.targets.class_attributes",
    "data.class_numbers": "data.targets.class_numbers",
    "data.contents": "data.scenes.fingerprints files",
    "data.dataset": "data.chips.dataset data.chips.grid_chips data.chips.counts",
    "data.defaults": "data.chips.defaults",
    "data.delivered": "data.scenes.delivered",
    "data.fingerprints": "data.scenes.fingerprints",
    "data.georeference": "data.scenes.georeference",
    "data.ground": "data.scenes.ground",
    "data.ground_buffers": "data.targets.ground_buffers",
    "data.images": "data.scenes.images",
    "data.index": "data.chips.index",
    "data.index_cache": "data.chips.index_cache",
    "data.label_bands": "data.scenes.label_bands",
    "data.label_rasters": "data.targets.label_rasters",
    "data.label_shapes": "data.targets.label_shapes",
    "data.labels": "data.targets.labels data.scenes.vector_shapes",
    "data.layout": "data.scenes.layout",
    "data.loaders": "data.chips.loaders",
    "data.locations": "data.scenes.locations",
    "data.memory": "data.chips.memory",
    "data.nan_copy": "data.scenes.nan_copy",
    "data.overlaps": "data.splits.overlaps",
    "data.overwriting": "data.scenes.overwriting",
    "data.patches": "data.targets.patch_labels",
    "data.percentiles": "data.chips.percentiles",
    "data.places": "data.scenes.places",
    "data.randomness": "data.chips.randomness",
    "data.raster": "data.scenes.raster",
    "data.reader": "data.scenes.reader",
    "data.references": "data.scenes.references",
    "data.regions": "data.chips.regions",
    "data.remote": "data.scenes.remote",
    "data.sampler": "data.chips.sampler",
    "data.shapes_on_image": "data.targets.shapes_on_image",
    "data.sources": "data.scenes.sources",
    "data.sources.files": "data.scenes.sources.files",
    "data.sources.folder": "data.scenes.sources.folder",
    "data.sources.hrefs": "data.scenes.sources.hrefs",
    "data.sources.stac": "data.scenes.sources.stac",
    "data.sources.table": "data.scenes.sources.table",
    "data.sources.virtual": "data.scenes.sources.virtual",
    "data.split_methods": "data.splits.methods",
    "data.splits": "data.splits.splits",
    "data.statistics": "data.chips.statistics",
    "data.stores": "data.scenes.stores",
    "data.stratify": "data.splits.stratify",
    "data.survey": "data.splits.label_counts",
    "data.transforms": "data.chips.transforms",
    "data.units": "data.scenes.units",
    "data.values": "data.targets.regression",
    "data.vector_checks": "data.scenes.vector_checks",
    "data.vector_files": "data.scenes.vector_files",
    "data.vector_shapes": "data.scenes.vector_shapes",
    "data.virtual_sources": "data.scenes.virtual_sources",
    "data.warp_points": "data.scenes.warp_points",
    "data.workers": "data.chips.workers",
    "doctor.look": "doctor.checks",
    "drift": "pipeline.drift",
    "evaluation.measure_worker": "workers.evaluate_model",
    "evaluation.smoke": "workers.smoke_test",
    "evaluation.units": "evaluation.block_sums",
    "evaluation.worker": "workers.evaluate evaluation.promoted",
    "inference.fit": "inference.input_check",
    "inference.forward": "prediction.forward",
    "inference.predict": "prediction.strips",
    "inference.ranks": "inference.multi_gpu",
    "inference.store": "inference.strip_store",
    "inference.temperature": "prediction.temperature",
    "inference.tiles": "prediction.tiles",
    "inference.windows": "prediction.windows",
    "inference.worker": "workers.map",
    "inference.writers": "prediction.writers",
    "mapping": "inference.jobs",
    "measuring": "pipeline.evaluations",
    "running": "pipeline.active_runs",
    "runs": "runs.directory runs.listing runs.provenance files storage.open",
    "starting": "pipeline.sessions",
    "training.build": "workers.build",
    "training.check": "workers.check",
    "training.cost": "workers.resource_usage",
    "training.failures": "processes.reporting launch.restarts",
    "training.launch": "launch.training processes.parent",
    "training.lines": "processes.console",
    "training.result": "launch.result processes.errors",
    "training.sample": "workers.sample_prediction",
    "training.standing": "runs.heartbeat",
    "training.supervise": "processes.supervise",
    "training.torchrun": "launch.torchrun",
    "training.watch": "launch.stalls runs.heartbeat",
    "training.worker": "workers.train workers.build workers.callbacks processes.parent",
}
"""Former name of a module -> the modules that have its contents now, all below ``ununennium``."""

RENAMED = {
    "approval.note": "pipeline.approval.record_answer",
    "arrivals.look": "pipeline.arrivals.check_for_new_data",
    "checkpoints.load_cache.Expected": "checkpoints.object_cache.ExpectedObject",
    "checkpoints.load_cache.verified": "checkpoints.object_cache.open_verified",
    "config.CheckpointSettings": "config.CheckpointConfig",
    "config.EarlyStoppingSettings": "config.EarlyStoppingConfig",
    "config.InferenceSettings": "config.InferenceConfig",
    "config.predictor.FitConfig": "config.predictor.InputCheckConfig",
    "data.contents.Contents": "data.scenes.fingerprints.Fingerprints",
    "data.raster.shown": "data.scenes.raster.redacted_path",
    "doctor.look.look_at_everything": "doctor.checks.run_checks",
    "doctor.look_at_everything": "doctor.checks.run_checks",
    "evaluation.scores.MapWriter": "prediction.map_kinds.MapWriter",
    "evaluation.units.UnitScene": "evaluation.block_sums.BlockScene",
    "evaluation.units.Units": "evaluation.block_sums.BlockSums",
    "inference.fit.FittingScene": "inference.input_check.CheckedScene",
    "inference.fit.open_fitting": "inference.input_check.open_checked",
    "inference.predict.Band": "prediction.strips.Strip",
    "inference.predict.predict_bands": "prediction.strips.predict_strips",
    "inference.store.BandStore": "inference.strip_store.StripStore",
    "inference.store.band_store": "inference.strip_store.strip_store",
    "inference.tiles.num_bands": "prediction.tiles.num_strips",
    "inference.tiles.rows_of_band": "prediction.tiles.rows_of_strip",
    "mapping.Mapped": "inference.jobs.JobResult",
    "mapping.joined": "inference.jobs.join_results",
    "pipeline.Plan": "pipeline.plan.RunPlan",
    "pipeline.go_on": "pipeline.stages.continue_approval",
    "pipeline.judge": "pipeline.stages.evaluate_and_promote",
    "pipeline.settle": "pipeline.stages.apply_answer",
    "pipeline.waits": "pipeline.stages.is_awaiting_approval",
    "report.live.standing_text": "report.live.progress_text",
    "running.Running": "pipeline.active_runs.ActiveRun",
    "running.training_here": "pipeline.active_runs.local_runs",
    "running.without_an_end": "pipeline.active_runs.unfinished_runs",
    "starting.resumed": "pipeline.sessions.resume_run",
    "starting.started": "pipeline.sessions.open_run",
    "tasks.TargetReader": "data.targets.targets.TargetReader",
    "tasks.Task": "tasks.TaskSpec",
    "training.lines.is_loud": "processes.console.is_warning",
    "training.lines.mark_levels": "processes.console.prefix_levels",
    "training.objective.unpack": "training.batches.unpack",
    "training.standing.Standing": "runs.heartbeat.RunProgress",
    "training.watch.Standing": "runs.heartbeat.RunProgress",
}
"""Former name of a function, class or value, with its former module -> its present one.

A module that stayed where it was looks its own former names up by a ``__getattr__`` that calls ``former_name``.
"""


class FormerNames(importlib.abc.MetaPathFinder):
    """Finds a module of this package by its former name."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Specification of a module of a former name; None if ``fullname`` never was one."""
        name = _short(fullname)
        if name not in MOVED:
            return None
        is_package = any(each.startswith(f"{name}.") for each in MOVED)
        return importlib.machinery.ModuleSpec(fullname, _Loader(fullname), is_package=is_package)


class _Loader(importlib.abc.InspectLoader):
    """Makes a module whose names are looked up in the present ones, or gives ``python -m`` the code of the first."""

    def __init__(self, fullname: str) -> None:
        self._present = importlib.util.find_spec(present_modules(fullname)[0])

    def exec_module(self, module: ModuleType) -> None:
        """Let names be looked up."""
        module.__doc__ = f"Former name of {', '.join(present_modules(module.__name__))}."
        module.__dict__["__getattr__"] = lambda name: former_name(module.__name__, name)

    def get_code(self, fullname: str) -> CodeType | None:
        """Code of the present module, for ``python -m``."""
        loader = None if self._present is None else self._present.loader
        return loader.get_code(self._present.name) if isinstance(loader, importlib.abc.InspectLoader) else None  # type: ignore[union-attr]

    def get_source(self, fullname: str) -> None:
        """None: it has no source of its own."""
        return


def present_modules(fullname: str) -> list[str]:
    """Modules that have what the module of the former name ``fullname`` had."""
    return [f"{__package__}.{name}" for name in MOVED.get(_short(fullname), "").split()]


def former_name(module: str, name: str) -> Any:
    """``name`` of the former ``module``, from where it is now.

    Raises:
        AttributeError: it is in none of them.
    """
    renamed = RENAMED.get(f"{_short(module)}.{name}")
    present = [f"{present}.{name}" for present in present_modules(module)]
    for candidate in [f"{__package__}.{renamed}"] if renamed else present:
        home, _, now = candidate.rpartition(".")
        if not name.startswith("__") and hasattr(importlib.import_module(home), now):
            warnings.warn(f"{module}.{name} is {candidate} now", DeprecationWarning, stacklevel=3)
            return getattr(importlib.import_module(home), now)
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def former_arguments(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function take keyword arguments by their former names: ``names`` is former name -> present one."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for former in names.keys() & kwargs.keys():
                message = f"{function.__qualname__}: the argument {former} is {names[former]} now"
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                kwargs[names[former]] = kwargs.pop(former)
            return function(*args, **kwargs)

        return call

    return decorate


def former_attribute(owner: str, former: str, present: str) -> property:
    """Property of the former name of an attribute, with a DeprecationWarning."""

    def read(instance: Any) -> Any:
        warnings.warn(f"{owner}.{former} is {present} now", DeprecationWarning, stacklevel=2)
        return getattr(instance, present)

    return property(read, doc=f"Former name of ``{present}``.")


def _short(fullname: str) -> str:
    return fullname.removeprefix(f"{__package__}.")


def install() -> None:
    """Let former names be found, after all other finders."""
    if not any(isinstance(finder, FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(FormerNames())
