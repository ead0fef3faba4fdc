"""From a judged candidate to the champion: the smoke test of what is stored, and the word of a person."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.launch.conftest import TINY
from ununennium import pipeline
from ununennium.checkpoints.artifact import write_artifact
from ununennium.checkpoints.contract import read_local_contract
from ununennium.checkpoints.registry import Registry
from ununennium.config import RunConfig
from ununennium.errors import GateError, ProcessLost
from ununennium.launch.training import smoke_test
from ununennium.pipeline.approval import Answer, record_of
from ununennium.pipeline.sessions import open_run
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.runs.records import RunSummary
from ununennium.workers.smoke_test import compare

FLOW_RUN = {"flow_run_id": "the-flow-run"}
Judged = Callable[[], RunDirectory]


@pytest.fixture(scope="module")
def trained(atlanta: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that has been trained and judged, and waits for a person; no champion yet."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNUNENNIUM_WORK", str(folder / "work"))
        run = RunDirectory.create(configured(atlanta, folder), started_by=FLOW_RUN)
        pipeline.prepare(run)
        pipeline.train(run, on_line=lambda line: None).require_usable()
        run.publish([run.run_file])
        assert (
            pipeline.evaluate_and_promote(run, actor="flow", on_line=lambda line: None).verdict == "awaiting_approval"
        )
    return folder


def configured(atlanta: Path, folder: Path, *changes: str) -> RunConfig:
    settings = [*TINY, f"storage={folder / 'storage'}", "gate.approval=manual", *changes]
    return RunConfig.load(atlanta.parent / "run.yaml", settings)


@pytest.fixture
def judged(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The run, for one test; what the test leaves is taken away again."""
    kept = trained.parent / f"{trained.name}-kept"
    if not kept.exists():
        shutil.copytree(trained, kept)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(trained / "work"))
    (folder,) = (trained / "work").iterdir()
    yield RunDirectory.open(folder)
    shutil.rmtree(trained)
    shutil.copytree(kept, trained)


