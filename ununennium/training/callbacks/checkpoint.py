"""Keep the best checkpoints, and the newest, on any storage."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, cast

from ununennium.checkpoints.manifest import Manifest, best_first, retained
from ununennium.checkpoints.storage import check_writable
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import ConfigError, StorageError, UnunenniumError
from ununennium.training import distributed
from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.monitor import Monitor

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")


class CheckpointCallback(Callback):
    """Saves everything that a run needs to go on, after each epoch, and keeps the best by a monitored metric.

    Beside the ``save_top_k`` best, the newest checkpoint stays, from which a run that was killed goes on, and the
    newest whose score is finite. A run that is asked to stop within an epoch saves where it stands. An old
    checkpoint is deleted only after the new one has been read back, and only if this object wrote it in this process:
    never the one that the run was resumed from, never another run's.

    Only rank 0 touches the storage; what it saw, or the error it met, is given to all ranks.

    Args:
        dirpath: a folder or any fsspec URL, such as ``s3://bucket/run/checkpoints``.
        monitor: metric that ranks checkpoints, a key in the history such as ``val_loss`` or ``val_IoU``.
        mode: ``min`` if smaller is better, ``max`` if larger is.
        save_top_k: how many of the best to keep; -1 keeps all checkpoints, 0 writes none.
        every_n_steps: save within epochs too, after every so many optimizer steps, for recovery.

    Attributes:
        best_score: the best finite score so far, of this run and of those it was resumed from; None before the first.
        best_model_path: URL of that checkpoint, a file that ``torch.load(weights_only=True)`` reads.
        last_model_path: URL of the newest checkpoint.

    Raises:
        ConfigError: an argument cannot work, or (in ``fit``) ``monitor`` is not logged.
        StorageError: (in ``fit``) the storage cannot be written to.
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
    ) -> None:
        if isinstance(save_top_k, bool) or not isinstance(save_top_k, int) or save_top_k < -1:
            raise ConfigError("save_top_k", save_top_k, "give how many to keep: >= 1, -1 for all, or 0 for none")
        if every_n_steps is not None and (
            isinstance(every_n_steps, bool) or not isinstance(every_n_steps, int) or every_n_steps < 1
        ):
            raise ConfigError("every_n_steps", every_n_steps, "give a whole number of steps >= 1, or None")
        self.dirpath = os.fspath(dirpath)
        self.monitor = Monitor(monitor, mode)
        self.save_top_k = save_top_k
        self.every_n_steps = every_n_steps
        self._store: CheckpointStore | None = None
        self._kept: list[Manifest] = []
        self._resumed_from: set[str] = set()
        self._saved_position: tuple[int, int, int] = (0, 0, 0)

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
        return {"kept": [{**manifest.to_dict(), "url": manifest.url} for manifest in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept = [Manifest.from_dict(values, url=values["url"]) for values in state["kept"]]

    # ------------------------------------------------------------------ hooks

    def on_fit_start(self, trainer: Trainer) -> None:
        self.monitor.require_validation(trainer)
        self._saved_position = _position(trainer)
        if self.save_top_k != 0:
            self._kept = self._on_main_process(trainer, lambda: self._open(trainer))

    def on_step_end(self, trainer: Trainer) -> None:
        if self.every_n_steps is not None and trainer.state.global_step % self.every_n_steps == 0:
            self._save(trainer, score=None)

    def on_epoch_end(self, trainer: Trainer) -> None:
        try:
            score = self.monitor.value(trainer.metrics)
        except ConfigError:
            self._save(trainer, score=None)  # the epoch's work is not lost with the misspelt name
            raise
        self._save(trainer, score=score)

    def on_fit_end(self, trainer: Trainer) -> None:
        if _position(trainer) != self._saved_position:  # asked to stop within an epoch
            self._save(trainer, score=None)

    # ------------------------------------------------------------------ what rank 0 does

    def _open(self, trainer: Trainer) -> list[Manifest]:
        """Open the store, and find which checkpoints of this run's past are still there."""
        if self._store is None:
            self._store = CheckpointStore(self.dirpath)
            check_writable(self._store.storage)
        past = _still_there(self._kept)
        if trainer.resumed_from is not None:
            _, candidates = CheckpointStore.at(trainer.resumed_from)
            source = [manifest for manifest in candidates if manifest.position == _position(trainer)][-1:]
            self._resumed_from.update(manifest.url for manifest in source)
            past += [manifest for manifest in source if manifest not in past]
        return sorted(past, key=lambda manifest: manifest.created)

    def _save(self, trainer: Trainer, score: float | None) -> None:
        if self.save_top_k == 0:
            return
        state = trainer.state_dict()  # on every rank: each one's random state is gathered
        self._kept = self._on_main_process(trainer, lambda: self._write(trainer, state, score))
        self._saved_position = _position(trainer)
        trainer.dispatch("on_checkpoint", self._kept[-1])

    def _write(self, trainer: Trainer, state: dict[str, Any], score: float | None) -> list[Manifest]:
        """Save; then delete what is no longer among those to keep. Returns what is kept, oldest first."""
        store = self._store
        if store is None:
            raise StorageError("CheckpointCallback saves within fit() only")
        epoch, step, batches_done = _position(trainer)
        manifest = store.save(
            state,
            epoch=epoch,
            step=step,
            batches_done=batches_done,
            metrics=trainer.metrics,
            monitor=self.monitor.monitor,
            mode=self.monitor.mode,
            score=score,
        )
        logger.info("saved %s", manifest.url)
        kept = [*(old for old in self._kept if old != manifest), manifest]
        keep = retained(kept, self.save_top_k)
        for old in kept:
            if old not in keep and old.writer == store.writer and old.url not in self._resumed_from:
                store.delete(old)
        return keep

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
    found: set[str] = set()
    for folder in sorted(folders):
        try:
            found.update(manifest.url for manifest in CheckpointStore(folder).manifests())
        except UnunenniumError as error:
            logger.warning("earlier checkpoints in %s are left out: %s", folder, error)
    return [manifest for manifest in manifests if manifest.url in found]
