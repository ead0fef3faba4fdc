"""The best and the worst chips of a holdout, and their pictures: known errors, drawn by hand, are found and shown."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from PIL import Image

from ununennium.evaluation.chip_pictures import draw_chips
from ununennium.evaluation.chips import score_chips


def test_the_chip_with_errors_is_the_worst_and_its_score_is_the_mean_iou(predicted):
    index, folder, wrong = predicted
    chips = score_chips(index, folder, 32)
    worst = min(chips, key=lambda chip: chip.score)
    scene = index.scenes[worst.scene_index]
    assert (scene.name, worst.row, worst.col) == wrong
    truth = index.labels(scene).read(worst.row, worst.col, 32, 32)
    with rasterio.open(folder / f"{scene.name}.tif") as dataset:
        drawn = dataset.read(1)[worst.row : worst.row + 32, worst.col : worst.col + 32]
    judged = (truth != 255) & (drawn != 255)
    expected = [
        ((truth == k) & (drawn == k) & judged).sum() / (((truth == k) | (drawn == k)) & judged).sum() for k in (0, 1)
    ]
    assert worst.score == pytest.approx(np.mean(expected), abs=1e-12)
    assert 0 < worst.score < 0.6
    assert all(chip.score == 1 for chip in chips if chip is not worst)


def test_pictures_show_where_the_errors_are_and_chips_json_names_them(predicted, tmp_path):
    index, folder, wrong = predicted
    out = tmp_path / "pictures"
    draw_chips(index, folder, 32, out)
    written = json.loads((out / "chips.json").read_text())
    worst = next(entry for entry in written["chips"] if entry["kind"] == "worst")
    assert (worst["scene"], worst["row"], worst["col"]) == wrong
    assert list(worst["files"]) == ["Image", "Label", "Prediction", "Error"]
    error = np.asarray(Image.open(out / worst["files"]["Error"]))
    assert error.shape == (32, 32, 3)
    coloured = (error.max(-1).astype(int) - error.min(-1)) > 0  # what is right is grey, and what is not judged white
    assert coloured[:16].sum() > 200
    assert not coloured[16:].any()
    assert len({entry["files"]["Image"] for entry in written["chips"]}) == len(written["chips"])
    for entry in written["maps"]:
        folds = np.asarray(Image.open(out / entry["folds"]))
        assert folds.shape == (entry["height"], entry["width"], 3)
