"""Keep the best checkpoints, and the newest, on any storage."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from ununennium.checkpoints.manifest import Manifest, SavePoint, best_first
from ununennium.checkpoints.savers import BackgroundSaver, DirectSaver, Report, Saver
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import ConfigError, StorageError, UnunenniumError
from ununennium.storage.open import check_exclusive
from ununennium.training import distributed
from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.monitor import Monitor
from ununennium.training.state import StopReason

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_GRACE_S = 25.0
_SHARE_OF_GRACE = 0.6
"""Of the time that a run has to end in when it is asked to: the rest is for the last step, and for writing the file."""


class CheckpointCallback(Callback):
    """Saves everything that a run needs to go on, after each epoch, and keeps the best by a monitored metric.

    Beside the ``save_top_k`` best, the newest checkpoint stays, from which a run that was killed goes on, and the
    newest whose score is finite. A run that is asked to stop within an epoch saves where it stands. An old
    checkpoint is deleted only after the new one has been read back, and only if this object wrote it in this process:
    never the one that the run was resumed from, never another run's.

    To object storage checkpoints go in the background: each is written to a file on the local disk, and a thread
    uploads, verifies and commits it while training goes on. Storage that does not answer is warned of at the next
    step; what cannot be uploaded by the end stays on the disk (``UNUNENNIUM_SPOOL``), ``problem`` says so, and the next
    run of the same folder on this machine uploads it.

    Only rank 0 touches the storage; what it saw, or the error it met, is given to all ranks.

    Args:
        dirpath: a folder or any fsspec URL, such as ``s3://bucket/run/checkpoints``.
        monitor: metric that ranks checkpoints, a key in the history such as ``val_loss`` or ``val_IoU``; or ``epoch``,
            which with ``mode="max"`` calls the newest the best, as fits a learning rate that ends at zero.
        mode: ``min`` if smaller is better, ``max`` if larger is.
        save_top_k: how many of the best to keep; -1 keeps all checkpoints, 0 writes none.
        every_n_steps: save within epochs too, after every so many optimizer steps, for recovery.
        background: upload while training goes on; None does so to object storage, and not to a local folder.
        snapshot: write to a local folder in the background, from a copy of the state: training waits for the copy
            alone, at the price of the memory of a second state (pinned, if it lies on a GPU). Without effect on object
            storage, where a save waits for a local file alone and takes hardly longer.
        flush_s: seconds that the end of ``fit`` waits at most for uploads; after a SIGTERM or an exception at most
            what fits into the time that the launcher leaves (``UNUNENNIUM_GRACE_S``).

    Attributes:
        best_score: the best finite score so far, of this run and of those it was resumed from; None before the first.
        best_model_path: URL of that checkpoint, a file that ``torch.load(weights_only=True)`` reads.
        last_model_path: URL of the newest checkpoint.
        problem: checkpoints that were not uploaded when ``fit`` ended, and where they wait; None if all were.

    Raises:
        ConfigError: an argument cannot work, or (in ``fit``) ``monitor`` is not logged.
        CredentialsError: (in ``fit``, before the first epoch) the storage refuses these credentials.
        StorageError: (in ``fit``) the storage cannot be written to, or ignores conditional writes.
    """

    priority: ClassVar[int] = 100

    def __init__(
        self,
        dirpath: str | os.PathLike[str],
        monitor: str = "val_loss",
        mode: Literal["min", "max"] = "min",
        save_top_k: int = 1,
        *,
        every_n_steps: int | None = None,
        background: bool | None = None,
        snapshot: bool = False,
        flush_s: float = 300.0,
    ) -> None:
        if isinstance(save_top_k, bool) or not isinstance(save_top_k, int) or save_top_k < -1:
            raise ConfigError("save_top_k", save_top_k, "give how many to keep: >= 1, -1 for all, or 0 for none")
        if every_n_steps is not None and (
            isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1
        ):
            raise ConfigError("every_n_steps", every_n_steps, "give a whole number of steps >= 1, or None")
        if snapshot and background is False:
            raise ConfigError("snapshot", snapshot, "a snapshot is written in the background: leave background None")
        if not 0.0 <= flush_s < math.inf:
            raise ConfigError("flush_s", flush_s, "give the seconds to wait for uploads at the end, such as 300")
        self.dirpath = os.fspath(dirpath)
        self.monitor = Monitor(monitor, mode)
        self.save_top_k = save_top_k
        self.every_n_steps = every_n_steps
        self.background = background
        self.snapshot = snapshot
        self.flush_s = flush_s
        self.problem: str | None = None
        self._saver: Saver | None = None
        self._store: CheckpointStore | None = None
        self._kept: list[Manifest] = []
        self._resumed_from: set[str] = set()
        self._saved_position: tuple[int, int, int] = (0, 0, 0)

    @property
    def kept(self) -> list[Manifest]:
        """The checkpoints that are committed and kept, oldest first."""
        return list(self._kept)

    @property
    def best_score(self) -> float | None:
        best = best_first(self._kept)[:1]
        return best[0].score if best else None

    @property
    def best_model_path(self) -> str | None:
        best = best_first(self._kept)[:1]
        return best[0].url if best else None

    @property
    def last_model_path(self) -> str | None:
        return self._kept[-1].url if self._kept else None

    @property
    def state_key(self) -> str:
        return f"CheckpointCallback({self.monitor.monitor}, {self.monitor.mode})"

    def state_dict(self) -> dict[str, Any]:
        kept = self._kept if self._saver is None else self._saver.expected()
        return {"kept": [{**manifest.to_dict(), "url": manifest.url} for manifest in kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept = [Manifest.from_dict(values, url=values["url"]) for values in state["kept"]]

    # ------------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: Trainer) -> None:
        self.monitor.require_validation(trainer.val_loader)
        self._saved_position = _position(trainer)
        self.problem = None
        if self.save_top_k != 0:
            self._kept = self._on_main_process(trainer, lambda: self._open(trainer)).kept

    def on_step_end(self, trainer: Trainer) -> None:
        self._warn()
        if self.every_n_steps is not None and trainer.state.global_step % self.every_n_steps == 0:
            self._save(trainer, score=None)

    def on_epoch_end(self, trainer: Trainer) -> None:
        try:
            score = self.monitor.value({**trainer.metrics, "epoch": float(trainer.state.epoch)})
        except ConfigError:
            self._save(trainer, score=None)  # the epoch's work is not lost with the misspelt name
            raise
        self._save(trainer, score=score)

    def on_fit_end(self, trainer: Trainer) -> None:
        if _position(trainer) != self._saved_position:  # asked to stop within an epoch
            self._save(trainer, score=None)
        if self.save_top_k != 0:
            hurried = trainer.state.stop_reason is StopReason.PREEMPTED
            self._take(trainer, self._on_main_process(trainer, lambda: self._flush(hurried=hurried)))

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        if self._saver is None:  # nothing was opened, or this is not rank 0
            return
        try:
            self._kept = self._flush(hurried=True).kept
        except Exception as failure:
            logger.warning("not every checkpoint was saved: %s", failure)

    # ------------------------------------------------------------------ what rank 0 does

    def _open(self, trainer: Trainer) -> Report:
        """Open the store, and find which checkpoints of this run's past are still there."""
        if self._store is None:
            self._store = CheckpointStore(self.dirpath)
        check_exclusive(self._store.storage)
        past = _still_there(self._kept)
        if trainer.resumed_from is not None:
            _, candidates = CheckpointStore.at(trainer.resumed_from)
            source = [manifest for manifest in candidates if manifest.position == _position(trainer)][-1:]
            self._resumed_from.update(manifest.url for manifest in source)
            taken_from = {manifest.url for manifest in source}
            past = [manifest for manifest in past if manifest.url not in taken_from] + source
        self._store.look_for_generations()  # what is written from here on is newer than all that is there
        self._close()
        background = self._store.storage.is_remote if self.background is None else self.background
        snapshot = self.snapshot and not self._store.storage.is_remote
        if self.snapshot and not snapshot:
            logger.warning("snapshot is for local folders: to %s a save waits for a local file alone", self.dirpath)
        if background or snapshot:
            self._saver = BackgroundSaver(self._store, self.save_top_k, past, self._resumed_from, snapshot=snapshot)
        else:
            self._saver = DirectSaver(self._store, self.save_top_k, past, self._resumed_from)
        return Report(past)

    def _save(self, trainer: Trainer, score: float | None) -> None:
        if self.save_top_k == 0:
            return
        state = trainer.state_dict()  # on every rank: each one's random state is gathered
        report = self._on_main_process(trainer, lambda: self._write(trainer, state, score))
        self._saved_position = _position(trainer)
        self._take(trainer, report)

    def _take(self, trainer: Trainer, report: Report) -> None:
        """Report of rank 0, on every rank."""
        self._kept = report.kept
        for manifest in report.committed:
            trainer.dispatch("on_checkpoint", manifest)

    def _write(self, trainer: Trainer, state: dict[str, Any], score: float | None) -> Report:
        if self._saver is None:
            raise StorageError("CheckpointCallback saves within fit() only")
        epoch, step, batches_done = _position(trainer)
        monitor, mode = self.monitor.monitor, self.monitor.mode
        point = SavePoint(epoch, step, batches_done, trainer.metrics, monitor, mode, score)
        report = self._saver.save(state, point)
        self._log(report)
        return report

    def _flush(self, *, hurried: bool) -> Report:
        """Wait for what is being uploaded, and end the upload."""
        if self._saver is None:
            return Report(self._kept)
        timeout_s = self.flush_s
        if hurried:
            timeout_s = min(timeout_s, _SHARE_OF_GRACE * float(os.environ.get("UNUNENNIUM_GRACE_S", _GRACE_S)))
        try:
            report = self._saver.flush(timeout_s)
            self._log(report)
            if report.waiting and isinstance(self._saver, BackgroundSaver):
                self.problem = (
                    f"{len(report.waiting)} checkpoints were not uploaded ({', '.join(report.waiting)}); they wait in "
                    f"{self._saver.folder}, from where the next run that saves to this folder takes them"
                )
                logger.warning("%s", self.problem)
            return report
        finally:
            self._close()

    def _close(self) -> None:
        if self._saver is not None:
            self._saver.close()
            self._warn()
            self._saver = None

    def _log(self, report: Report) -> None:
        for manifest in report.committed:
            logger.info("saved %s", manifest.url)
        self._warn()

    def _warn(self) -> None:
        if self._saver is not None:
            for text in self._saver.warnings():
                logger.warning("%s", text)

    def _on_main_process(self, trainer: Trainer, work: Callable[[], _Result]) -> _Result:
        """Do ``work`` on rank 0 and return its result, or raise its error, on every rank."""
        outcome: tuple[_Result | None, UnunenniumError | None] = (None, None)
        try:
            if trainer.is_main_process:
                outcome = (work(), None)
        except Exception as error:
            if distributed.is_distributed():  # the other ranks wait for an answer
                told = error if isinstance(error, UnunenniumError) else StorageError(f"rank 0: {error!r}")
                distributed.broadcast((None, told))
            raise
        result, failure = distributed.broadcast(outcome)
        if failure is not None:
            raise failure
        return cast(_Result, result)


def _position(trainer: Trainer) -> tuple[int, int, int]:
    """Epoch, step and batches done."""
    return (trainer.state.epoch, trainer.state.global_step, trainer.state.batches_done)


def _still_there(manifests: list[Manifest]) -> list[Manifest]:
    """Those of ``manifests`` that still exist, each looked for in its own folder."""
    folders = {manifest.url.rpartition("/")[0] for manifest in manifests}
    found: dict[str, Manifest] = {}
    for folder in sorted(folders):
        try:
            found.update({manifest.url: manifest for manifest in CheckpointStore(folder).manifests()})
        except UnunenniumError as error:
            logger.warning("earlier checkpoints in %s are left out: %s", folder, error)
    return [found[manifest.url] for manifest in manifests if manifest.url in found]
