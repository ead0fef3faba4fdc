"""Blocks are dealt by what they hold, and are as large as the labels allow."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ununennium.data import HOLDOUT, TRAIN, VALIDATION, build_index
from ununennium.data.splits.stratify import assign_blocks, choose_block_size, coarsen, spread
from ununennium.errors import DataError

SHARES = {TRAIN: 0.6, VALIDATION: 0.2, HOLDOUT: 0.2}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31), num_blocks=st.integers(150, 400), num_classes=st.integers(1, 6),
    patchiness=st.floats(0.05, 1.0),
)  # fmt: skip
def test_every_fold_gets_its_share_of_every_class_when_blocks_are_plenty(seed, num_blocks, num_classes, patchiness):
    """Within a fiftieth of the class, or three of its fullest blocks, whichever is more."""
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 1000, (num_blocks, num_classes)) * (rng.random((num_blocks, num_classes)) < patchiness)
    blocks = {("g", n // 20, n % 20): counts for n, counts in enumerate(table)}
    dealt = assign_blocks(blocks, SHARES, seed)
    for number in range(num_classes):
        total = table[:, number].sum()
        for fold, share in SHARES.items():
            got = sum(blocks[block][number] for block, its in dealt.items() if its == fold)
            assert abs(got - share * total) <= max(0.02 * total, 3 * table[:, number].max())


def test_spread_is_the_effective_number_of_blocks():
    blocks = {("g", 0, n): np.array([5, int(n == 3), 9 * (n < 2), 0]) for n in range(10)}
    np.testing.assert_allclose(spread(blocks), [10, 1, 2, 0])


def test_coarser_blocks_hold_the_same_pixels():
    rng = np.random.default_rng(0)
    blocks = {("g", int(r), int(c)): rng.integers(0, 9, 3) for r in range(-5, 6) for c in range(-3, 4)}
    coarse = coarsen(blocks, 4)
    assert coarse.keys() == {("g", r, c) for r in (-2, -1, 0, 1) for c in (-1, 0)}
    np.testing.assert_array_equal(sum(coarse.values()), sum(blocks.values()))
    np.testing.assert_array_equal(
        coarse["g", -1, 0], sum(b for (_, r, c), b in blocks.items() if -4 <= r < 0 and 0 <= c < 4)
    )


@pytest.mark.parametrize(("width", "expected"), [(1, 16), (2, 32), (4, 64), (16, 128)])
def test_blocks_are_as_large_as_the_rarest_class_allows(width, expected):
    """A class in 3 x 2 patches of ``width`` x ``width`` blocks of 16 pixels, in a plain of another class."""
    small = {("g", r, c): np.array([256, 0]) for r in range(160) for c in range(160)}
    for r in range(3 * width):
        for c in range(2 * width):
            small["g", r, c] = np.array([128, 128])
    assert choose_block_size(small, 16, 3) == (expected, True)


def test_labels_in_too_few_places_get_the_finest_blocks_and_a_warning(make):
    """Four shapes of 16 x 16 pixels, each of one class, in four blocks of 16."""
    scene = make.scene()
    label = np.full((1, 256, 256), 255, np.uint8)
    label[0, :16, :16], label[0, :16, 208:224], label[0, 208:224, :16], label[0, 208:224, 208:224] = 0, 1, 0, 1
    scene["label"] = make.raster("sparse.tif", label)
    with pytest.warns(UserWarning, match=r"blocks of only 8 pixels.*data\.split\.block_size"):
        index = build_index(make.config(scene, split={"block_size": None, "buffer": None}))
    assert (index.split.block_size, index.split.buffer) == (8, 1)
    assert all(min(counts) > 0 for counts in index.labelled.values())


def test_labels_everywhere_get_large_blocks(make):
    index = build_index(make.config(make.scene(size=1024), split={"block_size": None, "buffer": None}))
    assert (index.split.block_size, index.split.buffer) == (128, 16)


def _shapes(make, kinds, **more):
    features = [
        {
            "type": "Feature", "properties": {"kind": kind, "by": "someone", **more},
            "geometry": {"type": "Polygon", "coordinates": [
                [[500000 + 320 * n, 5000000], [500320 + 320 * n, 5000000], [500320 + 320 * n, 4997440],
                 [500000 + 320 * n, 4997440], [500000 + 320 * n, 5000000]]]},
        }
        for n, kind in enumerate(kinds)
    ]  # fmt: skip
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path = make.folder / "shapes.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    return str(path)


@pytest.mark.parametrize(
    ("kinds", "settings", "expected"),
    [
        (["even", "odd", "odd"], {}, ("kind", "unlabelled")),  # the first class has shapes: it is no background
        (["odd", "odd"], {}, ("kind", "background")),
        (["even", "odd"], {"outside": "background"}, ("kind", "background")),
        (["0", "1"], {"label_field": "kind"}, ("kind", "unlabelled")),
        (["lake", "odd"], {"label_value": 1}, (None, "background")),  # not all of them are classes
    ],
)
def test_vector_labels_say_themselves_what_they_are(make, kinds, settings, expected):
    scene = {"image": make.scene()["image"], "label": _shapes(make, kinds), **settings}
    scene = build_index(make.config(scene)).scenes[0]
    assert (scene.label_field, scene.outside) == expected


def test_two_attributes_of_class_names_are_not_chosen_between(make):
    scene = {"image": make.scene()["image"], "label": _shapes(make, ["odd", "even"], before="odd")}
    with pytest.raises(DataError, match=r"'before', 'kind'|'kind', 'before'.*name one in label_field"):
        build_index(make.config(scene))
    chosen = build_index(make.config({**scene, "label_field": "kind"})).scenes[0]
    assert chosen.label_field == "kind"


def test_two_attributes_of_equal_class_names_are_one(make):
    scene = {"image": make.scene()["image"], "label": _shapes(make, ["odd", "odd"], before="odd")}
    assert build_index(make.config(scene)).scenes[0].label_field in ("kind", "before")
