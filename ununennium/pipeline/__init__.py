"""The stages of a run, in order: prepare, train, evaluate, promote. The command line and the flow are made of these.

No Prefect here, and no torch: training and evaluation run in processes of their own.
"""

from typing import Any

from ununennium.moved import former_name
from ununennium.pipeline.plan import RunPlan, check, component, make_plan, prepare
from ununennium.pipeline.promotion import promote
from ununennium.pipeline.stages import (
    ATTEMPTS,
    apply_answer,
    continue_approval,
    evaluate,
    evaluate_and_promote,
    is_awaiting_approval,
    refresh,
    train,
)
from ununennium.pipeline.summary import champion_summary, report, summarise

__all__ = [
    "ATTEMPTS",
    "RunPlan",
    "apply_answer",
    "champion_summary",
    "check",
    "component",
    "continue_approval",
    "evaluate",
    "evaluate_and_promote",
    "is_awaiting_approval",
    "make_plan",
    "prepare",
    "promote",
    "refresh",
    "report",
    "summarise",
    "train",
]


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)
