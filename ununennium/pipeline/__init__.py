"""The stages of a run, in order: prepare, train, evaluate, promote. The command line and the flow are made of these.

No Prefect here, and no torch: training and evaluation run in processes of their own.
"""

from typing import Any

from ununennium.moved import former_name
from ununennium.pipeline.plan import RunPlan, check, component, make_plan, prepare
from ununennium.pipeline.promotion import promote
from ununennium.pipeline.stages import ATTEMPTS, evaluate, go_on, judge, refresh, settle, train, waits
from ununennium.pipeline.summary import champion_summary, report, summarise

__all__ = [
    "ATTEMPTS",
    "RunPlan",
    "champion_summary",
    "check",
    "component",
    "evaluate",
    "go_on",
    "judge",
    "make_plan",
    "prepare",
    "promote",
    "refresh",
    "report",
    "settle",
    "summarise",
    "train",
    "waits",
]


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)
