"""The rows of the comparison: what is measured against whom, and what is to be reached."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One comparison.

    Attributes:
        name: for ``--only``.
        work: what is done.
        contenders: who does it.
        aim: what is to be reached.
        module: whose ``measure(quick)`` does the measurement, in a process of its own.
        about_s: how long it takes, in seconds, on two cores; the second number is that of ``--quick``.
    """

    name: str
    work: str
    contenders: str
    aim: str
    module: str
    about_s: tuple[int, int]

    def limit_s(self, quick: bool) -> float:
        """Seconds after which it is given up: a busy machine may take several times as long as a quiet one."""
        return 120.0 + 4 * self.about_s[quick]


ROWS = {
    row.name: row
    for row in (
        Row(
            "step",
            "cost of a step: tiny MLP, small U-Net; clip, running loss, three idle callbacks",
            "hand-written loop, Ignite, Accelerate, Lightning (as it comes, barebones), ununennium",
            "<= 25 µs over the hand-written loop; <= 1.01 of its time on the U-Net",
            "benchmarks.step_cost",
            (110, 15),
        ),
        Row(
            "ddp",
            "two ranks, windows of two batches",
            "hand-written DistributedDataParallel, Lightning, ununennium",
            ">= 0.98 of the hand-written script's steps per second",
            "benchmarks.ddp_speed",
            (110, 15),
        ),
    )
}
