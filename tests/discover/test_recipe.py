"""The recipe of ``init``: facts of the data against NumPy, and rules that hold for any data."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.rasters import write_raster
from ununennium.cli import run
from ununennium.config import RunConfig
from ununennium.data import build_index, compute_statistics
from ununennium.discover.fingerprint import Fingerprint, fingerprint_of, run_lengths
from ununennium.discover.recipe import RULES, apply_recipe, budget_s, derive, remarks_of
from ununennium.errors import ConfigError

BASE = RunConfig.parse({"name": "m", "data": {"scenes": [{"image": "a.tif", "label": "b.tif"}], "classes": ["a", "b"]}})


def squares(folder: Path, *, side: int = 256, dtype: str = "uint16") -> None:
    """A skewed image, and labels in which squares of 12 pixels, 24 apart, are a class."""
    rng = np.random.default_rng(0)
    image = rng.lognormal(5, 0.8, (3, side, side)).clip(1, 60_000).astype(dtype)
    edge = np.arange(side) % 24 < 12
    write_raster(folder / "town.tif", image)
    write_raster(folder / "town_houses.tif", (edge[:, None] & edge)[None].astype(np.uint8))


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)))
def test_run_lengths_are_those_that_a_loop_finds(mask: np.ndarray) -> None:
    expected = []
    for row in mask:
        length = 0
        for value in [*row, False]:
            length = length + 1 if value else (expected.append(length) if length else None) or 0
    assert run_lengths(mask).tolist() == expected


def test_a_fingerprint_has_the_width_of_objects_the_shares_and_the_skew(tmp_path: Path) -> None:
    squares(tmp_path)
    config = BASE.data.model_validate(
        {"scenes": [{"image": str(tmp_path / "town.tif"), "label": str(tmp_path / "town_houses.tif")}],
         "classes": ["ground", "house"], "split": {"block_size": 64, "buffer": 0}}
    )  # fmt: skip
    index = build_index(config)
    statistics = compute_statistics(index)
    found = fingerprint_of(index, statistics)
    assert found.object_px == 12
    counts = np.array(index.labelled["train"])
    assert found.class_pixels == tuple(counts)
    assert found.shares["house"] == pytest.approx(counts[1] / counts.sum())
    assert found.rarest == "house"
    low, middle, high = (np.array(statistics.percentiles[name]) for name in ("p2", "p50", "p98"))
    assert found.skew == pytest.approx(np.median((high - middle) / (middle - low)))
    assert (found.is_positive, found.in_channels, found.smallest_side, found.block_size) == (True, 3, 256, 64)


PIXELS = st.integers(0, 10**9)


@st.composite
def fingerprints(draw: st.DrawFn) -> Fingerprint:
    counts = draw(st.lists(PIXELS, min_size=2, max_size=6).filter(any))
    return Fingerprint(
        task="segmentation",
        classes=tuple(f"class {number}" for number in range(len(counts))),
        class_pixels=tuple(counts),
        object_px=draw(st.none() | st.floats(1, 5000)),
        in_channels=draw(st.integers(1, 400)),
        smallest_side=draw(st.integers(16, 20_000)),
        block_size=draw(st.sampled_from([8, 16, 32, 64, 128, 512])),
        skew=draw(st.floats(0, 100)),
        is_positive=draw(st.booleans()),
        num_pixels=draw(st.integers(256, 10**12)),
        cores=draw(st.integers(1, 64)),
        has_gpu=draw(st.booleans()),
    )


@given(fingerprints())
def test_any_data_get_a_valid_configuration_with_a_hundred_steps_and_a_reason_for_each_setting(
    data: Fingerprint,
) -> None:
    """correctness 108"""
    chosen = derive(data)
    base = BASE.model_copy(update={"data": BASE.data.model_copy(update={"classes": list(data.classes)})})
    config = apply_recipe(base, chosen)
    assert config.recipe == "v1"
    assert chosen.keys() <= RULES.keys()
    assert all(reason.rstrip().endswith(".") for reason in remarks_of(chosen).values())
    if data.object_px is not None:
        side, batch = config.data.chip_size, config.data.batch_size
        assert 16 <= side <= data.smallest_side
        assert config.data.chips_per_epoch is not None
        assert config.data.chips_per_epoch % batch == 0
        steps = config.data.chips_per_epoch // batch * config.trainer.epochs
        assert 100 <= steps <= 10_100
    assert (config.data.transform == "log") == (data.is_positive and data.skew >= 2)


@given(fingerprints())
def test_class_weights_are_the_square_roots_of_inverse_shares(data: Fingerprint) -> None:
    kwargs = derive(data)["loss"].value["kwargs"]
    counts = np.array(data.class_pixels, float)
    there = counts[counts > 0]
    is_rare = there.min() / there.sum() * len(there) < 0.5
    assert ("class_weights" in kwargs) == is_rare
    if is_rare:
        weights = np.array(kwargs["class_weights"])[counts > 0]
        expected = there**-0.5
        np.testing.assert_allclose(weights, expected / expected.mean(), rtol=6e-3)
        np.testing.assert_allclose(np.array(kwargs["class_weights"])[counts == 0], 1.0)


def test_init_writes_each_derived_value_below_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "town").mkdir()
    squares(tmp_path / "town")
    assert run(["init", str(tmp_path / "town"), "-o", str(tmp_path / "run.yaml")]) == 0, capsys.readouterr().err
    lines = [line.strip() for line in (tmp_path / "run.yaml").read_text(encoding="utf-8").splitlines()]
    config = RunConfig.load(tmp_path / "run.yaml")
    assert config.recipe == "v1"
    assert config.data.transform == "log"
    chip = lines.index(f"chip_size: {config.data.chip_size}")
    assert lines[chip - 1].startswith(f"# {config.data.chip_size}: objects are 12 px wide (median)")
    assert lines[lines.index("transform: log") - 1].startswith("# log: values are positive")
    assert config.early_stopping is None
    assert lines[lines.index("early_stopping: null") - 1] == "# null: the learning rate has to come down first."


def test_without_a_look_at_the_data_init_writes_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "town").mkdir()
    squares(tmp_path / "town")
    assert run(["init", str(tmp_path / "town"), "-o", str(tmp_path / "run.yaml"), "--no-check"]) == 0
    config = RunConfig.load(tmp_path / "run.yaml")
    assert config.recipe is None
    assert (config.data.chip_size, config.data.transform, config.scheduler) == (128, "linear", None)


def test_the_example_has_the_settings_that_the_recipe_derives_from_its_scene(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path))
    config = RunConfig.load(Path(__file__).parents[2] / "examples" / "atlanta" / "run.yaml")
    data = config.data.model_copy(update={"transform": "linear"})
    index = build_index(data)
    chosen = derive(replace(fingerprint_of(index, compute_statistics(index)), has_gpu=False))
    assert apply_recipe(config, chosen).model_dump(mode="json") == config.model_dump(mode="json")


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("3min", 180), ("1.5h", 5400), (" 2 min ", 120)])
def test_a_budget_is_a_time_with_its_unit(text: str, seconds: float) -> None:
    assert budget_s(text) == seconds


@pytest.mark.parametrize("text", ["3", "min", "0s", "-3min", "3 days", ""])
def test_another_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget.*give a time with its unit: 90s, 3min or 1\.5h"):
        budget_s(text)


def test_a_budget_becomes_steps_by_the_time_of_a_step_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "town").mkdir()
    squares(tmp_path / "town", side=160)
    arguments = ["init", str(tmp_path / "town"), "-o", str(tmp_path / "run.yaml"), "--force", "--budget"]
    assert run([*arguments, "2h"]) == 0
    said = capsys.readouterr().err
    steps = int(re.search(r"budget: ([\d,]+) optimizer steps of", said)[1].replace(",", ""))  # type: ignore[index]
    config = RunConfig.load(tmp_path / "run.yaml")
    assert config.data.chips_per_epoch == -(-steps // 20) * config.data.batch_size
    assert "as many as fit the budget on this machine." in (tmp_path / "run.yaml").read_text(encoding="utf-8")
    assert run([*arguments, "0.1s"]) == 2
    assert re.search(r"--budget.*fits \d+ optimizer steps of .* s; give \d+s or more", capsys.readouterr().err)
