"""Areas of classes, against the worked example of the paper that they come from, and against plain sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ununennium.evaluation.areas import estimate_areas

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
