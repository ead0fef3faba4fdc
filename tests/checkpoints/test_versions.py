"""A version of the registry is what its name says, is healed, and is never promoted damaged (correctness 91)."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints.test_registry import PASSED, add, artifact
from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.contract import CONTRACT, WEIGHTS
from ununennium.checkpoints.registry import Registry
from ununennium.errors import CheckpointError
from ununennium.inference import Predictor


@pytest.fixture
def registry(folder):
    return Registry(folder, "roofs")


def put(registry: Registry, version: str, name: str, data: bytes | None) -> None:
    """Replace a part of a stored version, or remove it."""
    key = f"models/roofs/versions/{version}/{name}"
    registry._storage.delete(key)
    if data is not None:
        registry._storage.create(key, data)


def get(registry: Registry, version: str, name: str) -> bytes:
    return registry._storage.read_bytes(f"models/roofs/versions/{version}/{name}")


def promote(registry: Registry, version: str) -> Any:
    champion = registry.current()
    base = 0 if champion is None else champion.generation
    return registry.promote(version, expected_generation=base, gate=PASSED, actor="a", run_id="r")


def ways_to_use(registry: Registry, version: str) -> dict[str, Any]:
    """All that takes a version from the registry; generation 1 is ``version``."""
    root = registry._storage.root
    return {
        "load": lambda: load_artifact(registry.version_url(version)),
        "predict": lambda: Predictor.champion("roofs", storage=root, version=version),
        "contract": lambda: registry.contract(version),
        "check": lambda: registry.check(version),
        "promote": lambda: promote(registry, version),
        "roll back": lambda: registry.rollback(actor="a", to_generation=1),
        "alias": lambda: registry.set_alias("staging", version, actor="a"),
    }


def refusal(way: str, use: Any) -> str:
    try:
        use()
    except CheckpointError as error:
        return str(error)
    return pytest.fail(f"{way} took it")


CHANGES = {
    "statistics": lambda contract: contract["statistics"].update(mean=[1.0]),
    "classes": lambda contract: contract.update(classes=["b", "a"]),
    "code": lambda contract: contract["model"].update(target="subprocess:run", kwargs={"args": ["touch", "ran"]}),
    "nothing but spaces": lambda contract: None,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_contract_that_is_not_the_one_of_its_name_is_refused_by_all(registry, tmp_path, change, monkeypatch):
    """correctness 91: before anything that it names is imported."""
    monkeypatch.chdir(tmp_path)
    version, other = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    promote(registry, version)
    promote(registry, other)
    contract = json.loads(get(registry, version, CONTRACT))
    CHANGES[change](contract)
    put(registry, version, CONTRACT, json.dumps(contract).encode())
    for way, use in ways_to_use(registry, version).items():
        assert refusal(way, use).startswith(registry.version_url(version))
        assert f"not the contract of version '{version}'" in refusal(way, use)
    assert not (tmp_path / "ran").exists()
    assert registry.current().version == other
    artifact(tmp_path / "again", 1)
    assert registry.add_version(tmp_path / "again") == version
    for way, use in ways_to_use(registry, version).items():
        assert use() or way == "alias"


@pytest.mark.parametrize("damage", ["gone", "junk", "empty", "of another model"])
def test_damaged_weights_are_refused_by_all_that_load_them_and_healed(registry, tmp_path, damage):
    """correctness 91: by adding the same artefact again; until then the version is never promoted."""
    version, other = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    promote(registry, version)
    promote(registry, other)
    whole = get(registry, version, WEIGHTS)
    put(registry, version, WEIGHTS, {
        "gone": None, "junk": b"junk", "empty": b"", "of another model": get(registry, other, WEIGHTS)
    }[damage])  # fmt: skip
    for way, use in ways_to_use(registry, version).items():
        if way in ("contract", "alias"):
            continue
        assert "add the same artefact again" in refusal(way, use)
    assert registry.current().version == other
    assert (version in registry.versions()) is (damage != "gone")
    assert registry.add_version(tmp_path / "artifact1") == version
    assert get(registry, version, WEIGHTS) == whole
    assert promote(registry, version).version == version


@pytest.mark.parametrize("contract", [None, b"", b"{ torn", b"[]", b"[" * 100_000])
def test_a_damaged_contract_is_healed_by_adding_the_same_artefact(registry, tmp_path, contract):
    """correctness 91, 92."""
    version = add(registry, tmp_path, 1)
    put(registry, version, CONTRACT, contract)
    for use in (registry.check, registry.contract, lambda version: load_artifact(registry.version_url(version))):
        with pytest.raises(CheckpointError, match=r"contract|has no version"):
            use(version)
    assert registry.add_version(tmp_path / "artifact1") == version
    assert registry.check(version)["run_id"] == "run"


def test_a_version_under_another_name_is_refused(tmp_path):
    """correctness 91: of the form of a version's, or of any other form among the versions."""
    registry = Registry(str(tmp_path / "storage"), "roofs")
    version = add(registry, tmp_path, 1)
    folder = tmp_path / "storage" / "models" / "roofs" / "versions"
    for name in ("0" * 16, "latest"):
        (folder / name).mkdir()
        for file in (folder / version).iterdir():
            (folder / name / file.name).write_bytes(file.read_bytes())
        with pytest.raises(CheckpointError, match=rf"not the contract of version '{name}'"):
            load_artifact(str(folder / name))
        with pytest.raises(CheckpointError):
            registry.check(name)
    loaded, _ = load_artifact(f"{folder / version}/")
    assert not loaded.training


