"""Each table of the tasks' behaviour has every kind of prediction, and no other."""

from __future__ import annotations

from typing import get_args

import pytest

from ununennium.data.targets.targets import TARGETS
from ununennium.evaluation import chips, scores
from ununennium.prediction.map_kinds import MAP_KINDS
from ununennium.tasks import TASKS, Kind
from ununennium.training.callbacks.validation_metrics import VALIDATION_METRICS

KINDS = set(get_args(Kind))


@pytest.mark.parametrize("table", [TARGETS, VALIDATION_METRICS, MAP_KINDS, scores.SCORES, chips.SCORES])
def test_a_table_has_exactly_the_kinds(table) -> None:
    assert set(table) == KINDS


def test_every_kind_is_that_of_a_task() -> None:
    assert {task.kind for task in TASKS.values()} == KINDS


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_validation_and_evaluation_know_the_metric_of_the_gate(task) -> None:
    assert task.gate_metric in (*task.per_class, *task.overall)
    assert set(task.headline) <= {*task.per_class, *task.overall}
