"""Whatever a key, a scene or a version is called, nothing outside a run's or a model's folder is written or read."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from ununennium.checkpoints.registry import Registry
from ununennium.config import SceneConfig
from ununennium.config.maps import MapSceneConfig
from ununennium.errors import CheckpointError, ConfigError, StorageError
from ununennium.runs.directory import RunDirectory
from ununennium.storage.open import open_storage

_PARTS = st.sampled_from(["..", ".", "", "a", "etc", "b.json", "\\..", "..\\", "\0", "%2e%2e", "~", "ü", " "])
NAMES = st.lists(_PARTS, min_size=1, max_size=6).map("/".join) | st.text(max_size=20)


def _files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@given(NAMES)
@example("../secret")
@example("a/../../secret")
@example("/etc/ununennium")
def test_a_key_stays_below_its_folder_or_is_refused(key: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        outside, inside = Path(name), Path(name) / "one" / "inside"
        (outside / "secret").write_text("theirs")
        storage = open_storage(str(inside))
        try:
            storage.create(key, b"ours")
        except (StorageError, FileExistsError):
            with pytest.raises((StorageError, FileNotFoundError)):
                storage.read_bytes(key)
        else:
            assert storage.read_bytes(key) == b"ours"
        assert {path for path in _files(outside) if inside not in path.parents} == {outside / "secret"}
        assert (outside / "secret").read_text() == "theirs"


@given(NAMES)
@example("../../model")
def test_files_that_are_named_after_a_scene_stay_in_the_runs_folder(name: str) -> None:
    folder = Path("/srv/runs/one/prediction")
    for kind in (SceneConfig, MapSceneConfig):
        try:
            scene = kind(image="a.tif", name=name)
        except ValidationError:
            continue
        file = Path(f"{folder}/{scene.name}.tif")
        assert folder in file.parents
        assert ".." not in file.parts


@given(NAMES)
@example("../../../../..")
def test_a_model_or_a_version_of_any_name_is_looked_for_in_its_own_folder_alone(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "contract.json").write_text("{}")
        storage = Path(folder) / "a" / "storage"
        (storage / "models" / "model" / "versions").mkdir(parents=True)
        for model, version in ((name, "1"), ("model", name)):
            with pytest.raises((ConfigError, StorageError, CheckpointError), match=r"no version|is no key|give a name"):
                Registry(str(storage), model).contract(version)


@given(NAMES)
@example("../../20261125T000000Z-model-0000")
def test_a_run_of_any_name_is_refused_unless_it_is_the_name_of_one(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises((ConfigError, StorageError)):
        RunDirectory.fetch(folder, name)


@pytest.mark.parametrize("key", ["../../escaped/file.json", "a/../../../escaped/file.json"])
def test_an_object_that_somebody_else_named_is_not_copied_out_of_the_work_folder(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Object storage takes any key: one with ``..`` in it is an object like others there, and a path here."""
    import fsspec

    run_id = "20261125T000000Z-model-0000"
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.store[f"/storage/runs/{run_id}/run.json"] = memory.open("/other", "wb")
    memory.pipe_file(f"/storage/runs/{run_id}/run.json", b"{}")
    memory.store[f"/storage/runs/{run_id}/{key}"] = memory.store[f"/storage/runs/{run_id}/run.json"]
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "deep" / "work"))
    try:
        with pytest.raises(StorageError, match="is no key"):
            RunDirectory.fetch("memory://storage", run_id)
    finally:
        memory.store.clear()
    assert not list(tmp_path.rglob("escaped"))
