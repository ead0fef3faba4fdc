"""A training that is asked to stop, as on a spot machine: the flow goes on with it; and what its ranks say."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.flows.conftest import ROOT, post
from tests.flows.test_retrain import events
from tests.flows.test_watching import require_valid
from tests.processes import has_checkpoint, rank_pids, wait_until, when
from ununennium.config import RunConfig
from ununennium.runs import RunDirectory, list_runs
from ununennium.training.supervise import start_time

pytestmark = pytest.mark.slow
Tiny = Callable[..., RunConfig]
CHANGES = (
    "trainer.epochs=100000",
    "data.batch_size=2",
    "data.chips_per_epoch=40",
    "checkpoints.every_n_steps=3",
    "launcher.nproc_per_node=2",
    "loss={target: 'tests.flows.loud_loss:LoudLoss'}",
)


@pytest.mark.usefixtures("server")
def test_the_flow_goes_on_by_itself_and_what_ranks_warn_of_is_a_warning(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.settings import PREFECT_API_URL

    import flows.retrain as module

    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    config = tiny(*CHANGES, f"storage={tmp_path / 'storage'}", "name=preempted")
    struck: list[int] = []

    def the_run() -> RunDirectory | None:
        found = [RunDirectory.open(file) for file in (tmp_path / "work").glob("*/run.json")]
        return found[0] if found else None

    def ready() -> bool:
        run = the_run()
        if run is None or not has_checkpoint(run):
            return False
        pids = rank_pids(run)
        return len(pids) == 2 and not set(pids) & set(struck) and all(start_time(pid) for pid in pids)

    def strike() -> None:
        run = the_run()
        assert run is not None
        struck.extend(rank_pids(run))
        os.kill(struck[-1], signal.SIGTERM)

    def strike_twice() -> None:
        strike()
        assert wait_until(ready)
        strike()

    monkeypatch.setattr(module, "train", module.train.with_options(retries=1, retry_delay_seconds=0))
    thread = when(ready, strike_twice)
    state: Any = module.retrain(config, return_state=True)
    thread.join()
    # Once it went on by itself; then no try was left, and `resume/after-crash` would start it again.
    assert (state.type.value, state.name) == ("CRASHED", "Preempted"), state.message
    assert state.message.startswith("training was asked to stop after ")
    (summary,) = list_runs(config.storage)
    assert (summary["stop_reason"], summary["verdict"]) == ("preempted", None)
    api, flow_run = str(PREFECT_API_URL.value()), str(state.state_details.flow_run_id)
    told = events("ununennium.training.finished", resource=f"ununennium.run.{summary['run_id']}")
    assert [require_valid(each)["stop_reason"] for each in told] == ["preempted", "preempted"]

    logs = post(api, "/logs/filter", {"logs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200})
    levels = {each["message"]: each["level"] for each in logs}
    assert levels["ERROR: of rank 0 alone"] == 40
    assert levels["rank 1: ERROR: of rank 1 alone"] == 40
    assert {level for message, level in levels.items() if "class weights are guessed" in message} == {30}
    assert {level for message, level in levels.items() if message.startswith("training was asked to stop")} == {30}
    assert {level for message, level in levels.items() if message.startswith("going on from the checkpoint")} == {20}
