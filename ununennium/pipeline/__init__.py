"""The stages of a run, in order: prepare, train, evaluate, promote. The command line and the flow are made of these.

No Prefect here, and no torch: training and evaluation run in processes of their own.
"""

from ununennium.pipeline.stages import (
    ATTEMPTS,
    Plan,
    champion_summary,
    check,
    component,
    evaluate,
    go_on,
    judge,
    make_plan,
    prepare,
    promote,
    refresh,
    report,
    settle,
    summarise,
    train,
    waits,
)

__all__ = [
    "ATTEMPTS",
    "Plan",
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
