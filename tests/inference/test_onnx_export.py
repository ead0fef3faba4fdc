"""A promoted model as an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from tests.contracts import make_contract
from ununennium.checkpoints.artifact import load_artifact, write_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.cli import run
from ununennium.errors import CheckpointError, ConfigError
from ununennium.inference.onnx_export import export_onnx
from ununennium.models import UNet

CONTRACT = make_contract(
    model={
        "target": "ununennium.models:UNet", "kwargs": {"base_channels": 4, "depth": 2},
        "in_channels": 3, "num_classes": 2,
    },
    classes=["ground", "roof"], bands=[3, 2, 1], statistics={"mean": [400.0, 300.0, 200.0], "std": [90.0, 80.0, 70.0]},
    nodata=0, resolution=[0.5, 0.5], crs="EPSG:32616", git_commit="c", versions={"torch": torch.__version__},
    run_id="r", created="2026-01-02T03:04:05+00:00",
)  # fmt: skip


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return UNet(3, 2, base_channels=4, depth=2).eval()


@pytest.mark.slow
def test_onnx_runtime_gives_what_the_model_gives_for_pixels_of_the_file(model: nn.Module, tmp_path: Path) -> None:
    """Against NumPy's normalisation and PyTorch's model, for a batch that the exporter has not seen."""
    file = tmp_path / "made" / "model.onnx"
    assert export_onnx(model, CONTRACT, file) < 1e-4
    pixels = np.random.default_rng(1).integers(1, 1000, (5, 3, 32, 32)).astype(np.float32)
    pixels[:, :, :4] = np.nan
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"pixels": pixels})
    mean, std = (np.asarray(CONTRACT["statistics"][name])[:, None, None] for name in ("mean", "std"))
    normalised = np.nan_to_num((pixels - mean) / std).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(normalised)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)
    assert [each.name for each in file.parent.iterdir()] == ["model.onnx"]
    written = onnx.load(str(file))
    onnx.checker.check_model(written, full_check=True)
    properties = {each.key: each.value for each in written.metadata_props}
    assert json.loads(properties["ununennium.contract"])["classes"] == ["ground", "roof"]


@pytest.mark.slow
def test_the_logarithm_of_pixels_is_part_of_the_file(model: nn.Module, tmp_path: Path) -> None:
    """Against NumPy's; values below the floor are raised to it, and NaN stays without data."""
    statistics = {"mean": [6.0, 5.7, 5.3], "std": [0.5, 0.4, 0.3], "log_floor": [20.0, 15.0, 10.0]}
    file = tmp_path / "model.onnx"
    export_onnx(model, {**CONTRACT, "statistics": statistics}, file)
    pixels = np.random.default_rng(1).lognormal(5, 1, (2, 3, 32, 32)).astype(np.float32)
    pixels[:, :, 4:8], pixels[:, :, :4] = 0.0, np.nan
    (logits,) = onnxruntime.InferenceSession(str(file)).run(["logits"], {"pixels": pixels})
    mean, std, floor = (np.asarray(each)[:, None, None] for each in statistics.values())
    normalised = np.nan_to_num((np.log(np.maximum(pixels, floor)) - mean) / std).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(normalised)).numpy()
    np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_dates_keep_their_axis_or_share_the_statistics_as_channels(tmp_path: Path) -> None:
    """Two dates of one band: an axis of the input for ``stack``, channels of it otherwise."""

    class Difference(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            first, later = (image[:, 0], image[:, 1]) if image.dim() == 5 else (image[:, :1], image[:, 1:])
            return torch.cat([later - first, first - later], 1)

    pixels = np.random.default_rng(2).normal(50, 10, (2, 2, 1, 8, 8)).astype(np.float32)
    expected = (pixels[:, 1, 0] - pixels[:, 0, 0]) / 10
    for layout, given in (("stack", pixels), ("channels", pixels[:, :, 0])):
        contract = {
            **CONTRACT, "bands": [1], "statistics": {"mean": [50.0], "std": [10.0]}, "num_dates": 2, "layout": layout,
            "chip_size": 8,
        }  # fmt: skip
        export_onnx(Difference(), contract, tmp_path / f"{layout}.onnx")
        session = onnxruntime.InferenceSession(str(tmp_path / f"{layout}.onnx"), providers=["CPUExecutionProvider"])
        np.testing.assert_allclose(session.run(None, {"pixels": given})[0][:, 0], expected, atol=1e-4)


@pytest.mark.slow
def test_what_cannot_be_exported_leaves_what_was_there(model: nn.Module, tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"an older one")

    class Undecided(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image if float(image.sum()) > 0 else -image

    with pytest.raises(CheckpointError, match="cannot be written as ONNX"):
        export_onnx(Undecided(), CONTRACT, file)

    class Drawn(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image + torch.randn_like(image)

    with pytest.raises(CheckpointError, match="differs from PyTorch's by up to"):
        export_onnx(Drawn(), CONTRACT, file)
    with pytest.raises(ConfigError, match="tile = 1: the model does not take"):
        export_onnx(nn.Sequential(nn.Conv2d(3, 2, 3)), CONTRACT, file, tile=1)
    assert file.read_bytes() == b"an older one"
    assert [each.name for each in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.slow
def test_the_command_exports_the_champion(model: nn.Module, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_artifact(tmp_path / "artifact", model.state_dict(), CONTRACT)
    registry = Registry(str(tmp_path / "storage"), "roofs")
    version = registry.add_version(tmp_path / "artifact")
    registry.promote(version, expected_generation=0, gate={"verdict": "promoted"}, actor="test", run_id="r", token="r")
    file = tmp_path / "roofs.onnx"
    words = ["registry", "export", "roofs", "-o", str(file), "--storage", str(tmp_path / "storage"), "--tile", "64"]
    assert run(words) == 0
    assert f"version {version} of roofs; ONNX Runtime is within" in capsys.readouterr().out
    (given,) = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]).get_inputs()
    assert given.shape[1:] == [3, 64, 64]
    loaded, _ = load_artifact(registry.version_url(version))
    assert isinstance(loaded, UNet)
