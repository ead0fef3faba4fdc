"""An index is written once, and reused while nothing changed; anything that changed builds it anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import rasterio

from ununennium.data import ChipIndex, compute_statistics
from ununennium.data.chips import index_cache
from ununennium.data.chips.index_cache import indexed
from ununennium.data.scenes.fingerprints import Fingerprints
from ununennium.data.scenes.references import companions
from ununennium.errors import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def config(make):
    return make.config(make.scene())


def test_the_second_look_reuses_the_first_ones_index(config):
    said: list[str] = []
    first = indexed(config, said.append)
    assert not first.reused
    assert not any("reused" in line for line in said)
    said.clear()
    again = indexed(config, said.append)
    assert again.reused
    assert len(said) == 1
    assert "index reused: 1 scene(s)" in said[0]
    assert again.index.summary() == first.index.summary()
    for ours, theirs in ((again.index.cells, first.index.cells), (again.index.survey, first.index.survey)):
        for name, values in vars(ours).items():
            np.testing.assert_array_equal(values, getattr(theirs, name))


def _change_a_label(config):
    """One byte of the labels, in place: the file keeps its size."""
    with rasterio.open(config.scenes[0].label, "r+") as dataset:
        pixels = dataset.read()
        pixels[0, 5, 5] = 1 - pixels[0, 5, 5]
        dataset.write(pixels)


def _change_a_label_and_put_the_clock_back(config):
    """As a copy that keeps times does: only the inode's own time tells."""
    before = Path(config.scenes[0].label).stat()
    _change_a_label(config)
    os.utime(config.scenes[0].label, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [_change_a_label, _change_a_label_and_put_the_clock_back])
def test_a_changed_label_byte_builds_anew(config, change):
    first = indexed(config)
    change(config)
    second = indexed(config)
    assert not second.reused
    assert second.index.data_sha256 != first.index.data_sha256
    assert second.index.labelled != first.index.labelled
    assert indexed(config).reused


def test_a_changed_mask_beside_the_image_builds_anew(config):
    indexed(config)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(config.scenes[0].image, "r+") as dataset:
        dataset.write_mask(np.repeat([[0, 255]], [128 * 256], axis=1).reshape(256, 256).astype(np.uint8))
    assert Path(config.scenes[0].image + ".msk") in list(companions(Path(config.scenes[0].image)))
    masked = indexed(config)
    assert not masked.reused
    valid = int(masked.index.survey.valid.sum())
    assert valid < 256 * 256
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(config.scenes[0].image, "r+") as dataset:
        dataset.write_mask(np.full((256, 256), 255, np.uint8))
    again = indexed(config)
    assert not again.reused
    assert int(again.index.survey.valid.sum()) == 256 * 256


@pytest.mark.parametrize(
    "settings",
    [
        {"split": {"seed": 1}},
        {"split": {"buffer": 5}},
        {"classes": ["even", "odd", "more"], "allow_absent": ["more"]},
        {"bands": [2]},
        {"nodata": 7},
        {"ignore_index": 254},
    ],
)
def test_a_changed_setting_builds_anew(make, settings):
    scene = make.scene()
    indexed(make.config(scene))
    assert not indexed(make.config(scene, **settings)).reused
    assert indexed(make.config(scene)).reused


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_size": 2},
        {"num_workers": 3},
        {"class_balance": 0.1},
        {"chips_per_epoch": 5},
        {"augment": {"noise": 0.1}},
    ],
)
def test_settings_that_draw_chips_reuse_it(make, settings):
    scene = make.scene()
    indexed(make.config(scene))
    assert indexed(make.config(scene, **settings)).reused


def test_a_new_version_builds_anew(config, monkeypatch):
    indexed(config)
    monkeypatch.setattr(index_cache, "VERSION", index_cache.VERSION + 1)
    assert not indexed(config).reused


def test_a_damaged_index_builds_anew(config, folder):
    first = indexed(config)
    (first.folder / "index.json").write_text('{"version"')
    second = indexed(config)
    assert not second.reused
    assert second.index.labelled == first.index.labelled
    assert indexed(config).reused


def test_statistics_are_computed_once(config):
    first = indexed(config)
    expected = compute_statistics(first.index)
    assert first.statistics() == expected
    file = first.folder / "statistics.json"
    file.write_text(file.read_text().replace(f'"num_pixels": {expected.num_pixels}', '"num_pixels": 7'))
    assert indexed(config).statistics().num_pixels == 7  # read, not computed
    file.write_text("{}")
    assert indexed(config).statistics() == expected


def test_warnings_come_again_with_a_reused_index(make):
    config = make.config(make.scene(), classes=["even", "odd", "never"], allow_absent=["never"])
    for _ in range(2):
        with pytest.warns(UserWarning, match="no fold has a pixel of: never"):
            found = indexed(config)
    assert found.reused
    assert any("never" in note for note in found.index.notes)


def test_a_reused_index_is_no_way_around_a_class_that_cannot_be_learned(make):
    config = make.config(make.scene(), classes=["even", "odd", "never"])
    with pytest.warns(UserWarning, match="no fold has a pixel of: never"):
        assert not indexed(config, for_training=False).reused  # as to look at the data, or to measure on them
    never = "no fold has a pixel of: never"
    with pytest.warns(UserWarning, match=never), pytest.raises(DataError, match=r"'never' \(no fold has any\)"):
        indexed(config)
    with pytest.warns(UserWarning, match=never):
        assert indexed(config.model_copy(update={"allow_absent": ["never"]})).reused


def test_a_folder_that_cannot_be_written_costs_a_warning_alone(config, monkeypatch, tmp_path):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "a file" / "cache"))
    with pytest.warns(UserWarning, match="index is not kept for the next run"):
        found = indexed(config)
    assert isinstance(found.index, ChipIndex)


def test_the_oldest_indexes_are_forgotten(make, folder, monkeypatch):
    monkeypatch.setattr(index_cache, "_KEPT", 2)
    scene = make.scene()
    for seed in range(3):
        used = indexed(make.config(scene, split={"seed": seed})).folder
        os.utime(used, (seed, seed))
    assert len(list((folder / "index").iterdir())) == 2
    assert indexed(make.config(scene, split={"seed": 2})).reused
    assert not indexed(make.config(scene, split={"seed": 0})).reused


def test_contents_are_hashed_again_only_where_something_hints_at_a_change(tmp_path):
    file, kept = tmp_path / "data", tmp_path / "contents.json"
    file.write_bytes(b"one")
    fresh = Fingerprints(kept)
    before = fresh.sha256(file)
    fresh.save()
    # So soon after the change the next one might share its time: the hash is not trusted yet.
    assert Fingerprints(kept).sha256(file) == before
    deadline = time.monotonic() + 60
    while time.time_ns() - file.stat().st_ctime_ns < 2.1e9 and time.monotonic() < deadline:
        time.sleep(0.1)
    settled = Fingerprints(kept)
    settled.sha256(file)
    settled.save()
    assert settled.num_hashed == 1
    later = Fingerprints(kept)
    assert later.sha256(file) == before
    assert later.num_hashed == 0
    file.write_bytes(b"two")
    assert later.sha256(file) != before
