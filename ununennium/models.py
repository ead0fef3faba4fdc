"""Models: a small U-Net to train from scratch, and the field's zoo for pretrained encoders.

Any ``nn.Module`` from (N, bands, H, W) to (N, classes, H, W), or to (N, classes) for a classification of patches, will
do; name it in the configuration by import path.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ununennium.errors import ConfigError, DataError


class UNet(nn.Module):
    """A plain U-Net (Ronneberger et al. 2015) with batch normalisation.

    Each level is two 3 x 3 convolutions, each with batch normalisation and ReLU; going down halves the sides (max
    pooling) and doubles the channels, going up is a transposed convolution and a concatenation with the level's skip.
    Any image size will do: sides are padded by reflection to a multiple of ``2 ** (depth - 1)`` and cropped back.

    Args:
        in_channels: bands.
        num_classes: output channels.
        base_channels: channels of the first level.
        depth: levels; 4 sees about 140 pixels.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(self, in_channels: int, num_classes: int, base_channels: int = 16, depth: int = 4) -> None:
        super().__init__()
        for name, value in (
            ("in_channels", in_channels),
            ("num_classes", num_classes),
            ("base_channels", base_channels),
            ("depth", depth),
        ):
            if value < 1:
                raise ConfigError(f"model.{name}", value, "give a whole number >= 1")
        self.in_channels = in_channels
        channels = [base_channels * 2**level for level in range(depth)]
        self.down = nn.ModuleList(
            _two_convolutions(before, after) for before, after in zip([in_channels, *channels], channels, strict=False)
        )
        upward = list(zip(channels[:0:-1], channels[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, stride=2) for deep, shallow in upward)
        self.merge = nn.ModuleList(_two_convolutions(2 * shallow, shallow) for _, shallow in upward)
        self.head = nn.Conv2d(base_channels, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits.

        Args:
            image: float tensor (N, in_channels, H, W).

        Returns:
            (N, num_classes, H, W).

        Raises:
            DataError: another number of channels.
        """
        if image.ndim != 4 or image.shape[1] != self.in_channels:
            raise DataError(f"the model takes (N, {self.in_channels}, H, W), and the image is {tuple(image.shape)}")
        logits: Tensor = self.decode(self.encode(image))
        return logits[..., : image.shape[2], : image.shape[3]]

    def encode(self, image: Tensor) -> list[Tensor]:
        """Features of every level, from the image's size (padded) to the deepest."""
        hidden = _pad_to_multiple(image, 2 ** (len(self.down) - 1))
        skips = []
        for level, convolutions in enumerate(self.down):
            hidden = convolutions(F.max_pool2d(hidden, 2) if level else hidden)
            skips.append(hidden)
        return skips

    def decode(self, skips: list[Tensor]) -> Tensor:
        """Logits of the padded image from the features of every level."""
        hidden = skips[-1]
        for up, merge, skip in zip(self.up, self.merge, skips[-2::-1], strict=True):
            hidden = merge(torch.cat((skip, up(hidden)), dim=1))
        logits: Tensor = self.head(hidden)
        return logits


class SiameseUNet(UNet):
    """A U-Net that sees two dates with the same encoder, and decodes how their features differ.

    FC-Siam-diff (Daudt et al. 2018): every level hands the absolute difference of both dates to the decoder. It takes
    ``data.layout: stack``.

    Args:
        in_channels: bands of one date.
        num_classes: output channels.
        base_channels: channels of the first level.
        depth: levels.

    Raises:
        ConfigError: a number below 1.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Logits.

        Args:
            image: float tensor (N, 2, in_channels, H, W), before and after.

        Returns:
            (N, num_classes, H, W).

        Raises:
            DataError: another number of dates or channels.
        """
        if image.ndim != 5 or image.shape[1:3] != (2, self.in_channels):
            raise DataError(
                f"the model takes (N, 2, {self.in_channels}, H, W), and the image is {tuple(image.shape)}; give two "
                "dates and data.layout: stack"
            )
        both = self.encode(image.flatten(0, 1))
        logits = self.decode([(level[::2] - level[1::2]).abs() for level in both])
        return logits[..., : image.shape[3], : image.shape[4]]


class PatchClassifier(nn.Module):
    """The way down of a U-Net, averaged over the patch: one answer for all of it.

    Args:
        in_channels: bands.
        num_classes: outputs.
        base_channels: channels of the first level.
        depth: levels.

    Raises:
        ConfigError: a number below 1.
    """

    def __init__(self, in_channels: int, num_classes: int, base_channels: int = 16, depth: int = 4) -> None:
        super().__init__()
        features = UNet(in_channels, num_classes, base_channels, depth)
        self.in_channels = in_channels
        self.down = features.down
        self.head = nn.Linear(base_channels * 2 ** (depth - 1), num_classes)

    def forward(self, image: Tensor) -> Tensor:
        """Logits.

        Args:
            image: float tensor (N, in_channels, H, W), at least ``2 ** (depth - 1)`` pixels high and wide.

        Returns:
            (N, num_classes).

        Raises:
            DataError: another number of channels, or too small a patch.
        """
        least = 2 ** (len(self.down) - 1)
        if image.ndim != 4 or image.shape[1] != self.in_channels or min(image.shape[2:]) < least:
            raise DataError(
                f"the model takes (N, {self.in_channels}, H, W) of at least {least} x {least} pixels, and the image is "
                f"{tuple(image.shape)}"
            )
        hidden = image
        for level, convolutions in enumerate(self.down):
            hidden = convolutions(F.max_pool2d(hidden, 2) if level else hidden)
        logits: Tensor = self.head(hidden.mean((-2, -1)))
        return logits


class Patchwise(nn.Module):
    """A classifier of patches as a model of pixels: every pixel gets its patch's logits.

    Args:
        model: from (N, ..., H, W) to (N, K).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, H, W).

        Raises:
            DataError: the model's output is not (N, K).
        """
        logits: Tensor = self.model(image)
        if logits.ndim != 2:
            raise DataError(f"the model gives {tuple(logits.shape)}: a classification needs (batch, classes)")
        return logits[:, :, None, None].expand(*logits.shape, *image.shape[-2:])


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers += [
            nn.Conv2d(channels, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def _pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    height, width = image.shape[2:]
    bottom, right = -height % multiple, -width % multiple
    if not bottom and not right:
        return image
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)


def zoo(
    architecture: str,
    encoder: str,
    in_channels: int,
    num_classes: int,
    *,
    pretrained: bool | str = False,
    **options: Any,
) -> nn.Module:
    """A model of ``segmentation_models_pytorch``, with any number of bands.

    Args:
        architecture: such as ``Unet``, ``DeepLabV3Plus``, ``Segformer``.
        encoder: such as ``resnet34``, ``mit_b2``, ``tu-convnext_tiny``.
        in_channels: bands; the first convolution of a pretrained encoder is adapted to them.
        num_classes: output channels.
        pretrained: False to train from scratch; True for ImageNet weights, or the name of others. They are fetched
            once and cached.
        options: passed on.

    Raises:
        ConfigError: the package is missing, the names are unknown, or the weights cannot be had.
    """
    try:
        import segmentation_models_pytorch as smp
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch raises RuntimeError
        raise ConfigError(
            "model.target", "ununennium.models:zoo", f"needs `pip install segmentation-models-pytorch` ({error})"
        ) from error
    weights = (
        {False: None, True: "imagenet"}.get(pretrained, pretrained) if isinstance(pretrained, bool) else pretrained
    )
    try:
        model: nn.Module = smp.create_model(
            architecture, encoder, encoder_weights=weights, in_channels=in_channels, classes=num_classes, **options
        )
    except (KeyError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ConfigError("model.kwargs", {"architecture": architecture, "encoder": encoder}, message) from error
    except Exception as error:
        if weights is None:
            raise
        raise ConfigError(
            "model.kwargs.pretrained",
            pretrained,
            f"the weights of {encoder!r} cannot be fetched ({type(error).__name__}); connect once so that they are "
            "cached, or train from scratch with pretrained: false",
        ) from error
    return model
