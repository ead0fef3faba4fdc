"""A run whose storage is taken from it: what the result says, and what the next start makes of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ununennium import pipeline
from ununennium.checkpoints.store import CheckpointStore
from ununennium.runs.directory import RunDirectory, read_json


@pytest.mark.slow
def test_checkpoints_that_are_refused_are_in_the_result_and_the_next_start_uploads_them(
    prepared: Callable[..., RunDirectory], proxy: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The rights to write checkpoints are taken away at the first upload; everything else may still be written."""
    spool = tmp_path / "spool"
    monkeypatch.setenv("UNUNENNIUM_SPOOL", str(spool))
    run = prepared(f"storage=s3://checkpoints/{uuid.uuid4().hex}")
    proxy.inject("refuse", method="PUT", part=".pt", times=100_000)

    failed = pipeline.train(run, on_line=lambda _: None)
    assert (failed.stop_reason, failed.epochs) == ("failed", 2)  # it went on training to the end
    assert failed.error is not None
    assert (failed.error.type, failed.error.lost) == ("StorageError", False)
    assert "training is done, but 2 checkpoints were not uploaded" in failed.message
    assert str(spool) in str(failed.storage_problem)
    assert read_json(run.result_file)["storage_problem"] == failed.storage_problem
    assert CheckpointStore(run.checkpoints_url).manifests() == []

    proxy.heal()
    said: list[str] = []
    result = pipeline.train(run, on_line=said.append).require_usable()
    assert (result.stop_reason, result.epochs, result.storage_problem) == ("completed", 2, None)
    assert [line for line in said if "which an earlier process had to leave" in line] != []
    assert result.history == failed.history  # nothing was trained again
    assert {manifest.epoch for manifest in CheckpointStore(run.checkpoints_url).manifests()} >= {2}
    assert list(spool.glob("*/*.pt")) == []
