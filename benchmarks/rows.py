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
        Row(
            "loader",
            "chips of 4 x 256 x 256 per second from GeoTIFF, one core",
            "plain rasterio, TorchGeo, ununennium",
            ">= 2,000 a second shuffled in 96 MB; every layout at least 3 x TorchGeo",
            "benchmarks.loader_speed",
            (150, 15),
        ),
        Row(
            "flow",
            "cost of orchestration beside training and evaluation",
            "without Prefect, the flow with its own server, the flow on a running server",
            "<= 6 s with its own server, <= 3 s on a running one",
            "benchmarks.flow_overhead",
            (150, 40),
        ),
        Row(
            "accuracy",
            "accuracy at equal work: Atlanta buildings, Indian Pines by blocks, three seeds",
            "hand-written loop, Lightning with smp, ununennium as it comes",
            "Atlanta: median IoU >= 0.45, time to the same IoU <= 1.0; Indian Pines: within noise or better",
            "benchmarks.accuracy",
            (420, 20),
        ),
        Row(
            "growth",
            "1, 10 and 100 times as many chips, scenes, epochs, runs in the registry",
            "ununennium",
            "time and memory linear or flat",
            "benchmarks.growth",
            (120, 20),
        ),
    )
}
