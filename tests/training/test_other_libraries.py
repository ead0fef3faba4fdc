"""Models, losses, datasets and metrics of the field's libraries train as they are; each is skipped where it is missing.

``make test-peers`` installs all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.transform import from_origin
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ununennium.importing import counts_of_model, instantiate
from ununennium.training import Trainer, TrainerConfig
from ununennium.training.callbacks import Callback, SegmentationMetrics, TorchMetric

BANDS, CLASSES = 4, 3


def trained(model: nn.Module, loss: Any, batches: Iterable[Any], *callbacks: Callback) -> dict[str, list[float]]:
    """History of six epochs; every parameter that has a gradient must have moved."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    config = TrainerConfig(epochs=6, device="cpu", mixed_precision=False)
    history = Trainer(model, optimizer, loss, batches, batches, config=config, callbacks=list(callbacks)).fit()
    assert len(history["val_loss"]) == config.epochs
    assert history["train_loss"][-1] < history["train_loss"][0]
    assert all(
        not torch.equal(value, before[name]) for name, value in model.named_parameters() if value.grad is not None
    )
    return history


def made(target: str, **kwargs: Any) -> Any:
    """Module that a configuration with ``model.target`` and ``model.kwargs`` makes."""
    return instantiate(target, kwargs, field="model", **counts_of_model(BANDS, CLASSES))


def pixels(image: str, target: str, *, size: int = 64) -> list[dict[str, Tensor]]:
    """Two batches of images whose class is the brightest of the first three bands."""
    rng = torch.Generator().manual_seed(0)
    images = [torch.rand(2, BANDS, size, size, generator=rng) for _ in range(2)]
    return [{image: each, target: each[:, :CLASSES].argmax(1)} for each in images]


def patches(image: str, target: str) -> list[dict[str, Tensor]]:
    """Batches of images with a class each: the band that is brightest."""
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(2, 6, BANDS, 32, 32, generator=rng)
    labels = torch.arange(6) % CLASSES
    images[:, torch.arange(6), labels] += 1
    return [{image: each, target: labels} for each in images]


def test_timm_classifies_patches() -> None:
    pytest.importorskip("timm")
    model = made("timm:create_model", model_name="resnet10t", pretrained=False)  # takes the counts as **kwargs
    trained(model, nn.CrossEntropyLoss(), patches("image", "label"))


def test_torchvision_segments_and_is_given_the_class_count() -> None:
    torchvision = pytest.importorskip("torchvision")
    batches = [{"x": each["x"][:, :3], "y": each["y"]} for each in pixels("x", "y")]
    assert made("torchvision.models:resnet18").fc.out_features == CLASSES  # takes the count as **kwargs
    build = torchvision.models.segmentation.lraspp_mobilenet_v3_large
    trained(build(weights=None, weights_backbone=None, num_classes=CLASSES), nn.CrossEntropyLoss(), batches)


@pytest.mark.parametrize("loss", ["DiceLoss", "FocalLoss", "LovaszLoss"])
def test_smp_segments_with_its_own_losses(loss: str) -> None:
    smp = pytest.importorskip("segmentation_models_pytorch")
    torch.manual_seed(0)
    model = made("segmentation_models_pytorch:Unet", encoder_name="resnet18", encoder_weights=None)
    trained(model, getattr(smp.losses, loss)("multiclass"), pixels("image", "mask"))


def test_transformers_classifies_patches() -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: make test-peers")
    settings = transformers.ResNetConfig(
        num_channels=BANDS,
        num_labels=CLASSES,
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
    )
    trained(
        transformers.ResNetForImageClassification(settings), nn.CrossEntropyLoss(), patches("pixel_values", "labels")
    )


def test_transformers_segments_with_a_loss_that_reads_its_output() -> None:
    """SegFormer's logits have a quarter of the image's resolution; its own loss resizes them, and so does this one."""
    transformers = pytest.importorskip("transformers", reason="needs transformers: make test-peers")
    settings = transformers.SegformerConfig(
        num_channels=BANDS,
        num_labels=CLASSES,
        hidden_sizes=[8, 16, 16, 32],
        depths=[1, 1, 1, 1],
        decoder_hidden_size=16,
    )

    def loss(output: Any, target: Tensor) -> Tensor:
        logits = nn.functional.interpolate(output.logits, target.shape[1:], mode="bilinear")
        return nn.functional.cross_entropy(logits, target)

    trained(transformers.SegformerForSemanticSegmentation(settings), loss, pixels("pixel_values", "labels"))


def test_torchgeo_gives_batches_by_its_own_datasets_and_sampler(tmp_path: Path) -> None:
    datasets = pytest.importorskip("torchgeo.datasets", reason="needs torchgeo: make test-peers")
    samplers = pytest.importorskip("torchgeo.samplers")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (BANDS, 128, 128), dtype=np.uint8)
    for name, bands in (("image", image), ("mask", image[:CLASSES].argmax(0)[None].astype(np.uint8))):
        (tmp_path / name).mkdir()
        profile = {"driver": "GTiff", "width": 128, "height": 128, "count": len(bands), "dtype": "uint8"}
        at = {"crs": "EPSG:32633", "transform": from_origin(500_000, 5_000_000, 10, 10)}
        with rasterio.open(tmp_path / name / "scene.tif", "w", **profile, **at) as file:
            file.write(bands)

    class Mask(datasets.RasterDataset):  # type: ignore[misc, name-defined]
        is_image = False

    both = datasets.RasterDataset(tmp_path / "image") & Mask(tmp_path / "mask")
    sampler = samplers.RandomGeoSampler(both, size=64, length=8)
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("resnet18", encoder_weights=None, in_channels=BANDS, classes=CLASSES)
    loader = DataLoader(both, batch_size=4, sampler=sampler, collate_fn=datasets.stack_samples)
    trained(model, nn.CrossEntropyLoss(), loader)


def test_terratorchs_factory_makes_a_model_that_trains() -> None:
    models = pytest.importorskip("terratorch.models", reason="needs terratorch: make test-peers")
    model = models.EncoderDecoderFactory().build_model(
        task="segmentation", backbone="timm_resnet18", backbone_pretrained=False, backbone_in_chans=BANDS,
        decoder="FCNDecoder", num_classes=CLASSES, rescale=True,
    )  # fmt: skip
    trained(model, nn.CrossEntropyLoss(), pixels("image", "mask"))


def test_torchmetrics_agrees_with_our_own_metrics() -> None:
    classification = pytest.importorskip("torchmetrics.classification", reason="needs torchmetrics: make test-peers")
    jaccard = classification.MulticlassJaccardIndex(CLASSES, average="none")
    accuracy = classification.MulticlassAccuracy(CLASSES, average="micro")
    names = [f"class{number}" for number in range(CLASSES)]
    ours = SegmentationMetrics(CLASSES, class_names=names)
    model = nn.Conv2d(BANDS, CLASSES, 3, padding=1)
    callbacks = ours, TorchMetric(jaccard, "val_jaccard"), TorchMetric(accuracy, "val_right")
    history = trained(model, nn.CrossEntropyLoss(), pixels("image", "mask"), *callbacks)
    assert history["val_right"] == pytest.approx(history["val_accuracy"], abs=1e-6)
    for number, name in enumerate(names):
        assert history[f"val_jaccard_{number}"] == pytest.approx(history[f"val_IoU_{name}"], abs=1e-6)
