"""The process that measures a champion on its own: ``python -m ununennium.evaluation.champion_worker JOB_JSON``.

Beside ``job.json`` lies the index of the data; it leaves ``measured.json``, or ``error.json``.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

from rasterio.errors import NotGeoreferencedWarning

from ununennium.config import RunConfig
from ununennium.data.index import ChipIndex
from ununennium.errors import CheckpointError
from ununennium.evaluation.worker import evaluate_champion
from ununennium.runs import RunDirectory, read_json, write_json
from ununennium.training.config import TrainerConfig, resolve_device
from ununennium.training.failures import report_error
from ununennium.training.lines import mark_levels
from ununennium.training.worker import die_with_parent


def main(arguments: list[str] | None = None) -> int:
    """Evaluate the champion that the ``job.json``, the only argument, asks for; returns the exit status."""
    (job_file,) = sys.argv[1:] if arguments is None else arguments
    work = Path(job_file).parent
    mark_levels()
    die_with_parent(grace_s=5.0)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    try:
        job = read_json(Path(job_file))
        config = RunConfig.parse(job["config"], source=job_file)
        place = RunDirectory(work.name, work, job["storage"])  # of no run: nothing of it is ever published
        device = resolve_device(TrainerConfig(device=config.trainer.device))
        measured = evaluate_champion(place, config, ChipIndex.load(work / "index.json"), device)
        if measured["champion"] is None:
            raise CheckpointError(measured["champion_error"] or f"{config.name!r} has no champion in {job['storage']}")
        write_json(work / "measured.json", measured)
    except Exception as error:
        report_error(work / "error.json", 0, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
