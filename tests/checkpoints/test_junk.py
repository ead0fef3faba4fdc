"""What is damaged is named, and hides nothing else: records, aliases, manifests, states (correctness 92)."""

from __future__ import annotations

import json
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.checkpoints.test_registry import PASSED, add
from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import CheckpointError, ConfigError, PromotionConflict, UnunenniumError
from ununennium.training import CheckpointCallback

DEEP = b"[" * 100_000
JUNK = [
    *(b"", b"junk", b"{}", b"[]", b"null", b"\xff\xfe", DEEP, b'{"format": 1}', b'{"format": 1, "version": 7}'),
    *(b'{"version": "../../up"}', b'{"generation": 1e400}', b'{"x":' * 2000, b'{"n": ' + b"9" * 5000 + b"}"),
]


@pytest.fixture
def registry(tmp_path):
    return Registry(str(tmp_path / "storage"), "roofs")


@pytest.fixture
def versions(registry, tmp_path):
    """Three versions; the first two were champions, in generations 1 and 2."""
    added = [add(registry, tmp_path, seed) for seed in (1, 2, 3)]
    for generation, version in enumerate(added[:2]):
        promote(registry, version, generation)
    return added


def promote(registry: Registry, version: str, base: Any, **more: Any) -> Any:
    return registry.promote(version, expected_generation=base, gate=PASSED, actor="a", run_id="r", **more)


def spoil(registry: Registry, key: str, data: bytes) -> None:
    registry._storage.delete(key)
    registry._storage.create(key, data)


@pytest.mark.parametrize("junk", JUNK)
def test_a_junk_alias_hides_no_champion_and_no_other_alias(registry, versions, junk, caplog):
    """correctness 92: the alias itself is what its note before said; it can be set again."""
    registry.set_alias("staging", versions[0], actor="a")
    registry.set_alias("other", versions[1], actor="a")
    for key in ("staging/9999999998.json", "st/9999999999.json", "st/.DS_Store", ".DS_Store"):
        registry._storage.create(f"models/roofs/aliases/{key}", junk)
    assert registry.aliases() == {"staging": versions[0], "other": versions[1]}
    assert (registry.resolve("champion"), registry.resolve("previous")) == (versions[1], versions[0])
    assert "st/9999999999.json" in caplog.text
    with pytest.raises(ConfigError, match="no such version or alias"):
        registry.resolve("st")
    registry.set_alias("staging", versions[2], actor="a")
    registry.set_alias("st", versions[2], actor="a")
    assert registry.aliases() == {"staging": versions[2], "other": versions[1], "st": versions[2]}


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("generation", [1, 3, 10**10])
def test_a_junk_record_hides_no_champion_and_stops_nobody(registry, versions, junk, generation, caplog):
    """correctness 92: neither the first, nor the one after the champion, nor one far ahead."""
    key = f"models/roofs/promotions/{10**10 - generation:010d}.json"
    spoil(registry, key, junk)
    assert registry.current().version == versions[1]
    assert [record.generation for record in registry.history()] == ([2] if generation == 1 else [2, 1])
    assert key.rpartition("/")[2] in caplog.text
    third = promote(registry, versions[2], 2)
    assert third.generation == (4 if generation == 3 else 3)
    assert registry.current() == third
    assert registry.rollback(actor="a").version == versions[1]
    with pytest.raises(PromotionConflict):
        promote(registry, versions[0], 2)


@pytest.mark.parametrize(
    "change",
    [
        *({"generation": 7}, {"generation": 1}, {"generation": True}, {"generation": "2"}, {"restored_from": 2}),
        *({"version": "../x"}, {"version": None}, {"action": "seize"}, {"gate": []}, {"checkpoint": 1}, {"token": 3}),
        *({"format": 2}, {"restored_from": 9, "action": "rollback"}, {"evaluated_against": "1"}),
    ],
)
def test_a_record_that_is_not_what_its_place_says_is_left_out(registry, versions, change, caplog):
    """correctness 92: of another generation, of no version, or that restores itself, for ever."""
    key = registry._log._record_key(2)
    values = json.loads(registry._storage.read_bytes(key)) | change
    spoil(registry, key, json.dumps(values).encode())
    assert [record.generation for record in registry.history()] == [1]
    assert registry.current().version == registry.resolve("champion") == versions[0]
    assert key.rpartition("/")[2] in caplog.text
    assert promote(registry, versions[2], 1).generation == 3
    assert registry.rollback(actor="a").version == versions[0]


def test_a_registry_without_one_record_that_can_be_read_has_not_no_champion(registry, versions):
    """correctness 92: else the next candidate would be compared with nobody."""
    for generation in (1, 2):
        spoil(registry, registry._log._record_key(generation), b"junk")
    for use in (registry.current, registry.history, lambda: registry.resolve("champion")):
        with pytest.raises(CheckpointError, match="not one of the 2 records"):
            use()
    for base in (0, 1, 2):
        with pytest.raises(CheckpointError, match="not one of the 2 records"):
            promote(registry, versions[2], base)


