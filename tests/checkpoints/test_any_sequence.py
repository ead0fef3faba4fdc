"""Whatever the scores, whatever fails, whenever the process starts again: the kept are the best, and they are whole."""

from __future__ import annotations

import math
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ununennium.checkpoints.manifest import SavePoint
from ununennium.checkpoints.savers import BackgroundSaver, upload_left
from ununennium.checkpoints.store import CheckpointStore

FLUSH_S = 60.0
FAULTS = ["drop_response", "unavailable", "refuse", "flip_up", "flip_down", "truncate"]

saves = st.tuples(st.just("save"), st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, None]))
faults = st.tuples(st.just("fault"), st.sampled_from(FAULTS), st.sampled_from(["PUT", "GET", "DELETE"]))
events = st.lists(st.one_of(saves, saves, faults, st.just(("outage",)), st.just(("restart",))), max_size=9)


@pytest.mark.slow
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=events, k=st.integers(1, 3))
def test_the_kept_are_the_k_best_and_every_manifest_has_a_whole_checkpoint(proxy, monkeypatch, tmp_path, events, k):
    """correctness 45, 49, 50, 52: on a real server, behind a network that goes wrong."""
    monkeypatch.setenv("UNUNENNIUM_SPOOL", str(tmp_path / uuid.uuid4().hex))
    url = f"s3://checkpoints/{uuid.uuid4().hex}"
    proxy.heal()
    saver = BackgroundSaver(CheckpointStore(url), k, [], set())
    scores: list[float | None] = []
    for event in events:
        if event[0] == "save":
            scores.append(event[1])
            number = len(scores)
            saver.save({"n": number}, SavePoint(epoch=number, step=number, monitor="val_loss", score=event[1]))
        elif event[0] == "fault":
            proxy.inject(event[1], method=event[2], after_bytes=100)
        elif event[0] == "outage":
            proxy.connected = False
        else:
            expected = saver.expected()  # what the newest checkpoint tells the run that goes on from it
            saver.close()
            proxy.heal()
            upload_left(url)
            there = {manifest.url for manifest in CheckpointStore(url).manifests()}
            past = [manifest for manifest in expected if manifest.url in there]
            saver = BackgroundSaver(CheckpointStore(url), k, past, set())
    proxy.heal()
    assert saver.flush(FLUSH_S).waiting == []
    kept = [manifest.epoch for manifest in saver.kept]
    saver.close()
    store = CheckpointStore(url)
    found = {manifest.epoch: store.load(manifest)["n"] for manifest in store.manifests()}
    assert all(epoch == number for epoch, number in found.items())
    assert set(kept) <= set(found)
    assert kept == reference(scores, k)
    if "restart" not in [event[0] for event in events]:
        assert sorted(found) == kept  # and nothing else is left


def reference(scores: list[float | None], k: int) -> list[int]:
    """The k best finite ones (a tie keeps the older), the newest finite one, and the newest."""
    finite = [(score, number) for number, score in enumerate(scores, 1) if score is not None and math.isfinite(score)]
    wanted = {number for _, number in sorted(finite)[:k]} | {number for _, number in finite[-1:]}
    return sorted(wanted | ({len(scores)} if scores else set()))
