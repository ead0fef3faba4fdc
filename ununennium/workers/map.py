"""The mapping process: ``python -m ununennium.workers.map JOB_JSON [RANK]``.

Maps scene after scene with one model; beside ``job.json`` it leaves ``<scene>.json`` for each, with its error if it
failed. A map is made on this machine, and then moved to its place, its item last. With a rank it is one of the other
processes that ``predictor.ranks`` asks for.
"""

from __future__ import annotations

import shutil
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from rasterio.errors import NotGeoreferencedWarning

from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.config.predictor import InputCheckConfig, PredictorConfig
from ununennium.errors import ProcessLost, StorageUnavailable, UnunenniumError
from ununennium.files import write_json
from ununennium.inference.jobs import JobScene, MapJob
from ununennium.inference.maps import make_map
from ununennium.inference.multi_gpu import Ranks, device_of, follow
from ununennium.inference.predictor import Predictor
from ununennium.processes.console import prefix_levels
from ununennium.processes.parent import die_with_parent
from ununennium.processes.reporting import report_error
from ununennium.processes.supervise import Terminated, raise_on_sigterm
from ununennium.redaction import redact
from ununennium.runs.directory import read_json
from ununennium.training.config import TrainerConfig, resolve_device

_TELL_S = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Map the scenes of the job whose ``job.json`` is the first argument; returns the exit status."""
    job_file, *others = sys.argv[1:] if arguments is None else arguments
    rank, work = int(others[0]) if others else 0, Path(job_file).parent
    raise_on_sigterm()
    prefix_levels()
    die_with_parent(grace_s=10.0)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    try:
        job = MapJob.from_dict(read_json(Path(job_file)))
        predictor = _predictor(job, rank)
        if rank:
            follow(job, work, rank, predictor, _in_words)
            return 0
        with Ranks(Path(job_file), predictor.settings.ranks) as ranks:
            for number, scene in enumerate(job.scenes, 1):
                what = f"scene {number} of {len(job.scenes)}, {scene.name}"
                answer = _try(job, predictor, ranks, scene, work, what)
                error = answer["error"]
                _say(f"{what}: {'mapped' if error is None else f'failed: {error}'}")
                write_json(work / f"{scene.name}.json", answer)
    except Terminated:
        return 143
    except Exception as error:
        report_error(work / "error.json", rank, error)
        return 1
    return 0


def _predictor(job: MapJob, rank: int) -> Predictor:
    settings = PredictorConfig.model_validate(job.predictor)
    device = device_of(rank, settings.ranks, str(resolve_device(TrainerConfig(device=job.device))))
    network, contract = load_artifact(Registry(job.storage, job.model).version_url(job.version))
    fit = InputCheckConfig.model_validate(job.fit)
    return Predictor(network, contract, device=device, tta=job.tta, settings=settings, fit=fit)


def _try(job: MapJob, predictor: Predictor, ranks: Ranks, scene: JobScene, work: Path, what: str) -> dict[str, Any]:
    """Map a scene; what went wrong, if anything did."""
    folder, last = work / scene.name, time.monotonic()

    def on_rows(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > _TELL_S:
            last = time.monotonic()
            _say(f"{what}: {done:,} of {total:,} rows")

    try:
        make_map(job, predictor, scene, folder, ranks=ranks, on_rows=on_rows)
    except ProcessLost:  # of a rank: all scenes would wait for it
        raise
    except Exception as error:
        return {"error": _in_words(error), "transient": isinstance(error, StorageUnavailable)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {"error": None}


def _in_words(error: Exception) -> str:
    if isinstance(error, UnunenniumError):
        return str(error)
    traceback.print_exception(error)
    return redact(f"{type(error).__name__}: {error}")


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