@pytest.mark.parametrize("gone", [[2], [2, 3], [3], [1, 2]])
def test_a_gap_in_the_log_is_never_filled(registry, tmp_path, gone):
    """correctness 92: who compared with an older champion is told, whatever has been deleted since."""
    version, other = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    for generation in range(4):
        promote(registry, version, generation)
    for generation in gone:
        registry._storage.delete(registry._log._record_key(generation))
    for base in range(4):
        with pytest.raises(PromotionConflict, match=r"generation \d of 'roofs'"):
            promote(registry, other, base)
    assert registry.current().generation == 4
    assert promote(registry, other, 4).generation == 5


def test_the_token_of_another_version_is_no_lost_answer(registry, versions):
    """A caller that promotes something else is told of the conflict, not that its own version is champion."""
    mine = promote(registry, versions[2], 2, token="mine")
    assert promote(registry, versions[2], 2, token="mine") == mine
    with pytest.raises(PromotionConflict, match=f"version {versions[2]}"):
        promote(registry, versions[0], 2, token="mine")
    promote(registry, versions[1], 3, token="others")
    assert promote(registry, versions[2], 2, token="mine") == mine, "also once others came after it"
    assert registry.current().version == versions[1]


@pytest.mark.parametrize("value", [1.5, "2", None, True, [2], float("nan"), -1, 10**12])
def test_a_generation_that_is_no_number_is_refused_by_name(registry, versions, value):
    with pytest.raises(ConfigError, match=r"^expected_generation = "):
        promote(registry, versions[2], value)
    if value is not None:
        for name in ("to_generation", "expected_generation"):
            with pytest.raises((ConfigError, PromotionConflict), match="generation"):
                registry.rollback(actor="a", **{name: value})
    assert registry.current().generation == 2


def test_the_list_of_models_survives_what_is_no_model(registry, versions, tmp_path):
    from typer.testing import CliRunner

    from ununennium.cli import app

    models = tmp_path / "storage" / "models"
    (models / ".DS_Store").write_bytes(b"")
    for name in ("...", "broken"):
        (models / name / "promotions").mkdir(parents=True)
        (models / name / "promotions" / "9999999999.json").write_bytes(b"junk")
    listed = CliRunner().invoke(app, ["registry", "list", "--storage", str(tmp_path / "storage"), "--json"])
    assert listed.exit_code == 0
    assert [row["model"] for row in json.loads(listed.stdout)] == ["roofs"]
    assert "broken is left out" in listed.stderr


# ---------------------------------------------------------------------- manifests and states

NONSENSE: list[dict[str, Any]] = [
    *({"size_bytes": 1e400}, {"size_bytes": -1}, {"size_bytes": "7"}, {"epoch": True}, {"epoch": 2.5}, {"epoch": 9}),
    *({"step": None}, {"metrics": []}, {"metrics": {"loss": "low"}}, {"metrics": {"loss": [1]}}, {"versions": None}),
    *({"score": "high"}, {"score": 1e400}, {"mode": "best"}, {"sha256": "../../x"}, {"sha256": 7}, {"format": 2}),
    *({"key": "../../x.pt"}, {"key": 3}, {"generation": -1}, {"generation": "new"}, {"generation": 1.5}),
    *({"writer": None}, {"created": 5}, {"batches_done": []}),
]


@pytest.mark.parametrize("nonsense", [*NONSENSE, *JUNK])
def test_a_manifest_with_nonsense_is_left_out_by_name_and_hides_no_other(tmp_path, state, nonsense, caplog):
    """correctness 92: the folder can be read, resumed from and written to."""
    store = CheckpointStore(tmp_path)
    whole, spoilt = (store.save(state(number), epoch=number, step=number) for number in (1, 2))
    file = tmp_path / spoilt.manifest_key
    if isinstance(nonsense, dict):
        nonsense = json.dumps(json.loads(file.read_bytes()) | nonsense).encode()
    file.write_bytes(nonsense)
    fresh = CheckpointStore(tmp_path)
    assert fresh.manifests() == [whole]
    assert f"{spoilt.manifest_key} is left out" in caplog.text
    assert CheckpointStore.read(tmp_path)["number"] == 1
    assert fresh.save(state(3), epoch=3, step=3).generation == 2
    with pytest.raises(CheckpointError):
        CheckpointStore.read(str(file))


