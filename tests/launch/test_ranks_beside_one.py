"""Two ranks beside one process with batches twice as large: the same, but for what is computed of a rank's own batch.

That is a BatchNorm's statistics and a Dice loss: with either, losses of Atlanta's buildings differ by 1 to 4 %.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from ununennium.launch.training import launch
from ununennium.runs.directory import RunDirectory


def history(prepared: Callable[..., RunDirectory], norm: str, nproc: int) -> list[dict[str, float]]:
    """Metrics of each epoch; the batches of all ranks have eight chips together."""
    model = {"target": "tests.launch.normalised_model:Network", "kwargs": {"norm": norm}}
    run = prepared(
        "loss={target: 'ununennium.losses:CrossEntropyLoss', kwargs: {}}",
        f"model={json.dumps(model)}", f"launcher.nproc_per_node={nproc}", f"data.batch_size={8 // nproc}",
        "data.chips_per_epoch=32", "trainer.epochs=3",
    )  # fmt: skip
    launch(run, nproc=nproc, check=False, on_line=lambda line: None).require_usable()
    return [json.loads(line) for line in run.metrics_file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_two_ranks_train_as_one_process_if_batch_norm_is_synchronised(prepared: Callable[..., RunDirectory]) -> None:
    one, two = (history(prepared, "all ranks", nproc) for nproc in (1, 2))
    assert len(one) == len(two) == 3
    for name in ("train_loss", "val_loss"):
        assert [row[name] for row in two] == pytest.approx([row[name] for row in one], rel=1e-6)
    assert one[0]["val_loss"] != one[-1]["val_loss"]
