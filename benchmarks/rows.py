"""The rows of the comparison: what is measured against whom, and what is to be reached."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.harness import EFFORTS, Effort


class Row(NamedTuple):
    """One comparison.

    Attributes:
        name: for ``--only``.
        work: what is done.
        contenders: who does it.
        aim: what is to be reached.
        module: whose ``measure(effort)`` does the measurement, in a process of its own.
        seconds: how long it takes on two cores with each of ``EFFORTS``.
    """

    name: str
    work: str
    contenders: str
    aim: str
    module: str
    seconds: tuple[int, int, int]

    def about_s(self, effort: Effort) -> int:
        """Seconds that it takes on two quiet cores."""
        return self.seconds[EFFORTS.index(effort)]

    def limit_s(self, effort: Effort) -> float:
        """Seconds after which it is given up: a busy machine may take several times as long as a quiet one."""
        return 120.0 + 4 * self.about_s(effort)


ROWS = {
    row.name: row
    for row in (
        Row(
            "step",
            "cost of a step: tiny MLP, small U-Net; clip, running loss, three idle callbacks",
            "hand-written loop, Ignite, Accelerate, Lightning (as it comes, barebones), ununennium",
            "<= 25 µs over the hand-written loop; <= 1.01 of its time on the U-Net",
            "benchmarks.step_cost",
            (10, 70, 300),
        ),
        Row(
            "ddp",
            "two ranks, windows of two batches",
            "hand-written DistributedDataParallel, Lightning, ununennium",
            ">= 0.98 of the hand-written script's steps per second",
            "benchmarks.ddp_speed",
            (30, 150, 420),
        ),
        Row(
            "loader",
            "shuffled chips of 4 x 256 x 256 from a GeoTIFF of 4096 x 4096, one core",
            "plain rasterio, TorchGeo, ununennium; decoding alone",
            ">= 2,000 chips per second in 96 MB; at least 3 times TorchGeo's with every layout of the file",
            "benchmarks.loader_speed",
            (40, 110, 420),
        ),
        Row(
            "checkpoint",
            "a checkpoint: 300 MB to S3 at 25 MB/s; 50, 200 and 500 MB to a folder and to S3",
            "torch.save, Lightning, torch.distributed.checkpoint, ununennium (spooled, snapshot); a plain put",
            "stands still <= 0.6 s spooled, <= 5 % of a blocking save; >= 0.9 of the speed "
            "meanwhile; durable within 1.2 of a plain put; <= 64 MB spooled",
            "benchmarks.checkpoint_cost",
            (90, 250, 1300),
        ),
        Row(
            "scene",
            "a map of 4096 x 4096 x 4 pixels in 10 classes, file to file",
            "bare model, MONAI, TerraTorch, ununennium",
            ">= 0.90 of the bare model's pixels per second, <= 200 MB, flat in the number of rows",
            "benchmarks.scene_inference",
            (30, 150, 1500),
        ),
        Row(
            "flow",
            "overhead of Prefect: wall time of a small retraining without its subprocesses",
            "the library without Prefect, the flow on its own server, the flow on a running one",
            "<= 6 s on its own server, <= 3 s on a running one",
            "benchmarks.flow_overhead",
            (60, 150, 420),
        ),
        Row(
            "accuracy",
            "accuracy at equal work: Atlanta's buildings, Indian Pines in blocks; three seeds",
            "loop by hand, Lightning and smp, ununennium as it comes",
            "Atlanta's median >= 0.45; no worse than the others' spread; time to the same <= 1",
            "benchmarks.accuracy",
            (40, 300, 1500),
        ),
        Row(
            "growth",
            "chips, scenes, epochs and promotions, 1, 10 and 100 times as many",
            "ununennium",
            "linear or flat: time of each <= 1.5 at 100 times as many, memory <= 64 MB more",
            "benchmarks.growth",
            (30, 40, 240),
        ),
    )
}
