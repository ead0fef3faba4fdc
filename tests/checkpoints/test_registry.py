"""A champion changes hands once, and every step of it is on record."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import torch

from tests.contracts import make_contract
from ununennium.checkpoints.artifact import load_artifact, write_artifact
from ununennium.checkpoints.registry import Promotion, Registry
from ununennium.errors import CheckpointError, ConfigError, GateError, PromotionConflict, StorageError
from ununennium.models import UNet

PASSED = {"verdict": "promoted", "reason": "better"}


def contract(**changes):
    model = {"target": "ununennium.models:UNet", "kwargs": {"base_channels": 2, "depth": 2}}
    metrics = {"IoU": {"mean": 0.5, "b": float("nan")}}
    described = {"model": {**model, "in_channels": 1, "num_classes": 2}, "resolution": [10.0, 10.0], "metrics": metrics}
    return make_contract(**{**described, **changes})


def artifact(folder, seed=0, **changes):
    torch.manual_seed(seed)
    model = UNet(1, 2, base_channels=2, depth=2)
    write_artifact(folder, model.state_dict(), contract(**changes))
    return model


@pytest.fixture
def registry(folder):
    return Registry(folder, "roofs")


def add(registry, tmp_path, seed):
    artifact(tmp_path / f"artifact{seed}", seed)
    return registry.add_version(tmp_path / f"artifact{seed}")


def test_an_artifact_comes_back_as_the_model_that_was_written(registry, tmp_path):
    model = artifact(tmp_path / "artifact").eval()
    version = registry.add_version(tmp_path / "artifact")
    loaded, its_contract = load_artifact(registry.version_url(version))
    image = torch.randn(1, 1, 16, 16)
    assert torch.equal(loaded(image), model(image))
    assert not loaded.training
    assert its_contract["classes"] == ["a", "b"]


def test_the_same_artifact_is_the_same_version(registry, tmp_path):
    assert add(registry, tmp_path, 1) == add(registry, tmp_path, 1) != add(registry, tmp_path, 2)
    assert len(registry.versions()) == 2


def test_generations_count_up_and_history_is_newest_first(registry, tmp_path):
    versions = [add(registry, tmp_path, seed) for seed in (1, 2)]
    assert registry.current() is None
    for generation, version in enumerate(versions):
        registry.promote(version, expected_generation=generation, gate=PASSED, actor="me", run_id="r")
    assert registry.current().version == versions[1]
    assert [record.generation for record in registry.history()] == [2, 1]


def test_a_stale_expectation_is_a_conflict(registry, tmp_path):
    first, second = (add(registry, tmp_path, seed) for seed in (1, 2))
    registry.promote(first, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    with pytest.raises(PromotionConflict, match=f"generation 1 of 'roofs' is version {first}"):
        registry.promote(second, expected_generation=0, gate=PASSED, actor="b", run_id="r")
    assert registry.current().version == first


def test_a_generation_that_is_not_there_yet_is_no_base(registry, tmp_path):
    version = add(registry, tmp_path, 1)
    registry.promote(version, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    for generation in (2, -1):
        with pytest.raises(ConfigError, match=rf"expected_generation.*{generation}.*there are 1 generations so far"):
            registry.promote(version, expected_generation=generation, gate=PASSED, actor="a", run_id="r")


def test_a_promotion_does_not_read_the_log_however_long_it_is(registry, tmp_path, monkeypatch):
    version = add(registry, tmp_path, 1)
    registry.promote(version, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    for name in ("list", "entries", "first"):
        monkeypatch.setattr(registry._storage, name, None)
    assert registry.promote(version, expected_generation=1, gate=PASSED, actor="a", run_id="r").generation == 2


def test_what_else_lies_beside_the_records_is_no_champion(registry, tmp_path):
    version = add(registry, tmp_path, 1)
    registry._storage.create("models/roofs/promotions/.DS_Store", b"")
    assert registry.current() is None
    registry.promote(version, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    assert registry.current().generation == 1


def test_a_record_that_is_gone_from_the_middle_hides_no_later_champion(registry, tmp_path):
    version = add(registry, tmp_path, 1)
    for generation in range(3):
        registry.promote(version, expected_generation=generation, gate=PASSED, actor="a", run_id="r")
    registry._storage.delete(registry._log._record_key(1))
    with pytest.raises(PromotionConflict, match="generation 2"):
        registry.promote(version, expected_generation=1, gate=PASSED, actor="a", run_id="r")


def test_a_conflict_names_the_first_generation_after_the_expected_one(registry, tmp_path):
    version, other = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    for generation in range(3):
        registry.promote(version, expected_generation=generation, gate=PASSED, actor="a", run_id="r")
    with pytest.raises(PromotionConflict, match="generation 2 of 'roofs'"):
        registry.promote(other, expected_generation=1, gate=PASSED, actor="b", run_id="r")


def test_a_lost_answer_is_found_by_its_token(registry, tmp_path):
    version = add(registry, tmp_path, 1)
    arguments = {"expected_generation": 0, "gate": PASSED, "actor": "a", "run_id": "r", "token": "mine"}
    first = registry.promote(version, **arguments)
    assert registry.promote(version, **arguments) == first
    assert len(registry.history()) == 1


def test_a_verdict_that_does_not_allow_it_is_refused(registry, tmp_path):
    version = add(registry, tmp_path, 1)
    for gate in ({"verdict": "not_promoted", "reason": "worse"}, {}):
        with pytest.raises(GateError, match="verdict"):
            registry.promote(version, expected_generation=0, gate=gate, actor="a", run_id="r")
    assert registry.current() is None


def test_rollback_is_a_new_generation(registry, tmp_path):
    first, second = (add(registry, tmp_path, seed) for seed in (1, 2))
    registry.promote(first, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    registry.promote(second, expected_generation=1, gate=PASSED, actor="a", run_id="r")
    record = registry.rollback(actor="me", reason="seams")
    assert (record.generation, record.version, record.action, record.restored_from) == (3, first, "rollback", 1)
    assert len(registry.history()) == 3
    with pytest.raises(ConfigError, match="to_generation"):
        registry.rollback(actor="me")  # nothing lies before the first


def test_the_record_says_what_was_promoted_whom_it_was_compared_with_and_who_asked(registry, tmp_path):
    first, second = (add(registry, tmp_path, seed) for seed in (1, 2))
    origin = {"manifest": "s3://bucket/run/epoch=0001.json", "sha256": "0" * 64}
    asked = {"gate": PASSED, "actor": "a", "run_id": "r", "checkpoint": origin, "flow_run_id": "f"}
    registry.promote(first, expected_generation=0, **asked)
    registry.promote(second, expected_generation=1, gate=PASSED, actor="b", run_id="r2")
    registry.rollback(actor="c", flow_run_id="g")
    third, other, one = registry.history()
    assert (one.evaluated_against, one.checkpoint, one.flow_run_id, one.gate) == (0, origin, "f", PASSED)
    assert (other.evaluated_against, other.checkpoint, other.flow_run_id) == (1, {}, "")
    assert (third.evaluated_against, third.checkpoint, third.flow_run_id) == (None, origin, "g")
    earlier = json.loads(one.to_json())  # as an earlier version of this package wrote it
    for name in ("evaluated_against", "checkpoint", "flow_run_id"):
        del earlier[name]
    read = Promotion.from_json(json.dumps(earlier).encode(), url="u")
    assert (read.version, read.checkpoint, read.flow_run_id) == (first, {}, "")


def test_aliases_follow_promotions_or_are_set_and_stay_on_record(registry, tmp_path):
    first, second = (add(registry, tmp_path, seed) for seed in (1, 2))
    registry.promote(first, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    with pytest.raises(ConfigError, match="version = 'previous'"):
        registry.resolve("previous")
    registry.promote(second, expected_generation=1, gate=PASSED, actor="a", run_id="r")
    assert (registry.resolve("champion"), registry.resolve("previous")) == (second, first)
    for version in (first, second, first):
        registry.set_alias("staging", version, actor="a")
        assert registry.resolve("staging") == registry.aliases()["staging"] == version
    assert len(registry._storage.list("models/roofs/aliases/staging/")) == 3
    assert registry.resolve(second) == second
    registry.rollback(actor="a")
    assert registry.resolve("champion") == first
    for name in ("champion", "previous", "../up", ""):
        with pytest.raises(ConfigError, match="alias"):
            registry.set_alias(name, first, actor="a")
    with pytest.raises(CheckpointError, match="no version 'nope'"):
        registry.set_alias("staging", "nope", actor="a")


def test_a_version_that_does_not_exist_is_named(registry):
    with pytest.raises(CheckpointError, match="no version 'nope'"):
        registry.promote("nope", expected_generation=0, gate=PASSED, actor="a", run_id="r")


def test_a_store_that_ignores_exclusive_creation_is_refused(registry, tmp_path, monkeypatch):
    version = add(registry, tmp_path, 1)
    storage = registry._storage
    monkeypatch.setattr(type(storage), "create", lambda self, key, data: None)
    with pytest.raises(StorageError, match="ignores conditional writes"):
        registry.promote(version, expected_generation=0, gate=PASSED, actor="a", run_id="r")


def test_a_single_writer_is_vouched_for_where_creation_is_not_exclusive(registry, folder, monkeypatch):
    assert registry.probe() is True
    monkeypatch.setattr(type(registry._storage), "create", lambda self, key, data: None)
    assert registry.probe() is True  # asked once
    assert Registry(folder, "roofs", unsafe_single_writer=True).probe() is False


def test_a_single_writer_promotes_where_creation_is_not_exclusive(folder, registry, tmp_path):
    """A store that would overwrite: generations count up, and a stale expectation is a conflict all the same."""
    first, second = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    alone = Registry(folder, "roofs", unsafe_single_writer=True)
    alone._exclusive = False
    assert alone.promote(first, expected_generation=0, gate=PASSED, actor="a", run_id="r").generation == 1
    with pytest.raises(PromotionConflict, match="generation 1 of 'roofs'"):
        alone.promote(second, expected_generation=0, gate=PASSED, actor="b", run_id="r")
    assert alone.promote(second, expected_generation=1, gate=PASSED, actor="b", run_id="r").generation == 2
    assert [record.version for record in alone.history()] == [second, first]


def test_a_record_that_storage_refuses_is_an_error_with_its_reason(registry, tmp_path, monkeypatch):
    version = add(registry, tmp_path, 1)
    registry.probe()

    def refuse(self, key, data):
        raise StorageError("no quota is left")

    monkeypatch.setattr(type(registry._storage), "create", refuse)
    with pytest.raises(StorageError, match=r"promotions/.*\.json could not be created: no quota is left"):
        registry.promote(version, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    assert registry.current() is None


def test_files_that_describe_a_version_lie_beside_it_and_replace_none_of_its_parts(registry, tmp_path):
    version = add(registry, tmp_path, 1)
    for text in ("a card", "a better card"):
        (tmp_path / "README.md").write_text(text)
        registry.describe(version, [tmp_path / "README.md"])
        assert registry._storage.read_bytes(f"models/roofs/versions/{version}/README.md") == text.encode()
    for part in ("model.safetensors", "contract.json"):
        with pytest.raises(CheckpointError, match=f"{part} is a part of the version"):
            registry.describe(version, [tmp_path / "artifact1" / part])
    assert registry.versions() == [version]
    registry.check(version)


@pytest.mark.parametrize("file", ["model.safetensors", "contract.json"])
def test_a_damaged_artifact_is_refused(tmp_path, file):
    artifact(tmp_path / "artifact")
    content = bytearray((tmp_path / "artifact" / file).read_bytes())
    content[-20] ^= 1
    (tmp_path / "artifact" / file).write_bytes(content)
    with pytest.raises(CheckpointError):
        load_artifact(str(tmp_path / "artifact"))


def test_a_contract_that_lacks_something_is_refused(tmp_path):
    for key in ("bands", "classes", "statistics"):
        incomplete = contract()
        del incomplete[key]
        with pytest.raises(ConfigError, match=f"contract.{key}"):
            write_artifact(tmp_path, {}, incomplete)


@pytest.mark.parametrize(
    ("key", "value"),
    [("mean", [None]), ("std", [float("nan")]), ("mean", ["0"]), ("band_names", 5), ("band_tags", True)],
)
def test_a_contract_whose_bands_are_described_by_nonsense_is_refused(tmp_path, key, value):
    """correctness 91: statistics that are no numbers would make maps of NaN."""
    spoilt = contract()
    (spoilt["statistics"] if key in spoilt["statistics"] else spoilt)[key] = value
    with pytest.raises(ConfigError, match=key):
        write_artifact(tmp_path, {}, spoilt)


def test_a_contract_is_strict_json(tmp_path):
    """NaN is no JSON: readers in other languages refuse it."""
    artifact(tmp_path)
    values = json.loads((tmp_path / "contract.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert values["metrics"]["IoU"]["b"] is None


@pytest.mark.slow
@pytest.mark.parametrize(("where", "number"), [("disk", 20), ("s3", 10)])
def test_processes_that_promote_at_once_lose_no_update(tmp_path, s3, where, number):
    """Each process promotes until a hundred generations are there: they are contiguous, every conflict was told."""
    folder = str(tmp_path / "storage") if where == "disk" else f"s3://checkpoints/{uuid.uuid4().hex}"
    version = add(Registry(folder, "roofs"), tmp_path, 1)
    script, wins = str(Path(__file__).with_name("competing_promotions.py")), str(100 // number)
    command = [sys.executable, script, folder, version, wins]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(number)]
    try:
        outputs = [worker.communicate(timeout=300) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0] * number, outputs
    history = Registry(folder, "roofs").history()
    assert [record.generation for record in history] == list(range(100, 0, -1))
    assert len({record.token for record in history}) == 100


@pytest.mark.parametrize("times", [1, 3])
def test_a_promotion_whose_answer_is_lost_finds_that_it_won(proxy, tmp_path, times):
    """The server did it, the client tries again, and is told that the generation exists: by its own token."""
    registry = Registry(f"s3://checkpoints/{uuid.uuid4().hex}", "roofs")
    version = add(registry, tmp_path, 1)
    registry.probe()
    proxy.inject("drop_response", method="PUT", part="promotions", times=times)
    record = registry.promote(version, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    assert "drop_response" in [request.fault for request in proxy.requests]
    proxy.heal()
    assert registry.history() == [record]
    with pytest.raises(PromotionConflict):
        registry.promote(version, expected_generation=0, gate=PASSED, actor="b", run_id="r")