def champion(run: RunDirectory) -> Any:
    return Registry(run.storage, run.config().name).current()


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a byte of the weights", "no probe"])
def test_a_model_that_the_storage_does_not_give_back_is_not_promoted(
    judged: RunDirectory, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Registry.add_version

    def add_and_damage(registry: Registry, folder: Path) -> str:
        version = add(registry, folder)
        weights = Path(registry.version_url(version)) / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        return version

    if damage == "no probe":
        judged.probe_file.unlink()
    else:
        monkeypatch.setattr(Registry, "add_version", add_and_damage)
    with pytest.raises(GateError, match="is not promoted: loaded from the storage by a fresh process: "):
        pipeline.promote(judged, actor="me")
    assert champion(judged) is None
    gate = read_json(judged.gate_file)
    assert gate["verdict"] == "not_promoted"
    assert {"a byte of the weights": "damaged", "no probe": "evaluate it again"}[damage] in gate["reason"]
    assert read_json(Path(judged.url) / "gate.json") == gate
    assert pipeline.summarise(judged).reason == gate["reason"]


@pytest.mark.slow
def test_a_version_that_was_damaged_is_healed_by_promoting_the_same_again(judged: RunDirectory) -> None:
    """correctness 91: the storage gets the artefact again, and the smoke test reads that."""
    registry = Registry(judged.storage, judged.config().name)
    version = registry.add_version(judged.artifact_folder)
    Path(registry.version_url(version), "model.safetensors").write_bytes(b"junk")
    assert pipeline.promote(judged, actor="me").version == version
    assert registry.check(version)["run_id"] == judged.run_id


@pytest.mark.slow
def test_whole_weights_of_another_model_fail_the_smoke_test(judged: RunDirectory) -> None:
    """Nothing is damaged, but a single layer is not the one that was judged: only its logits tell."""
    contract, _ = read_local_contract(judged.artifact_folder)
    weights = load_file(judged.artifact_folder / "model.safetensors")
    last = [name for name in weights if name.endswith("bias")][-1]
    weights[last] = weights[last] + torch.tensor(0.05)
    write_artifact(judged.artifact_folder, weights, contract)
    with pytest.raises(GateError, match=r"its logits differ by up to 0\.0\d+ from those"):
        pipeline.promote(judged, actor="me")
    assert champion(judged) is None


@pytest.mark.slow
def test_a_smoke_test_that_was_lost_refuses_nothing(judged: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """correctness 96"""
    before = read_json(judged.gate_file)
    with monkeypatch.context() as patch:
        patch.setattr("ununennium.pipeline.promotion.smoke_test", functools.partial(smoke_test, timeout_s=0.01))
        with pytest.raises(ProcessLost, match="did not end in"):
            pipeline.apply_answer(judged, Answer(True, "ada"))
    assert champion(judged) is None
    assert read_json(judged.gate_file)["verdict"] == before["verdict"] == "promoted"
    assert pipeline.continue_approval(judged).verdict == "promoted"
    assert champion(judged).actor == "ada"


def test_the_same_model_passes_whoever_loads_it(judged: RunDirectory) -> None:
    assert compare(str(judged.artifact_folder), judged.probe_file) < 1e-6


def test_what_waits_is_no_champion_and_says_so(judged: RunDirectory) -> None:
    assert champion(judged) is None
    summary = pipeline.summarise(judged)
    assert summary.verdict == "awaiting_approval"
    assert "waits for a person" in summary.reason
    assert record_of(judged) == {**(record_of(judged) or {}), "state": "pending", "round": 1, "generation": 0}


@pytest.mark.slow
def test_a_person_who_approves_promotes(judged: RunDirectory) -> None:
    result = judged.result_file.stat().st_mtime_ns
    summary = pipeline.apply_answer(judged, Answer(True, "ada", "looks right"))
    assert summary.verdict == "promoted"
    assert (champion(judged).actor, champion(judged).run_id) == ("ada", judged.run_id)
    checks = {check["kind"]: check["reason"] for check in champion(judged).gate["checks"]}
    assert checks["approval"] == "ada approves: looks right"
    assert checks["smoke test"].startswith("loaded from the storage by a fresh process: logits within ")
    assert judged.result_file.stat().st_mtime_ns == result
    # Who says something else later is told, and nothing changes.
    said: list[str] = []
    assert pipeline.apply_answer(judged, Answer(False, "bob"), on_line=said.append).verdict == "promoted"
    assert "promoted already" in said[0]


def test_a_person_who_does_not_approve_is_the_reason_and_nobody_lifts_it(judged: RunDirectory) -> None:
    summary = pipeline.apply_answer(judged, Answer(False, "ada", "the river is gone"))
    assert (summary.verdict, summary.reason) == ("not_promoted", "ada does not approve: the river is gone")
    assert champion(judged) is None
    again = pipeline.apply_answer(judged, Answer(True, "bob"), on_line=lambda line: None)
    assert (again.verdict, champion(judged)) == ("not_promoted", None)


@pytest.mark.slow
def test_a_champion_that_came_meanwhile_is_compared_with_before_anybody_is_asked_again(judged: RunDirectory) -> None:
    registry = Registry(judged.storage, judged.config().name)
    version = registry.add_version(judged.artifact_folder)
    passed = {"verdict": "promoted", "reason": "another run"}
    registry.promote(version, expected_generation=0, gate=passed, actor="b", run_id="other")
    said: list[str] = []
    summary = pipeline.apply_answer(judged, Answer(True, "ada"), on_line=said.append)
    assert "evaluating against the new champion" in "\n".join(said)
    assert summary.verdict == "not_promoted"  # it is the same model, and so no better
    assert read_json(judged.gate_file)["generation"] == 1


def test_the_resumed_flow_run_finds_its_run_and_another_does_not(
    judged: RunDirectory, atlanta: Path, trained: Path
) -> None:
    """Even with other settings: nothing is computed again."""
    config = configured(atlanta, trained, "trainer.epochs=3")
    with open_run(config, started_by=FLOW_RUN, again=True, on_line=lambda line: None) as run:
        assert (run.run_id, pipeline.is_awaiting_approval(run)) == (judged.run_id, True)
    with open_run(config, started_by={"flow_run_id": "b"}, continues=FLOW_RUN["flow_run_id"]) as run:
        assert run.run_id == judged.run_id
    assert run.record().resumed[-1].started_by == {"flow_run_id": "b"}
    with open_run(config, started_by={"flow_run_id": "c"}, again=True) as run:
        assert run.run_id != judged.run_id
        assert not pipeline.is_awaiting_approval(run)


def test_a_process_that_ends_while_its_run_waits_is_not_the_end_of_the_run(
    judged: RunDirectory, atlanta: Path, trained: Path
) -> None:
    with (
        pytest.raises(KeyboardInterrupt),
        open_run(configured(atlanta, trained), started_by=FLOW_RUN, again=True),
    ):
        raise KeyboardInterrupt
    summary = RunSummary.from_json(read_json(judged.summary_file))
    assert (summary.verdict, summary.stop_reason) == ("awaiting_approval", "completed")


@pytest.mark.slow
def test_an_approval_that_nobody_acted_upon_is_acted_upon(judged: RunDirectory) -> None:
    from ununennium.pipeline import approval

    assert pipeline.continue_approval(judged).verdict == "awaiting_approval"
    approval.record_answer(judged, Answer(True, "ada"))
    assert pipeline.continue_approval(judged).verdict == "promoted"
    assert champion(judged).actor == "ada"
