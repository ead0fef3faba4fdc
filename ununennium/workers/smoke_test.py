"""The smoke test of a promotion: what the storage holds must make of a chip what the judged model made of it.

``python -m ununennium.workers.smoke_test ARTIFACT_URL PROBE ANSWER_JSON [RUN_JSON]`` loads the artefact in a process
that has seen nothing of the run but which model its configuration names, predicts the chip, and writes
``{"passed", "words"}``: how far its logits are from those that were written when the model was judged. Where the test
cannot be made (storage away, no memory) it writes ``error.json`` beside the answer instead: that says nothing of the
artefact.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.artifact_code import NamesCode
from ununennium.config import DataConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.splits.splits import HOLDOUT
from ununennium.errors import CheckpointError, StorageError
from ununennium.files import write_json
from ununennium.prediction.windows import window_reader
from ununennium.processes.reporting import report_error
from ununennium.runs.directory import RunDirectory
from ununennium.training.batches import prediction_of

RELATIVE, ABSOLUTE = 1e-3, 1e-4
"""How far logits may differ: another processor or version of torch adds in another order."""


def write_probe(path: Path, model: nn.Module, index: ChipIndex, statistics: BandStatistics, config: DataConfig) -> None:
    """Write a chip of the holdout, and the logits that ``model``, on the CPU, makes of it.

    Args:
        path: a safetensors file with ``chip``, float32 as the model takes one, and ``logits``.
        model: as it was judged, on the CPU.
        index: scenes and split.
        statistics: for the normalisation.
        config: the data section of the run.
    """
    from safetensors.torch import save_file

    chip = torch.from_numpy(np.ascontiguousarray(_chip(index, statistics, config.chip_size), np.float32))[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"chip": chip, "logits": _logits(model, chip)}, str(path))


def compare(url: str, probe: Path, trusted: Sequence[NamesCode] = ()) -> float:
    """The largest difference of the logits that the artefact at ``url`` gives for the chip of ``probe``.

    Args:
        url: of the artefact.
        probe: file that ``write_probe`` wrote.
        trusted: import paths that the run's configuration names, see ``load_artifact``.

    Raises:
        CheckpointError: the artefact cannot be loaded, or its logits are others.
        ConfigError: its model cannot be built.
    """
    from safetensors.torch import load_file

    stored = load_file(str(probe), device="cpu")
    model, _ = load_artifact(
        url, cached=False, trusted=trusted
    )  # what the storage holds is asked about, not a copy of it
    logits = _logits(model, stored["chip"])
    expected = stored["logits"]
    if logits.shape != expected.shape:
        raise CheckpointError(f"it gives {tuple(logits.shape)}, and gave {tuple(expected.shape)} when it was judged")
    difference = float((logits - expected).abs().max())
    if not torch.allclose(logits, expected, rtol=RELATIVE, atol=ABSOLUTE * max(1.0, float(expected.abs().max()))):
        raise CheckpointError(f"its logits differ by up to {difference:.3g} from those it was judged by")
    return difference


def _chip(index: ChipIndex, statistics: BandStatistics, size: int) -> np.ndarray:
    """The first chip of the scenes that touches the holdout."""
    for scene in index.scenes:
        for row in range(0, scene.height, size):
            inside = index.split.folds(scene, row, 0, min(size, scene.height - row), scene.width) == HOLDOUT
            columns = np.flatnonzero(inside.any(0))
            if len(columns):
                read = window_reader(index.reader(scene), statistics, row, int(columns[0]), layout=index.layout)
                return read(0, 0, size, size)[0]
    raise AssertionError("the holdout has been evaluated, so it lies somewhere")


def _logits(model: nn.Module, chip: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        logits: Tensor = prediction_of(model(chip)).float().contiguous()
    return logits


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 if the test was made, whether it passed or not."""
    url, probe, answer, *run_file = sys.argv[1:] if arguments is None else arguments
    try:
        trusted = [RunDirectory.open(each).config().model for each in run_file]
        difference = compare(url, Path(probe), trusted)
    except Exception as error:
        if _says_nothing(error):
            report_error(Path(answer).with_name("error.json"), 0, error)
            return 1
        words = f"{type(error).__name__}: {' '.join(str(error).split())}"
        write_json(Path(answer), {"passed": False, "words": words})
        return 0
    write_json(Path(answer), {"passed": True, "words": f"logits within {difference:.3g} of those it was judged by"})
    return 0


def _says_nothing(error: Exception) -> bool:
    """Tell whether an error is of the machine or the storage, and not of the artefact."""
    of_machine = isinstance(error, StorageError | MemoryError | OSError | torch.OutOfMemoryError)
    return of_machine and not isinstance(error, FileNotFoundError)


if __name__ == "__main__":
    sys.exit(main())
