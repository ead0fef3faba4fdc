"""The small U-Net, and the zoo."""

from __future__ import annotations

import socket

import pytest
import torch

from ununennium.errors import ConfigError, DataError
from ununennium.models import UNet, zoo


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (1, 1), (7, 130)])
@pytest.mark.parametrize("depth", [1, 4])
def test_any_size_of_image_gives_logits_of_that_size(size, depth):
    logits = UNet(3, 5, base_channels=4, depth=depth).eval()(torch.randn(2, 3, *size))
    assert logits.shape == (2, 5, *size)


def test_padding_does_not_change_what_needs_none():
    """The interior of a padded image equals that of a larger one."""
    torch.manual_seed(0)
    model = UNet(1, 2, base_channels=4, depth=2).eval()
    image = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(model(image)[..., :20, :20], model(image[..., :63, :63])[..., :20, :20])


def test_it_has_the_stated_form():
    model = UNet(13, 7)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(483_000, rel=0.02)
    assert [block[0].out_channels for block in model.down] == [16, 32, 64, 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layout_and_autocast_change_the_speed_only(dtype):
    torch.manual_seed(0)
    model, image = UNet(2, 2, base_channels=4).eval(), torch.randn(1, 2, 32, 32)
    plain = model(image)
    model = model.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        other = model(image.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other.float(), plain, rtol=0.05, atol=0.05 if dtype == torch.bfloat16 else 1e-5)


def test_another_number_of_bands_is_named():
    with pytest.raises(DataError, match=r"takes \(N, 3, H, W\), and the image is \(1, 4, 8, 8\)"):
        UNet(3, 2)(torch.randn(1, 4, 8, 8))


@pytest.mark.parametrize("arguments", [(0, 2), (1, 0), (1, 2, 0), (1, 2, 4, 0)])
def test_an_impossible_size_is_refused(arguments):
    with pytest.raises(ConfigError, match="whole number"):
        UNet(*arguments)


def _smp():
    try:
        import segmentation_models_pytorch
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"the extra 'zoo' does not import here: {error}")
    return segmentation_models_pytorch


def test_the_zoo_takes_any_number_of_bands():
    _smp()
    model = zoo("Unet", "resnet18", in_channels=13, num_classes=4).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 13, 64, 64)).shape == (1, 4, 64, 64)


@pytest.mark.parametrize(("architecture", "encoder"), [("Onet", "resnet18"), ("Unet", "resnet19")])
def test_names_that_the_zoo_does_not_know_are_refused(architecture, encoder):
    _smp()
    with pytest.raises(ConfigError, match=r"model\.kwargs"):
        zoo(architecture, encoder, in_channels=3, num_classes=2)


def test_pretrained_weights_that_cannot_be_had_are_a_clear_error(monkeypatch, tmp_path):
    _smp()
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*_, **__):
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the hub's client waits 23 s between its attempts
    with pytest.raises(ConfigError, match=r"pretrained = True: the weights of 'resnet18' cannot be fetched"):
        zoo("Unet", "resnet18", in_channels=3, num_classes=2, pretrained=True)
