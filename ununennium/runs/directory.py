"""Files of a run: a work folder on this machine, and the same names under the run's storage URL.

Stages of a run hand over by these files and nothing else, so that each can run in a process (or on a machine) of its
own, and so that a run can be read long after the machine that made it is gone.
"""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from ununennium.config import RunConfig
from ununennium.errors import ConfigError, StorageError
from ununennium.files import work_root, write_bytes, write_json
from ununennium.records import read_json
from ununennium.runs.listing import RUN_ID, SUMMARY, list_runs
from ununennium.runs.provenance import git_commit, versions
from ununennium.runs.records import RunRecord
from ununennium.storage.open import open_storage, resolve_storage

__all__ = ["RunDirectory", "as_link", "read_json"]


@dataclass(frozen=True)
class RunDirectory:
    """The files of one run.

    Attributes:
        run_id: UTC time of the start, the model's name and four hexadecimal digits; sorts by time.
        work: folder on this machine.
        storage: absolute URL (or local path) of the storage that also holds the registry.
    """

    run_id: str
    work: Path
    storage: str

    @classmethod
    def create(cls, config: RunConfig, *, started_by: Mapping[str, Any] | None = None) -> RunDirectory:
        """Make the folder of a new run and write its ``run.json``; nothing is written to the storage yet.

        Args:
            config: configuration of the run; a relative ``storage`` is taken from the working directory.
            started_by: person or program that asked for the run, such as the ids of a flow run; recorded as it is.

        Raises:
            StorageError: the work folder cannot be written.
        """
        started = datetime.now(UTC)
        run_id = f"{started:%Y%m%dT%H%M%SZ}-{config.name}-{secrets.token_hex(2)}"
        storage = resolve_storage(config.storage)
        run = cls(run_id, work_root() / run_id, storage)
        try:
            run.work.mkdir(parents=True)
        except OSError as error:
            raise StorageError(f"{run.work} cannot be made: {error.strerror or error}; set UNUNENNIUM_WORK") from error
        record = RunRecord(
            run_id=run_id,
            name=config.name,
            started=started.isoformat(timespec="milliseconds"),
            storage=storage,
            git_commit=git_commit(),
            versions=versions(),
            host=platform.node(),
            started_by=dict(started_by or {}),
            config=config.model_copy(update={"storage": storage}).model_dump(mode="json"),
            absent=frozenset({"resumed"}),
        )
        write_json(run.run_file, record)
        return run

    @classmethod
    def open(cls, run_file: str | Path) -> RunDirectory:
        """The run whose ``run.json`` (or work folder) is ``run_file``.

        Raises:
            ConfigError: there is no such file, or it is not a run's.
        """
        file = Path(run_file)
        file = file / "run.json" if file.is_dir() else file
        record = RunRecord.load(file)
        return cls(record.run_id, file.resolve().parent, record.storage)

    @classmethod
    def fetch(cls, storage: str, run_id: str) -> RunDirectory:
        """The run ``run_id`` of ``storage``, its small files copied here unless this machine has them.

        ``latest`` names the newest run.

        Raises:
            ConfigError: the storage has no such run.
        """
        root = resolve_storage(storage)
        if run_id == "latest":
            newest = list_runs(root)
            if not newest:
                raise ConfigError("run", run_id, f"{root} holds no runs; 'ununennium train' makes one")
            run_id = newest[0].run_id
        if not RUN_ID.match(run_id):
            raise ConfigError("run", run_id, "is not the name of a run; 'ununennium runs' lists them")
        run = cls(run_id, work_root() / run_id, root)
        files = open_storage(run.url)
        if not run.run_file.exists():
            wanted = [key for key in files.list() if not key.startswith(("checkpoints/", "prediction/", "logs/"))]
            if "run.json" not in wanted:
                raise ConfigError("run", run_id, f"{root} has no such run; 'ununennium runs' lists them")
            for key in sorted(wanted, key=lambda key: key == "run.json"):  # its presence says that all are here
                write_bytes(run.work / key, files.read_bytes(key))  # which refuses a key that leads out of the folder
        return run

    @property
    def flow_run_id(self) -> str | None:
        """Id of the flow run that last had to do with it; None if none ever had."""
        found = self.record().flow_run_ids
        return found[-1] if found else None

    @property
    def url(self) -> str:
        """Folder of this run's files in the storage."""
        return f"{self.storage}/runs/{self.run_id}"

    @property
    def checkpoints_url(self) -> str:
        """Folder of the checkpoints in the storage; they never lie in the work folder."""
        return f"{self.url}/checkpoints"

    @property
    def run_file(self) -> Path:
        """Record of the run: configuration, who asked for it, versions."""
        return self.work / "run.json"

    @property
    def plan_file(self) -> Path:
        """Plan of the run."""
        return self.work / "plan.json"

    @property
    def index_file(self) -> Path:
        """The chip index."""
        return self.work / "index.json"

    @property
    def statistics_file(self) -> Path:
        """Mean and standard deviation per band."""
        return self.work / "statistics.json"

    @property
    def split_file(self) -> Path:
        """The folds as polygons, to look at in a GIS."""
        return self.work / "split.geojson"

    @property
    def metrics_file(self) -> Path:
        """One line per epoch."""
        return self.work / "metrics.jsonl"

    @property
    def heartbeat_file(self) -> Path:
        """Progress of training; rewritten every few seconds."""
        return self.work / "heartbeat.json"

    @property
    def result_file(self) -> Path:
        """End of training."""
        return self.work / "result.json"

    @property
    def evaluation_file(self) -> Path:
        """Holdout metrics of the new model, and of the champion on the same holdout."""
        return self.work / "evaluation.json"

    @property
    def gate_file(self) -> Path:
        """The verdict: every threshold, value, baseline and reason."""
        return self.work / "gate.json"

    @property
    def probe_file(self) -> Path:
        """A chip and what the candidate makes of it, which the stored artefact must make of it, too."""
        return self.work / "probe.safetensors"

    @property
    def approval_file(self) -> Path:
        """Question of approval to a person, and the answer."""
        return self.work / "approval.json"

    @property
    def promotion_file(self) -> Path:
        """Promotion of the candidate: generation and version."""
        return self.work / "promotion.json"

    @property
    def summary_file(self) -> Path:
        """Summary, a line of ``ununennium runs``."""
        return self.work / SUMMARY

    @property
    def artifact_folder(self) -> Path:
        """The candidate model: weights and contract."""
        return self.work / "artifact"

    @property
    def prediction_folder(self) -> Path:
        """The predicted holdout, one GeoTIFF per scene."""
        return self.work / "prediction"

    @property
    def pictures_folder(self) -> Path:
        """Loss curve, and prediction beside label."""
        return self.work / "pictures"

    @property
    def live_folder(self) -> Path:
        """Pictures of the progress, replaced while it trains."""
        return self.work / "live"

    @property
    def sample_file(self) -> Path:
        """Prediction of one chip of the validation fold, the last time that it was drawn."""
        return self.live_folder / "sample.png"

    @property
    def report_file(self) -> Path:
        """All of it on one page, for people."""
        return self.work / "report.html"

    @property
    def logs_folder(self) -> Path:
        """Output of every training process."""
        return self.work / "logs"

    @property
    def errors_folder(self) -> Path:
        """Errors that ended the processes of this run that failed."""
        return self.work / "errors"

    @property
    def stacks_folder(self) -> Path:
        """Stacks of each training process when it was found to have stalled."""
        return self.work / "stacks"

    @property
    def pids_folder(self) -> Path:
        """Ids of the training processes."""
        return self.work / "pids"

    @property
    def evaluation_error_file(self) -> Path:
        """Error that ended the evaluation, if any did."""
        return self.errors_folder / "evaluation.json"

    @property
    def check_file(self) -> Path:
        """Figures of the batch that a dry run trained."""
        return self.work / "check.json"

    @property
    def check_error_file(self) -> Path:
        """Error that ended the check, if any did."""
        return self.errors_folder / "check.json"

    def record(self) -> RunRecord:
        """Contents of ``run.json``."""
        return RunRecord.load(self.run_file)

    def config(self) -> RunConfig:
        """Configuration of the run, validated once in a process as long as ``run.json`` says the same."""
        return _parsed(json.dumps(self.record().config), str(self.run_file))

    def publish(self, paths: Iterable[Path]) -> None:
        """Copy files of the work folder, and the files in its folders, to the storage; what is missing is passed over.

        Raises:
            StorageError: the storage refused.
        """
        storage = open_storage(self.url)
        for path in paths:
            for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
                if file.is_file() and not file.name.endswith(".tmp"):
                    storage.put_file(file, file.relative_to(self.work).as_posix())

    def refresh(self, files: Iterable[Path]) -> None:
        """Take over what the storage has of some files of the work folder: another machine may have gone on.

        Raises:
            StorageError: it cannot be read.
        """
        storage = open_storage(self.url)
        for file in files:
            key = file.relative_to(self.work).as_posix()
            if storage.exists(key):
                write_bytes(file, storage.read_bytes(key))


def as_link(url: str) -> str:
    """``url`` as a browser takes it: a local path becomes ``file://``."""
    return url if "://" in url else Path(url).as_uri()


@lru_cache(maxsize=8)
def _parsed(settings: str, source: str) -> RunConfig:
    return RunConfig.parse(json.loads(settings), source=source, stored=True)
