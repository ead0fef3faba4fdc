"""The evaluation process: ``python -m ununennium.workers.evaluate RUN_JSON``.

Measures the best checkpoint of a run on the holdout, and the champion on the same pixels; leaves the candidate's
artefact, ``evaluation.json``, the predicted holdout as GeoTIFF, and pictures in the run's work folder.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from torch import nn

from ununennium.checkpoints.artifact import load_artifact, write_artifact
from ununennium.checkpoints.manifest import Manifest, manifest_key
from ununennium.checkpoints.parts import check_parts, taking_over
from ununennium.checkpoints.registry import Promotion, Registry
from ununennium.checkpoints.store import CheckpointStore
from ununennium.config import DataConfig, RunConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.scenes.scene import Scene
from ununennium.data.targets.regression import ValueReader
from ununennium.errors import CheckpointError, ConfigError
from ununennium.evaluation import pictures
from ununennium.evaluation.baselines import measure_baselines
from ununennium.evaluation.chip_pictures import draw_chips
from ununennium.evaluation.evaluate import evaluate, fit_temperature_on
from ununennium.evaluation.evaluation import Baseline, Evaluation
from ununennium.evaluation.promoted import evaluate_artifact
from ununennium.evaluation.records import EvaluationRecord
from ununennium.files import write_json
from ununennium.processes.console import prefix_levels
from ununennium.processes.parent import die_with_parent
from ununennium.processes.reporting import report_error
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.runs.provenance import git_commit
from ununennium.training.callbacks.ema import averaged_weights
from ununennium.training.config import TrainerConfig, resolve_device
from ununennium.version import __version__
from ununennium.workers.build import build_model
from ununennium.workers.smoke_test import write_probe

_MOST_PANELS = 4
_PANEL_PIXELS = 1500

_OF_CHALLENGER = ("challenger", "champion_holdout", "epoch", "checkpoint", "code", "baselines")


def main(arguments: list[str] | None = None) -> int:
    """Evaluate the run whose ``run.json`` is the only argument; returns the exit status."""
    (run_file,) = sys.argv[1:] if arguments is None else arguments
    run = RunDirectory.open(run_file)
    prefix_levels()
    die_with_parent(grace_s=5.0)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # scenes without a CRS are maps of their own pixels
    try:
        evaluate_run(run)
    except Exception as error:
        report_error(run.evaluation_error_file, 0, error)
        return 1
    return 0


def evaluate_run(run: RunDirectory) -> EvaluationRecord:
    """Evaluate the best checkpoint of ``run`` beside the champion.

    Returns:
        Contents of ``evaluation.json``.

    Raises:
        CheckpointError: there is no checkpoint with a finite score, or it does not fit.
        ConfigError: the champion knows other classes, so that the two cannot be compared.
    """
    config = run.config()
    index, statistics = ChipIndex.load(run.index_file), BandStatistics.load(run.statistics_file)
    device = resolve_device(TrainerConfig(device=config.trainer.device))
    model, best = load_best(run, config, index)
    current = Registry(run.storage, config.name).current()
    tta = config.inference.tta
    temperature = fit_temperature_on(model.to(device), index, statistics, config.data, device=device, tta=tta)
    its_bands = _bands_of(current, run, config, index)
    challenger = evaluate(
        model,
        index,
        statistics,
        config.data,
        device=device,
        tta=tta,
        temperature=temperature,
        prediction_path=run.prediction_folder,
        beside=its_bands,
    )
    _say(f"holdout of epoch {best.epoch}: {_in_words(challenger)}")
    beside = evaluate_champion(run, config, index, device, current, beside=index.bands)
    baselines: tuple[Baseline, ...] = ()
    if beside.champion is None and config.gate.first == "baseline":
        metric = config.gate.metric
        baselines = measure_baselines(
            challenger, index, statistics, config.data, metric, device=device, beside=its_bands
        )
        for each in baselines:
            _say(f"baseline, {each.name}, on the same holdout: {_in_words(each.evaluation)}")
    measured = replace(
        beside,
        challenger=challenger,
        baselines=baselines,
        epoch=best.epoch,
        checkpoint={"manifest": manifest_key(best.url), "sha256": best.sha256},
        code={"git_commit": git_commit(), "version": __version__},
    )
    written = contract(run, config, index, statistics, challenger)
    write_artifact(run.artifact_folder, model.cpu().state_dict(), written)
    write_probe(run.probe_file, model, index, statistics, config.data)
    draw(run, config, index)
    write_json(run.evaluation_file, measured)
    return measured


def load_best(run: RunDirectory, config: RunConfig, index: ChipIndex) -> tuple[nn.Module, Manifest]:
    """The model of the best checkpoint, and that checkpoint's manifest.

    Raises:
        CheckpointError: there is no checkpoint with a finite score, or it does not fit the model.
    """
    store = CheckpointStore(run.checkpoints_url)
    best = store.best()
    if best is None:
        raise CheckpointError(f"{run.checkpoints_url} holds no checkpoint with a finite {config.checkpoints.monitor}")
    return load_checkpoint(store, best, config, index), best


def load_checkpoint(store: CheckpointStore, manifest: Manifest, config: RunConfig, index: ChipIndex) -> nn.Module:
    """The model of a checkpoint in evaluation mode, with the averaged weights if it has them.

    Raises:
        CheckpointError: the checkpoint is damaged, or does not fit the model.
    """
    checkpoint = store.load(manifest)
    check_parts(checkpoint)
    model = build_model(config, index)
    with taking_over(f"the model in {manifest.url}"):
        weights = averaged_weights(checkpoint) or checkpoint["model"]
        try:
            model.load_state_dict(weights)
        except RuntimeError as error:
            raise CheckpointError(f"{manifest.url} does not fit the model: {' '.join(str(error).split())}") from error
    return model.eval()


def _bands_of(
    champion: Promotion | None, run: RunDirectory, config: RunConfig, index: ChipIndex
) -> tuple[int, ...] | None:
    """Bands of the first scene that the champion reads; None without one, or if its contract cannot be read."""
    if champion is None:
        return None
    try:
        its_contract = Registry(run.storage, config.name).contract(champion.version)
    except CheckpointError:  # said when it is measured
        return None
    first = index.scenes[0]
    return index.band_set.of_model(its_contract.band_entries()).numbers(first.bands_of_images[0], first.name)


def evaluate_champion(
    run: RunDirectory,
    config: RunConfig,
    index: ChipIndex,
    device: torch.device,
    current: Promotion | None,
    *,
    beside: Sequence[int | str] | None = None,
) -> EvaluationRecord:
    """The champion's part of ``evaluation.json``: always measured anew, on this run's holdout and by this code.

    Args:
        run: run whose storage holds the champion.
        config: of the run.
        index: the holdout.
        device: device of the evaluation.
        current: the champion; None without one.
        beside: bands of the model that it is compared with, see ``evaluate``.

    Raises:
        ConfigError: it knows other classes.
        StorageError: the storage failed.
    """
    registry = Registry(run.storage, config.name)
    found = EvaluationRecord(
        absent=frozenset({"challenger", "champion_holdout", "epoch", "checkpoint", "code", "baselines"})
    )
    if current is None:
        return found
    found = replace(found, generation=current.generation, version=current.version)
    try:
        model, its_contract = load_artifact(registry.version_url(current.version), trusted=[config.model])
    except (CheckpointError, ConfigError) as error:
        _say(f"champion (generation {current.generation}) cannot be loaded: {error}")
        return replace(found, champion_error=str(error))
    champion = evaluate_artifact(model, its_contract, config, index, device, beside=beside)
    _say(f"champion (generation {current.generation}) on the same holdout: {_in_words(champion)}")
    before = {"split_sha256": its_contract.split_sha256, "data_sha256": its_contract.data_sha256}
    return replace(found, champion=champion, champion_holdout=before)


def contract(
    run: RunDirectory, config: RunConfig, index: ChipIndex, statistics: BandStatistics, measured: Evaluation
) -> dict[str, Any]:
    """Contract of the weights, by which they can be used, and traced back."""
    record = run.record()
    scene = index.scenes[0]
    data: DataConfig = config.data
    return {
        "model": {
            "target": config.model.target,
            "kwargs": config.model.kwargs,
            "in_channels": index.in_channels,
            "num_classes": len(data.classes),
        },
        "task": data.task,
        "num_dates": index.num_dates,
        "layout": index.layout,
        "target_scale": index.target_scale,
        "classes": data.classes,
        "class_values": {str(value): name for value, name in sorted(data.class_values.items())},
        "ignore_index": data.ignore_index,
        **index.band_set.to_contract(),
        "band_names": scene.names_of(index.bands),
        "statistics": {name: values for name, values in statistics.to_json().items() if name != "num_pixels"},
        **index.declared_nodata(),
        "resolution": [abs(scene.transform[0]), abs(scene.transform[4])],
        "crs": scene.crs,
        "chip_size": data.chip_size,
        "tta": config.inference.tta,
        "temperature": 1.0 if measured.calibration is None else measured.calibration.temperature,
        "confusion": measured.confusion,
        "split_sha256": measured.split_sha256,
        "data_sha256": measured.data_sha256,
        "git_commit": record.git_commit,
        "versions": record.versions,
        "metrics": measured.metrics,
        "run_id": run.run_id,
        "created": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }


def draw(run: RunDirectory, config: RunConfig, index: ChipIndex) -> None:
    """The loss curve, and of each scene of the holdout the prediction beside the label."""
    run.pictures_folder.mkdir(parents=True, exist_ok=True)
    pictures.loss_curve(read_json(run.result_file)["history"], run.pictures_folder / "loss_curve.png")
    drawn = 0
    for scene in index.scenes:
        predicted = run.prediction_folder / f"{scene.name}.tif"
        if predicted.exists() and drawn < _MOST_PANELS:
            name = "prediction.png" if len(index.scenes) == 1 else f"prediction_{scene.name}.png"
            _draw_scene(index, scene, predicted, config, run.pictures_folder / name)
            drawn += 1
    draw_chips(index, run.prediction_folder, config.data.chip_size, run.pictures_folder)


def _draw_scene(index: ChipIndex, scene: Scene, predicted: Path, config: RunConfig, path: Path) -> None:
    """One panel of the predicted window, at most ``_PANEL_PIXELS`` on its longer side's first pixels."""
    if index.task.kind == "presences":
        pictures.presence_map_picture(predicted, config.data.classes, path)
        return
    with rasterio.open(predicted) as dataset:
        corner = ~scene.affine * (dataset.transform.c, dataset.transform.f)
        height, width = min(dataset.height, _PANEL_PIXELS), min(dataset.width, _PANEL_PIXELS)
        prediction = dataset.read(1, window=Window(0, 0, width, height))
    window = round(corner[1]), round(corner[0]), height, width
    image, _ = index.reader(scene).read(*window)
    dates = image.reshape(scene.num_dates, -1, *image.shape[1:])
    first, *later = (np.moveaxis(date[[2, 1, 0]], 0, -1) if len(date) >= 3 else date[0] for date in dates)
    if index.task.kind == "values":
        truth = ValueReader(scene).read(*window)
        pictures.value_panel(first, truth, prediction, config.data.classes[0], path, later=later[-1] if later else None)
        return
    pictures.prediction_panel(
        first,
        index.labels(scene).read(*window),
        prediction,
        config.data.classes,
        path,
        ignore_index=config.data.ignore_index,
        later=later[-1] if later else None,
    )


def _in_words(evaluation: Evaluation) -> str:
    name, main = next(iter(evaluation.metrics.items()))
    if isinstance(main, Mapping):
        return f"{name} " + "  ".join(f"{label} {value:.4f}" for label, value in main.items())
    return "  ".join(f"{name} {value:.4f}" for name, value in evaluation.metrics.items())


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
