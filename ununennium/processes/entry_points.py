"""The programs that run in processes of their own: no other string of the library names a module above it."""

from __future__ import annotations

from enum import StrEnum


class Worker(StrEnum):
    """The module behind ``python -m`` for each program."""

    TRAIN = "ununennium.workers.train"
    EVALUATE = "ununennium.workers.evaluate"
    EVALUATE_MODEL = "ununennium.workers.evaluate_model"
    SMOKE_TEST = "ununennium.workers.smoke_test"
    MAP = "ununennium.workers.map"
