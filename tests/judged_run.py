"""A run that was judged, with everything that an evaluation can have, and markup in every name of a user's."""

from __future__ import annotations

import json
from pathlib import Path

from ununennium.config import RunConfig
from ununennium.evaluation.areas import estimate_areas
from ununennium.evaluation.evaluation import Calibration, Evaluation, Slice
from ununennium.files import write_json
from ununennium.runs.directory import RunDirectory

HOSTILE = "<script>alert(1)</script>\"'&"


def new_run(storage: Path) -> RunDirectory:
    """A run of which nothing has been done."""
    scene = {"image": "a.tif", "name": HOSTILE}
    settings = {"name": "roads", "storage": str(storage), "data": {"scenes": [scene], "classes": ["ground", HOSTILE]}}
    return RunDirectory.create(RunConfig.parse(settings))


def measured(share: float, score: float) -> dict:
    """An evaluation of two classes with everything that one can have."""
    bins = [{"lower": 0.5, "upper": 1.0, "count": 110, "confidence": 0.8, "accuracy": share}]
    metrics = {"IoU": {"mean": score, "ground": 0.9, HOSTILE: 2 * score - 0.9}, "kappa": 0.4}
    areas = estimate_areas([[90, 10], [5, 5]], [95, 15], ["ground", HOSTILE], mapped_m2=[95e4, 15e4])
    return Evaluation(
        ["ground", HOSTILE], [[90, 10], [5, 5]], metrics, 110, "s", "d",
        calibration=Calibration(1.5, 0.01, 0.2, bins, bins), areas=areas, worst=[f"worst scene: {HOSTILE}"],
        slices=[Slice("scene", HOSTILE, 110, 3, metrics), Slice("sensor", f"of {HOSTILE}", 7, 1, metrics)],
    ).to_json()  # fmt: skip


def evaluated(run: RunDirectory) -> None:
    """Write what judging leaves."""
    sides = {"challenger": measured(0.7, 0.5), "champion": measured(0.6, 0.4)}
    write_json(run.evaluation_file, {**sides, "generation": 1, "version": "v", "champion_error": None, "epoch": 1})
    check = {"name": f"floor IoU.{HOSTILE}", "value": 0.1, "threshold": 0.3, "baseline": None, "passed": False}
    better = {"name": "improvement of IoU", "value": 0.5, "threshold": 0.4, "baseline": 0.4, "passed": True,
              "reason": "better", "interval": [0.0123, 0.1876]}  # fmt: skip
    bootstrap = {"confidence": 0.95, "resamples": 10, "seed": 0, "places": 12, "block_size": 64}
    gate = {"verdict": "not_promoted", "reason": HOSTILE, "checks": [{**check, "reason": HOSTILE}, better]}
    write_json(run.gate_file, {**gate, "bootstrap": bootstrap, "notes": [HOSTILE]})
    write_json(run.summary_file, {"verdict": "not_promoted", "reason": HOSTILE, "stop_reason": "completed"})
    rows = [{"epoch": n, "train_loss": 1 / n, "val_loss": None, f"val_IoU_{HOSTILE}": 0.1} for n in (1, 2)]
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"epoch": 3, "torn')
