"""Typed records read what earlier versions wrote, keep it as it was, and are what functions hand over."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ununennium.checkpoints.contract import ModelContract, parse_contract, to_json, version_of
from ununennium.config import RunConfig
from ununennium.evaluation.block_sums import BlockSums
from ununennium.evaluation.checks import Check
from ununennium.evaluation.gate import with_check
from ununennium.evaluation.records import EvaluationRecord, GateRecord
from ununennium.files import finite, write_json
from ununennium.records import JsonRecord
from ununennium.runs.directory import RunDirectory
from ununennium.runs.records import Attempt, RunRecord, RunSummary

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "compat" / "stored-2928e86" / "store"
RECORDS = {"contract", "its_contract", "gate", "record", "summary", "evaluation", "measured", "champion", "challenger"}
"""Names of parameters that are records."""
GIVE_RECORDS = {
    ("runs/directory.py", "record"), ("runs/listing.py", "list_runs"), ("runs/listing.py", "newest_summaries"),
    ("pipeline/summary.py", "summarise"), ("pipeline/approval.py", "record_of"),
    ("pipeline/evaluations.py", "measure_champion"), ("workers/evaluate.py", "evaluate_run"),
}  # fmt: skip
"""Functions that return records."""
TAKE_MAPPINGS = {
    ("checkpoints/artifact.py", "write_artifact"),
    ("checkpoints/contract.py", "check_contract"),
    ("inference/input_check.py", "open_checked"),
    ("inference/onnx_export.py", "export_onnx"),
    ("inference/predictor.py", "__init__"),
    ("inference/scene.py", "map_scene"),
    ("checkpoints/registry.py", "promote"),
    ("report/rows.py", "metric_rows"),
}
"""Functions for users, who may give a dictionary; the registry keeps a decision without reading it."""


def test_stored_contracts_keep_their_version() -> None:
    files = sorted(STORED.glob("models/*/versions/*/contract.json"))
    assert len(files) == 3
    for file in files:
        data = file.read_bytes()
        contract = parse_contract(data, url=str(file))
        assert version_of(to_json(contract.to_json())) == file.parent.name
        assert contract == json.loads(data)


def test_stored_gates_are_written_back_as_they_were() -> None:
    files = sorted(STORED.glob("runs/*/gate.json"))
    assert files
    for file in files:
        assert GateRecord.load(file).to_json() == json.loads(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "kind"), [("run", RunRecord), ("summary", RunSummary)])
def test_stored_records_are_written_back_as_they_were(name: str, kind: type[JsonRecord]) -> None:
    files = sorted(STORED.glob(f"runs/*/{name}.json"))
    assert files
    for file in files:
        values = json.loads(file.read_text(encoding="utf-8"))
        assert json.dumps(finite(kind.from_json(values))) == json.dumps(values), file


def test_stored_evaluations_keep_all_that_they_said() -> None:
    files = sorted(STORED.glob("runs/*/evaluation.json"))
    assert files
    for file in files:
        values = json.loads(file.read_text(encoding="utf-8"))
        record = EvaluationRecord.load(file)
        written = json.loads(json.dumps(record.to_json()))
        assert EvaluationRecord.from_json(written) == record
        assert written.keys() == values.keys()
        for side in ("challenger", "champion"):
            if values[side] is not None:
                stored, again = (BlockSums.from_json(each[side].pop("units")) for each in (values, written))
                assert np.array_equal(stored.sums, again.sums)
        assert common(written, values) == values


def common(later: Any, earlier: Any) -> Any:
    """``later`` without the keys that ``earlier`` does not have."""
    if isinstance(earlier, dict) and isinstance(later, dict):
        return {key: common(later[key], value) for key, value in earlier.items() if key in later}
    if isinstance(earlier, list) and isinstance(later, list):
        return [common(*pair) for pair in zip(later, earlier, strict=True)]
    return later


def test_a_run_of_the_first_version_has_its_attempts_and_hosts() -> None:
    """The first start is an attempt like those that follow it."""
    values = {"run_id": "r", "storage": "s", "config": {}, "host": "a", "started_by": {"flow_run_id": "1"}}
    again = {"started": "2026", "host": "b", "versions": {}, "started_by": {"flow_run_id": None}}
    record = RunRecord.from_json(values)
    assert (record.last_host, record.flow_run_ids) == ("a", ["1"])
    record = replace(record, resumed=(Attempt.from_json(again),))
    assert (record.last_host, record.flow_run_ids, len(record.attempts)) == ("b", ["1"], 2)
    assert record.to_json() == {**values, "resumed": [again]}


def test_a_configuration_is_validated_once_and_anew_when_the_file_changes(
    atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path))
    run = RunDirectory.create(RunConfig.load(atlanta.parent / "run.yaml", [f"storage={tmp_path / 'storage'}"]))
    first = run.config()
    assert run.config() is first
    assert RunDirectory.open(run.run_file).config() is first
    record = run.record()
    write_json(run.run_file, replace(record, config={**record.config, "seed": 19}))
    assert run.config().seed == 19


def test_keys_that_an_older_contract_lacks_have_a_meaning_and_stay_absent() -> None:
    older = {"model": {"target": "a:B"}, "classes": ["a"], "bands": [1], "chip_size": 64}
    contract = ModelContract.from_json(older)
    assert (contract.task, contract.num_dates, contract.layout, contract.tta, contract.temperature) == (
        "segmentation", 1, "channels", False, 1.0,
    )  # fmt: skip
    assert contract.to_json() == older
    assert replace(contract, tta=True, weights_sha256="0").to_json() == {**older, "tta": True, "weights_sha256": "0"}


def test_keys_of_later_versions_are_kept() -> None:
    later = {"verdict": "promoted", "checks": [], "of_tomorrow": {"a": [1]}}
    assert GateRecord.from_json(later).to_json() == later


def test_a_gate_without_a_verdict_allows_nothing_and_a_check_only_refuses() -> None:
    assert GateRecord.from_json({}).verdict is None
    passed = Check("smoke test", None, None, None, True, "loads", "smoke test")
    failed = replace(passed, passed=False, reason="does not load")
    gate = with_check(GateRecord(verdict="not_promoted", reason="worse"), passed)
    assert (gate.verdict, gate.reason, gate.checks, gate.words) == ("not_promoted", "worse", (passed,), ["loads"])
    gate = with_check(with_check(GateRecord(verdict="promoted", reason="better"), passed), failed)
    assert (gate.verdict, gate.checks, gate.words) == ("not_promoted", (failed,), ["does not load"])
    assert GateRecord.from_json(json.loads(json.dumps(gate.to_json()))) == gate


def test_subscripts_by_key_still_work_with_a_warning() -> None:
    gate = GateRecord(verdict="promoted")
    with pytest.warns(DeprecationWarning, match=r"GateRecord\['verdict'\]"):
        assert gate["verdict"] == "promoted"
    with pytest.warns(DeprecationWarning, match="records are objects"):
        assert dict(gate) == gate.to_json()


def untyped() -> Iterator[tuple[str, str]]:
    """File and function of each parameter, or result, that is a record as a mapping of anything."""
    for package in ("ununennium", "flows"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT / package).as_posix()
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    annotations = [each.annotation for each in arguments if each.arg in RECORDS]
                    if (name, node.name) in GIVE_RECORDS:
                        assert node.returns is not None
                        annotations.append(node.returns)
                    if any(each and "[str, Any]" in ast.unparse(each) for each in annotations):
                        yield name, node.name


def test_records_cross_packages_as_records_only() -> None:
    assert sorted(untyped()) == sorted(TAKE_MAPPINGS)
