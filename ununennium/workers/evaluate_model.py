"""The process that measures one model: ``python -m ununennium.workers.evaluate_model JOB_JSON``.

Beside ``job.json`` lies the index of the data and, for a checkpoint, the statistics of its run; it leaves
``measured.json``, or ``error.json``. See ``ununennium.pipeline.evaluations``.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rasterio.errors import NotGeoreferencedWarning

from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.checkpoints.store import CheckpointStore
from ununennium.config import RunConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics
from ununennium.errors import CheckpointError
from ununennium.evaluation.evaluate import evaluate, fit_temperature_on
from ununennium.evaluation.promoted import evaluate_artifact
from ununennium.evaluation.records import EvaluationRecord
from ununennium.files import write_json
from ununennium.processes.console import prefix_levels
from ununennium.processes.parent import die_with_parent
from ununennium.processes.reporting import report_error
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.training.config import TrainerConfig, resolve_device
from ununennium.workers.evaluate import evaluate_champion, load_checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Evaluate what the ``job.json``, the only argument, asks for; returns the exit status."""
    (job_file,) = sys.argv[1:] if arguments is None else arguments
    work = Path(job_file).parent
    prefix_levels()
    die_with_parent(grace_s=5.0)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    try:
        job = read_json(Path(job_file))
        config = RunConfig.parse(job["config"], source=job_file, stored=True)
        device = resolve_device(TrainerConfig(device=config.trainer.device))
        write_json(work / "measured.json", measure(job, config, work, device))
    except Exception as error:
        report_error(work / "error.json", 0, error)
        return 1
    return 0


def measure(job: Mapping[str, Any], config: RunConfig, work: Path, device: torch.device) -> EvaluationRecord:
    """Evaluate what ``job`` asks for: the champion, or one model as the challenger.

    Raises:
        CheckpointError: the model cannot be loaded, or does not fit.
        ConfigError: it knows other classes, or was made for another task.
    """
    index = ChipIndex.load(work / "index.json")
    if "checkpoint" in job:
        statistics = BandStatistics.load(work / "statistics.json")
        store, (manifest,) = CheckpointStore.at(job["checkpoint"])
        model = load_checkpoint(store, manifest, config, index).to(device)
        tta = config.inference.tta
        temperature = fit_temperature_on(model, index, statistics, config.data, device=device, tta=tta)
        measured = evaluate(model, index, statistics, config.data, device=device, tta=tta, temperature=temperature)
        return EvaluationRecord(challenger=measured)
    if "version" in job:
        url = Registry(job["storage"], config.name).version_url(job["version"])
        loaded = load_artifact(url, trusted=[config.model])
        return EvaluationRecord(challenger=evaluate_artifact(*loaded, config, index, device))
    place = RunDirectory(work.name, work, job["storage"])  # of no run: nothing of it is ever published
    champion = evaluate_champion(place, config, index, device, Registry(job["storage"], config.name).current())
    if champion.champion is None:
        raise CheckpointError(champion.champion_error or f"{config.name!r} has no champion in {job['storage']}")
    return champion


if __name__ == "__main__":
    sys.exit(main())