def test_a_folder_of_another_kind_is_loaded_whatever_its_name(tmp_path):
    artifact(tmp_path / "artifact")
    assert load_artifact(str(tmp_path / "artifact"))[1]["run_id"] == "run"


@pytest.mark.parametrize("sha256", ["../../victim", "/etc/hostname", "", None, 7, "A" * 64, "0" * 63])
def test_a_hash_that_is_none_never_becomes_a_path(s3, tmp_path, monkeypatch, sha256):
    """correctness 91: local copies of what is loaded have names that are hashes."""
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNUNENNIUM_LOAD_CACHE_GB", "1")
    (tmp_path / "cache" / "objects").mkdir(parents=True)
    (tmp_path / "victim").write_text("whole")
    artifact(tmp_path / "artifact")
    url = f"s3://checkpoints/{uuid.uuid4().hex}"
    registry = Registry(url, "roofs")
    contract = json.loads((tmp_path / "artifact" / CONTRACT).read_bytes()) | {"weights_sha256": sha256}
    registry._storage.put_file(tmp_path / "artifact" / WEIGHTS, f"plain/{WEIGHTS}")
    registry._storage.create(f"plain/{CONTRACT}", json.dumps(contract).encode())
    with pytest.raises(CheckpointError, match="weights_sha256"):
        load_artifact(f"{url}/plain")
    assert (tmp_path / "victim").read_text() == "whole"


def test_verify_names_what_is_damaged_without_running_any_code(tmp_path):
    """correctness 91: also of a model whose code may not run here."""
    from typer.testing import CliRunner

    from ununennium.cli import app

    registry = Registry(str(tmp_path / "storage"), "roofs")
    artifact(
        tmp_path / "own", 3, model={"target": "no_such_package:Net", "kwargs": {}, "in_channels": 1, "num_classes": 2}
    )
    whole, damaged = add(registry, tmp_path, 1), registry.add_version(tmp_path / "own")
    for version in (whole, damaged):
        promote(registry, version)
    command = ["registry", "verify", "roofs", "--storage", str(tmp_path / "storage"), "--json"]
    assert CliRunner().invoke(app, command).exit_code == 0
    Path(registry.version_url(damaged), WEIGHTS).write_bytes(b"junk")
    told = CliRunner().invoke(app, command)
    assert told.exit_code == 1
    assert [row["version"] for row in json.loads(told.stdout) if not row["whole"]] == [damaged]
