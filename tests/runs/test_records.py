"""Typed records read what earlier versions wrote, keep it as it was, and are what functions hand over."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ununennium.checkpoints.contract import ModelContract, parse_contract, to_json, version_of
from ununennium.evaluation.checks import Check
from ununennium.evaluation.gate import with_check
from ununennium.evaluation.records import GateRecord

ROOT = Path(__file__).parents[2]
STORED = ROOT / "tests" / "compat" / "stored-2928e86" / "store"
RECORDS = {"contract", "its_contract", "gate"}
"""Names of parameters that are records."""
TAKE_MAPPINGS = {
    ("checkpoints/artifact.py", "write_artifact"),
    ("checkpoints/contract.py", "check_contract"),
    ("inference/input_check.py", "open_checked"),
    ("inference/onnx_export.py", "export_onnx"),
    ("inference/predictor.py", "__init__"),
    ("inference/scene.py", "map_scene"),
    ("checkpoints/registry.py", "promote"),
}
"""Functions for users, who may give a contract as a dictionary; the registry keeps a decision without reading it."""


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
    """File and function of each parameter that takes a record as a mapping of anything."""
    for file in sorted((ROOT / "ununennium").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                for argument in arguments:
                    annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                    if argument.arg in RECORDS and "[str, Any]" in annotation:
                        yield file.relative_to(ROOT / "ununennium").as_posix(), node.name


def test_contracts_and_gates_cross_packages_as_records_only() -> None:
    assert sorted(untyped()) == sorted(TAKE_MAPPINGS)
