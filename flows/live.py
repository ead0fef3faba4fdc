"""Live view of a run in Prefect's UI: a progress artifact, and a page with its curves and a sample.

A thread of its own reads the work folder and talks to the server, so that the thread that waits for training, and sees
its deadline, its stalls and a cancellation, never waits for either. What goes wrong is logged once, and ends nothing.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from ununennium.report.facts import epoch_rows
from ununennium.report.live import history_of, metrics_text, progress_text
from ununennium.report.rows import WORDS, data_uri
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.runs.heartbeat import RunProgress

heartbeat = logging.getLogger("flows.heartbeat")
"""Progress of training every few seconds, for a terminal's live line; never sent to the server."""

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]

LOOK_S = 1.0
PROGRESS_S = 10.0
PAGE_S = 30.0
REQUEST_S = 10.0
"""Longest time of one request to the server, which is tried a second time."""
END_S = 15.0
"""Longest time that the end of training is waited with, for the last update."""


@contextlib.contextmanager
def shown(run: RunDirectory, log: Log) -> Iterator[None]:
    """While it lasts, Prefect's UI shows how ``run`` trains.

    Args:
        run: about to be trained; its work folder is read, and nothing else.
        log: told, once, if the server does not take it.
    """
    view, over = _View(run, log), threading.Event()

    def follow() -> None:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            while not over.wait(LOOK_S):
                view.update()
            view.update(last=True)

    # The context has the settings, such as the server's address; a plain thread would not have them.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(follow,), name="live", daemon=True)
    thread.start()
    patience_s = END_S
    try:
        yield
    except BaseException:  # a cancellation must not wait
        patience_s = LOOK_S
        raise
    finally:
        over.set()
        thread.join(patience_s)


class _View:
    """What is shown, each part no more often than it need be."""

    def __init__(self, run: RunDirectory, log: Log) -> None:
        name = run.config().name.replace("_", "-")
        self._run, self._log = run, log
        self._earlier = RunProgress.of(run)  # of an earlier try
        self._told: RunProgress | None = None
        self._num_epochs = 0
        self._next_progress = self._next_page = 0.0
        self._progress = _Artifact(f"{name}-progress", "progress")
        self._page = _Artifact(f"{name}-live", "markdown")
        self._failed = False

    def update(self, *, last: bool = False) -> None:
        """Look once, and tell what is new.

        Args:
            last: training has ended: tell it now.
        """
        try:
            progress = RunProgress.of(self._run)
            if progress is None or progress == self._earlier:
                return
            if not last:
                heartbeat.debug("%s", progress_text(progress, shutil.get_terminal_size().columns - 1))
            now = time.monotonic()
            rows = epoch_rows(self._run.metrics_file)
            if last or (now >= self._next_progress and progress != self._told):
                self._next_progress, self._told = now + PROGRESS_S, progress
                words = self._end(progress) if last else progress_text(progress)
                metrics = f"; epoch {rows[-1]['epoch']}: {metrics_text(rows[-1])}" if rows else ""
                self._progress.show(round(100 * progress.share, 1), f"{self._run.run_id}: {words}{metrics}")
            if len(rows) != self._num_epochs and (last or now >= self._next_page):
                self._next_page = now + PAGE_S
                self._page.show(self._markdown(rows), f"{self._run.run_id}, after {rows[-1]['epoch']} epochs")
                self._num_epochs = len(rows)
        except Exception as error:
            if not self._failed:
                self._log.warning("Prefect's UI does not show how the run trains, which goes on: %r", error)
            self._failed = True

    def _end(self, progress: RunProgress) -> str:
        if not self._run.result_file.exists():
            return f"ended in epoch {progress.epoch} of {progress.epochs}"
        result = read_json(self._run.result_file)
        return f"{WORDS[result['stop_reason']]} after {result['epochs']} of {progress.epochs} epochs"

    def _markdown(self, rows: list[dict[str, Any]]) -> str:
        from ununennium.evaluation.pictures import loss_curve

        curve = self._run.live_folder / "loss_curve.png"
        loss_curve(history_of(rows), curve)
        parts = [
            f"# {self._run.run_id}",
            f"Epoch {rows[-1]['epoch']}: {metrics_text(rows[-1])}",
            data_uri(curve.read_bytes(), "Loss curve", str(curve)),
        ]
        if (sample := self._run.sample_file).exists():
            parts += [
                "A chip of the validation fold: image, label, prediction and errors.",
                data_uri(sample.read_bytes(), "Sample prediction", str(sample)),
            ]
        return "\n\n".join(parts) + "\n"


class _Artifact:
    """An artifact of this task run: made when it is first shown, and the same one from then on.

    Not by ``create_progress_artifact`` and its like: their client waits for a minute, several times, and each update of
    theirs is an event that carries all of the content, the pictures too, into the server's database.
    """

    def __init__(self, key: str, kind: str) -> None:
        ids = {"flow_run_id": runtime.flow_run.id, "task_run_id": runtime.task_run.id}  # of the calling thread
        self._of: dict[str, Any] = {name: UUID(value) for name, value in ids.items() if value}
        self._key, self._kind = key, kind
        self._id: UUID | None = None

    def show(self, data: float | str, description: str) -> None:
        """Make it, or replace its content."""
        content: dict[str, Any] = {"data": data, "description": description}
        with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_S}) as client:
            if self._id is None:
                created = client.create_artifact(ArtifactCreate(key=self._key, type=self._kind, **content, **self._of))
                self._id = created.id
            else:
                client.request("PATCH", "/artifacts/{id}", json=content, path_params={"id": self._id})
