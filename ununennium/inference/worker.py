"""The mapping process: ``python -m ununennium.inference.worker JOB_JSON``.

Maps scene after scene with one model; beside ``job.json`` it leaves ``<scene>.json`` for each, with its error if it
failed. A map is made on this machine, and then moved to its place, its item last.
"""

from __future__ import annotations

import shutil
import sys
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rasterio.errors import NotGeoreferencedWarning
from torch import nn

from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.errors import UnunenniumError
from ununennium.inference.maps import make_map
from ununennium.mapping import MapJob
from ununennium.runs import read_json, write_json
from ununennium.training.config import TrainerConfig, resolve_device
from ununennium.training.failures import report_error
from ununennium.training.lines import mark_levels
from ununennium.training.supervise import Terminated, raise_on_sigterm
from ununennium.training.worker import die_with_parent


def main(arguments: list[str] | None = None) -> int:
    """Map the scenes of the job whose ``job.json`` is the only argument; returns the exit status."""
    (job_file,) = sys.argv[1:] if arguments is None else arguments
    work = Path(job_file).parent
    raise_on_sigterm()
    mark_levels()
    die_with_parent(grace_s=10.0)
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    try:
        job = MapJob(**read_json(Path(job_file)))
        device = resolve_device(TrainerConfig(device=job.device))
        network, contract = load_artifact(Registry(job.storage, job.model).version_url(job.version))
        for number, (name, images) in enumerate(job.scenes, 1):
            error = _try(job, network, contract, name, images, work, str(device))
            words = "mapped" if error is None else f"failed: {error}"
            _say(f"scene {number} of {len(job.scenes)}, {name}: {words}")
            write_json(work / f"{name}.json", {"error": error})
    except Terminated:
        return 143
    except Exception as error:
        report_error(work / "error.json", 0, error)
        return 1
    return 0


def _try(
    job: MapJob, network: nn.Module, contract: Mapping[str, Any], name: str, images: list[str], work: Path, device: str
) -> str | None:
    """Map a scene; what went wrong, if anything did."""
    folder = work / name
    try:
        make_map(job, network, contract, name, images, folder, device=device)
    except UnunenniumError as error:
        return str(error)
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return None


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