WRONG: list[tuple[str, Any]] = [
    *(("model", None), ("model", "junk"), ("model", {"weight": "junk"}), ("model", {1: torch.zeros(2)}), ("model", {})),
    *(("optimizer", None), ("optimizer", {}), ("optimizer", {"state": {}, "param_groups": [1]})),
    *(
        ("optimizer", {"state": {0: 3}, "param_groups": [{"params": [0, 1]}]}),
        ("state", None),
        ("state", {"epoch": "x"}),
    ),
    *(("callbacks", "junk"), ("callbacks", {"CheckpointCallback(val_loss, min)": 3}), ("history", {"loss": 3})),
    *(("callbacks", {"CheckpointCallback(val_loss, min)": {"kept": [{"format": 1}]}}), ("history", None)),
    *(("random_states", []), ("random_states", [None]), ("random_states", [{"now": 5}]), ("world_size", "many")),
    *(("running", [3]), ("scheduler", 5), ("scaler", "x")),
]


@pytest.mark.parametrize(("part", "value"), WRONG)
def test_a_checkpoint_with_the_right_hash_and_wrong_contents_is_a_checkpoint_error(tmp_path, make_trainer, part, value):
    """correctness 92: whichever part it is."""
    make_trainer(CheckpointCallback(tmp_path / "whole"), epochs=1).fit()
    contents = CheckpointStore.read(tmp_path / "whole")
    CheckpointStore(tmp_path / "wrong").save({**contents, part: value}, epoch=1, step=3)
    trainer = make_trainer(CheckpointCallback(tmp_path / "wrong"), epochs=2)
    with pytest.raises(CheckpointError, match=r"^(the checkpoint|\S+ is not a manifest|not a manifest|.* is )"):
        trainer.fit(resume_from=str(tmp_path / "wrong"))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """``data`` after one accident, or one malicious change."""
    kind = rng.randrange(6)
    if kind == 0:
        place = rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
    if kind == 1:
        return data[: rng.randrange(len(data))]
    if kind == 2:
        return rng.choice(JUNK)
    try:
        values = json.loads(data)
    except ValueError:
        return rng.randbytes(rng.randrange(1, 200))
    holder, key = values, rng.choice(sorted(values))
    while isinstance(holder[key], dict) and holder[key] and rng.random() < 0.7:
        holder, key = holder[key], rng.choice(sorted(holder[key]))
    if kind == 3:
        del holder[key]
        return json.dumps(values).encode()
    holder[key] = "@"
    text = [b"null", b"1e400", b"-1", b"true", b"[]", b"{}", b'"x"', b'"../../x"', b"NaN", b"9" * 6000, b"[" * 5000,
            b'{"a":' * 300 + b"1" + b"}" * 300, b'"subprocess:run"', b"2", b"0.5", b"[[[[1]]]]"]  # fmt: skip
    return json.dumps(values).encode().replace(b'"@"', rng.choice(text), 1)


@pytest.mark.slow
def test_two_hundred_mutated_objects_are_a_clear_error_or_harmless(tmp_path, versions, registry, state):
    """correctness 92: checkpoints, manifests, contracts, weights, records and notes, in one process."""
    registry.set_alias("staging", versions[0], actor="a")
    place = tmp_path / "storage" / "checkpoints"
    store = CheckpointStore(place)
    for number in (1, 2):
        store.save(state(number), epoch=number, step=number, monitor="loss", score=1.0 / number, metrics={"loss": 0.5})
    uses = [
        *(store.manifests, store.latest, store.best, lambda: CheckpointStore.read(place), registry.current),
        *(registry.history, registry.aliases, registry.versions, lambda: registry.resolve("champion")),
        *(
            lambda: registry.resolve("staging"),
            lambda: registry.check(versions[0]),
            lambda: registry.contract(versions[1]),
        ),
        lambda: load_artifact(registry.version_url(registry.resolve("champion"))),
        lambda: store.save(state(9), epoch=9, step=9),
        lambda: promote(registry, versions[2], 0),
    ]
    rng = random.Random(7)
    files = sorted(path for path in (tmp_path / "storage").rglob("*") if path.is_file())
    errors: dict[str, str] = {}
    for number in range(200):
        file = files[number % len(files)]
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, rng))
        for use in uses:
            began = time.monotonic()
            try:
                use()
            except UnunenniumError as error:
                errors[str(error)] = type(error).__name__
            assert time.monotonic() - began < 5.0, (file, use)
        file.write_bytes(whole)
        for left in {path for path in (tmp_path / "storage").rglob("*") if path.is_file()} - set(files):
            left.unlink()
    assert set(errors.values()) >= {"CheckpointError", "PromotionConflict"}
    for message in errors:
        assert not re.match(r"\w*(Error|Exception)\b: ", message), message
        assert len(message) < 2000
    assert [manifest.epoch for manifest in CheckpointStore(place).manifests()] == [1, 2]
    assert not Path("ran").exists()
