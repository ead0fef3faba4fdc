"""Areas of classes, against the worked example of the paper that they come from, and against plain sums."""

from __future__ import annotations

import json
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ununennium.evaluation.areas import estimate_areas
from ununennium.evaluation.block_sums import BlockScene, BlockSums
from ununennium.evaluation.evaluation import Areas, Evaluation
from ununennium.evaluation.mapped import MappedArea
from ununennium.evaluation.measures import ClassMeasures
from ununennium.evaluation.records import EvaluationRecord
from ununennium.report.facts import Facts
from ununennium.report.findings import areas
from ununennium.runs.records import RunRecord

# Olofsson et al. 2014, section 5: sample counts, rows by map, columns by reference; map of ten million 30 m pixels.
CLASSES = ["deforestation", "forest gain", "stable forest", "stable non-forest"]
SAMPLE = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
MAPPED = [200_000, 150_000, 3_200_000, 6_450_000]
HA = 1e4


@pytest.fixture(scope="module")
def example():
    return estimate_areas(np.transpose(SAMPLE), MAPPED, CLASSES, mapped_m2=[900.0 * pixels for pixels in MAPPED])


def test_the_areas_of_the_paper_come_out(example):
    """Hectares and 95 % margins as published; 1.96 standard errors each."""
    assert [round(each.area_m2 / HA) for each in example.classes] == [21158, 11686, 285770, 581386]
    margins = [round(1.96 * each.area_se_m2 / HA) for each in example.classes]
    assert margins == pytest.approx([6158, 3756, 15510, 16282], abs=2)


