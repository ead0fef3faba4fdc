"""A promoted model as an ONNX file, for runtimes that know nothing of PyTorch; checked before it is written."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ununennium.checkpoints.contract import ModelContract
from ununennium.errors import CheckpointError, ConfigError
from ununennium.files import replaced
from ununennium.tasks import TASKS
from ununennium.training.batches import prediction_of

TOLERANCE = 1e-4
"""Tolerance of an output against PyTorch's, over the larger of 1 and the largest output."""
_BATCHES = (1, 3)


class WithNormalisation(nn.Module):
    """A model that takes pixels as they are in the file, by the statistics of its contract.

    Args:
        model: from normalised pixels to logits or values.
        contract: contract of the model.
    """

    mean: Tensor
    std: Tensor
    log_floor: Tensor

    def __init__(self, model: nn.Module, contract: ModelContract) -> None:
        super().__init__()
        self.model = model
        dates = contract.dates_as_channels
        for name in ("mean", "std", "log_floor"):
            values = torch.tensor(list(contract.statistics.get(name, ())) * dates, dtype=torch.float32)
            self.register_buffer(name, values[:, None, None])

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, C, H, W), or (N, T, C, H, W) of a stack of dates, to what the model gives; NaN is without data."""
        if len(self.log_floor):
            pixels = torch.maximum(pixels, self.log_floor).log()  # NaN stays NaN
        normalised = (pixels - self.mean) / self.std
        output = self.model(torch.where(torch.isnan(normalised), torch.zeros_like(normalised), normalised))
        prediction: Tensor = prediction_of(output)
        return prediction


def export_onnx(model: nn.Module, contract: Mapping[str, Any], file: Path, *, tile: int | None = None) -> float:
    """Write ``model`` as an ONNX file, whole or not at all, after ONNX Runtime has given what PyTorch gives.

    The input ``pixels`` is float32 (N, C, tile, tile), or (N, T, C, tile, tile) of a stack of dates: pixels as they are
    in the file, in the order of the contract's bands, and NaN where there is no data. The output ``logits``, or
    ``values`` of a regression, is what the model gives, before any softmax or temperature. The file's metadata has the
    contract, as JSON, under ``ununennium.contract``.

    Args:
        model: as ``load_artifact`` gives it, on the CPU.
        contract: contract of the model.
        file: to be written; its folder is made.
        tile: side of the tiles in pixels; the contract's ``chip_size`` if not given.

    Returns:
        The largest difference from PyTorch over all outputs that were compared.

    Raises:
        ConfigError: the packages for ONNX are missing, or the model cannot take tiles of this side.
        CheckpointError: the model cannot be expressed in ONNX, or gives something else there.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError("onnx", str(error.name), "is not installed: `pip install 'ununennium-eo[onnx]'`") from error
    described = ModelContract.of(contract)
    side = tile or int(described.chip_size)
    whole = WithNormalisation(model, described).eval()
    examples = [_pixels(described, number, side) for number in _BATCHES]
    with torch.no_grad():
        try:
            expected = [whole(example) for example in examples]
        except RuntimeError as error:
            raise ConfigError("tile", side, f"the model does not take tiles of this side: {_line(error)}") from error
    with replaced(file) as part:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own parts
            try:
                program = torch.onnx.export(
                    whole, (examples[-1],), dynamo=True, verbose=False, input_names=["pixels"],
                    output_names=[_output_name(described)], dynamic_shapes=({0: torch.export.Dim("batch")},),
                )  # fmt: skip
            except Exception as error:  # torch.export raises what it likes
                raise CheckpointError(f"the model cannot be written as ONNX: {_line(error)}") from error
        assert program is not None
        written = program.model_proto
        onnx.helper.set_model_props(written, {"ununennium.contract": json.dumps(described.to_json(), sort_keys=True)})
        onnx.save(written, str(part))
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        worst = 0.0
        for example, wanted in zip(examples, expected, strict=True):
            found = session.run(None, {"pixels": example.numpy()})[0]
            worst = max(worst, _difference(found, wanted.numpy()))
    return worst


def _output_name(contract: ModelContract) -> str:
    return "logits" if TASKS[contract.task].has_classes else "values"


def _pixels(contract: ModelContract, number: int, side: int) -> Tensor:
    """Pixels that might be the scene's, some of them without data."""
    statistics, dates = contract.statistics, contract.num_dates
    mean, std = (torch.tensor(statistics[name], dtype=torch.float32)[:, None, None] for name in ("mean", "std"))
    drawn = torch.randn(number, dates, len(mean), side, side, generator=torch.Generator().manual_seed(number))
    pixels = drawn * std + mean
    pixels = pixels.exp() if statistics.get("log_floor") else pixels
    pixels[..., 0, : max(1, side // 8)] = float("nan")
    return pixels if contract.layout != "channels" else pixels.flatten(1, 2)


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        raise CheckpointError(f"ONNX Runtime gives {found.shape} where PyTorch gives {expected.shape}")
    difference = float(np.abs(found - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise CheckpointError(
            f"ONNX Runtime's output differs from PyTorch's by up to {difference:.3g}; nothing was written"
        )
    return difference


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
