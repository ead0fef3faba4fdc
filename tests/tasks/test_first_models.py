"""A first model that has learnt nothing is not promoted, from the command line's stages to the report."""

from __future__ import annotations

import pytest

from ununennium.checkpoints.registry import Registry
from ununennium.report.run import write_report


@pytest.mark.slow
def test_a_first_model_that_is_worth_nothing_is_not_promoted_and_the_report_shows_why(scenes, run_config, run_through):
    """correctness 109"""
    data = {"scenes": [scenes.change(num_dates=1)], "classes": ["same", "changed"]}
    still = {"target": "torch.optim:SGD", "kwargs": {"lr": 1e-12}}
    config = run_config(
        data, optimizer=still, trainer={"epochs": 1}, gate={"metric": "IoU.changed", "first": "baseline"}
    )
    run, summary = run_through(config)
    assert summary.verdict == "not_promoted"
    assert "does not beat a linear classifier of single pixels" in summary.reason
    assert Registry(run.storage, "tiny").current() is None
    page = write_report(run).read_text(encoding="utf-8")
    assert "does not beat a linear classifier of single pixels" in page
    assert "first model; baseline 0." in page