def test_the_accuracies_of_the_paper_come_out(example):
    """Two digits, as published."""
    users = [(each.users_accuracy, 1.96 * each.users_accuracy_se) for each in example.classes]
    assert [(round(a, 2), round(e, 2)) for a, e in users] == [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    assert [round(each.producers_accuracy, 2) for each in example.classes] == [0.75, 0.85, 0.93, 0.96]
    assert (round(example.accuracy, 2), round(1.96 * example.accuracy_se, 2)) == (0.95, 0.02)


def test_the_standard_errors_are_those_of_samples_drawn_again_and_again(example):
    """Each stratum's sample is drawn anew 20,000 times; what the estimates then scatter is what the equations say."""
    rng, sample = np.random.default_rng(0), np.array(SAMPLE)
    drawn = np.stack([rng.multinomial(row.sum(), row / row.sum(), size=20_000) for row in sample], axis=1)
    weight = np.array(MAPPED) / sum(MAPPED)
    part = weight[:, None] * drawn / sample.sum(1)[:, None]
    share, right = part.sum(1), part.diagonal(axis1=1, axis2=2)
    assert share.std(0) == pytest.approx([each.share_se for each in example.classes], rel=0.03)
    assert right.sum(1).std() == pytest.approx(example.accuracy_se, rel=0.03)
    assert (right / share).std(0) == pytest.approx(
        [each.producers_accuracy_se for each in example.classes], rel=0.1
    )  # linearised


def test_a_class_that_is_mapped_and_has_no_label_there_leaves_everything_unknown():
    found = estimate_areas([[5, 0], [0, 0]], [10, 10], ["a", "b"])
    assert all(np.isnan(each.share) for each in found.classes)


def test_a_class_that_is_not_mapped_has_what_its_labels_on_other_classes_say():
    found = estimate_areas([[8, 0], [2, 0]], [100, 0], ["a", "b"])
    assert [each.share for each in found.classes] == pytest.approx([0.8, 0.2])
    assert found.mapped_m2 is None
    assert found.classes[0].area_m2 is None


@given(arrays(np.int64, (3, 3), elements=st.integers(1, 500)), st.lists(st.integers(1, 10**6), min_size=3, max_size=3))
def test_shares_sum_to_one_and_labels_in_proportion_to_the_map_are_simply_counted(confusion, mapped):
    found = estimate_areas(confusion, mapped, ["a", "b", "c"])
    assert sum(each.share for each in found.classes) == pytest.approx(1.0)
    in_proportion = estimate_areas(confusion, confusion.sum(0).tolist(), ["a", "b", "c"])
    assert [each.share for each in in_proportion.classes] == pytest.approx(
        (confusion.sum(1) / confusion.sum()).tolist()
    )


def test_the_finite_population_correction_is_that_of_samples_without_replacement():
    """correctness 106: 60 of 150 and 90 of 300 mapped pixels have labels, drawn again and again; Cochran 1977, 2.6."""
    rng = np.random.default_rng(0)
    truth = [np.repeat([0, 1], [120, 30]), np.repeat([0, 1], [45, 255])]
    drawn = np.array([[np.bincount(rng.permutation(of)[:n], minlength=2) for of, n in zip(truth, (60, 90), strict=True)]
                      for _ in range(4000)])  # fmt: skip
    weight = np.array([150, 300]) / 450
    scatter = (weight[:, None] * drawn / drawn.sum(2, keepdims=True)).sum(1).std(0)
    found = [estimate_areas(sample.T, [150, 300], ["a", "b"]) for sample in drawn[:300]]
    for number in range(2):
        assert np.mean([each.classes[number].share_se for each in found]) == pytest.approx(scatter[number], rel=0.06)
    accuracy = (weight * drawn.diagonal(axis1=1, axis2=2) / drawn.sum(2)).sum(1).std()
    assert np.mean([each.accuracy_se for each in found]) == pytest.approx(accuracy, rel=0.06)


@pytest.mark.parametrize("pixels_per_label", [1, 64**2])
def test_a_holdout_that_is_labelled_all_over_has_no_sampling_error(pixels_per_label):
    """correctness 106: pixels, or patches that a label of its own stands for; also a class of one pixel."""
    confusion = np.array([[90, 10, 0], [5, 300, 0], [0, 0, 1]])
    mapped = confusion.sum(0) * pixels_per_label
    found = estimate_areas(confusion, mapped.tolist(), ["a", "b", "c"], pixels_per_label=pixels_per_label)
    assert found.accuracy_se == 0.0
    for each in found.classes:
        assert (each.share_se, each.users_accuracy_se, each.producers_accuracy_se) == (0.0, 0.0, 0.0)
    both, its = confusion[:2, :2], mapped[:2]
    half = estimate_areas(both, (2 * its).tolist(), ["a", "b"], pixels_per_label=pixels_per_label)
    plain = estimate_areas(both, (10**9 * its).tolist(), ["a", "b"])
    assert half.classes[0].share_se == pytest.approx(plain.classes[0].share_se * 0.5**0.5, rel=1e-6)


def mapped_blocks(rng: np.random.Generator, number: int) -> Areas:
    """The evaluation of a map whose accuracy differs from block to block, of which every pixel has a label."""
    right = np.clip(rng.normal(0.75, 0.12, (number, 2)), 0, 1)
    hits = np.rint(right * 200)
    sums = np.stack([hits[:, 0], 200 - hits[:, 0], 200 - hits[:, 1], hits[:, 1]], 1)
    measures = ClassMeasures(["a", "b"], boundaries=False)
    rows = np.arange(number)
    units = BlockSums("patches", 20, (BlockScene("s", "s", (0, 0)),), 0 * rows, rows, rows, sums)
    mapped = MappedArea(2)
    mapped.add(Counted(sums.reshape(-1, 2, 2).sum((0, 1)).astype(np.int64), None))
    return mapped.areas(units, measures)


class Counted(NamedTuple):
    """What a tally of a scene has."""

    pixels: np.ndarray
    m2: np.ndarray | None


@pytest.mark.parametrize("number", [6, 20])
def test_intervals_by_blocks_hold_the_accuracies_that_standard_errors_miss(number):
    """correctness 106: nominal 95 %; the sampling error is 0, and says nothing of other blocks."""
    rng = np.random.default_rng(number)
    held = np.zeros(3)
    for _ in range(80):
        found = mapped_blocks(rng, number)
        assert found.accuracy_se == 0.0
        first = found.classes[0]
        intervals = found.accuracy_interval, first.users_accuracy_interval, first.producers_accuracy_interval
        held += [low <= 0.75 <= high for low, high in intervals]
    assert (held / 80 >= 0.86).all()


def test_fewer_than_six_blocks_have_no_interval_and_the_report_says_so():
    """correctness 106."""
    found = mapped_blocks(np.random.default_rng(0), 5)
    assert found.accuracy_interval is None
    assert found.classes[0].share_interval is None
    text = str(areas_section(found))
    assert "margins here are the sampling error alone" in text
    assert "95 % sampling error" in text
    assert "margins here" not in str(areas_section(mapped_blocks(np.random.default_rng(0), 6)))


def areas_section(found: Areas) -> object:
    evaluation = Evaluation(["a", "b"], [], {}, 1, "s", "d", areas=found)
    return areas(Facts(RunRecord(), evaluation=EvaluationRecord(challenger=evaluation)))


def test_areas_survive_json_and_those_of_earlier_versions_load():
    """correctness 106."""
    found = mapped_blocks(np.random.default_rng(0), 8)
    stored = Evaluation(["a", "b"], [], {}, 1, "s", "d", areas=found).to_json()
    assert Evaluation.from_json(json.loads(json.dumps(stored))).areas == found
    for each in stored["areas"]["classes"]:
        del each["users_accuracy_interval"], each["producers_accuracy_interval"]
    del stored["areas"]["accuracy_interval"]
    assert Evaluation.from_json(stored).areas.classes[0].share == found.classes[0].share
