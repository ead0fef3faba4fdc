"""Batches and outputs as other libraries give them are trained on unmodified."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ununennium.errors import ConfigError, DataError
from ununennium.importing import counts_of_model, instantiate
from ununennium.training import Trainer, TrainerConfig
from ununennium.training.batches import prediction_of, unpack
from ununennium.training.callbacks import SegmentationMetrics, TorchMetric

IMAGE, TARGET = torch.rand(2, 3, 32, 32), torch.randint(0, 2, (2, 32, 32))


@pytest.mark.parametrize(
    ("image", "target"),
    [("image", "target"), ("image", "mask"), ("image", "label"), ("pixel_values", "labels"), ("x", "y")],
)
def test_a_mapping_is_read_by_the_keys_of_its_library(image: str, target: str) -> None:
    assert unpack({image: IMAGE, target: TARGET, "bounds": None}) == (IMAGE, TARGET, None)
    assert unpack({image: IMAGE, target: TARGET, "valid": 1})[2] == 1


def test_our_own_keys_win_over_others() -> None:
    found = unpack({"image": IMAGE, "x": 0, "target": TARGET, "mask": 0, "label": 0})
    assert (found[0] is IMAGE, found[1] is TARGET) == (True, True)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"image": 0, "mask": 0, "label": 0}, "'mask' and 'label' may be its target; call that 'target'"),
        ({"pixel_values": 0, "x": 0, "y": 0}, "'pixel_values' and 'x' may be its image; call that 'image'"),
        (
            {"picture": 0, "target": 0},
            r"keys \['picture', 'target'\]; it needs 'image' \(or one of 'pixel_values', 'x'\)",
        ),
        ({"image": 0, "truth": 0}, "needs 'target'"),
        ((0,), "1 parts"),
        (5, "a batch is a int"),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused_with_its_keys(batch: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        unpack(batch)


@dataclass
class Output:
    output: Tensor
    auxiliary: None = None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: t,
        lambda t: OrderedDict(out=t, aux=t + 1),
        lambda t: {"loss": None, "logits": t},
        lambda t: SimpleNamespace(logits=t),
        lambda t: Output(t),
        lambda t: (t, t + 1),
    ],
)
def test_the_prediction_is_found_in_what_a_model_returns_in_float32(wrap: Any) -> None:
    found = prediction_of(wrap(torch.full((1, 2), 0.5, dtype=torch.bfloat16)))
    assert (found.dtype, found.tolist()) == (torch.float32, [[0.5, 0.5]])


def test_an_output_without_a_known_part_stays_what_it_is() -> None:
    output = {"heights": IMAGE}
    assert prediction_of(output) is output


class Wrapped(nn.Module):
    """A network whose answer is wrapped, as that of torchvision is."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.network = nn.Conv2d(3, 2, 1)
        self.wrap = wrap

    def forward(self, image: Tensor) -> Any:
        return self.wrap(self.network(image))


def trained(model: nn.Module, loss: Any, batches: Any, *callbacks: Any) -> dict[str, list[float]]:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    config = TrainerConfig(epochs=2, device="cpu", mixed_precision=False)
    return Trainer(model, optimizer, loss, batches, batches, config=config, callbacks=list(callbacks)).fit()


def test_a_wrapped_output_trains_to_the_weights_of_the_plain_one() -> None:
    ends = []
    for wrap in (lambda t: t, lambda t: OrderedDict(out=t, aux=2 * t), lambda t: SimpleNamespace(logits=t)):
        torch.manual_seed(0)
        model = Wrapped(wrap)
        history = trained(model, nn.CrossEntropyLoss(), [(IMAGE, TARGET)], SegmentationMetrics(2))
        ends.append((model.network.weight.detach().clone(), history["val_IoU"]))
    for weight, iou in ends[1:]:
        assert torch.equal(weight, ends[0][0])
        assert iou == ends[0][1]


def test_a_loss_of_the_users_own_gets_the_output_as_the_model_gives_it() -> None:
    def both(output: Any, target: Tensor) -> Tensor:
        return sum(nn.functional.cross_entropy(output[name], target) for name in ("out", "aux"))

    assert len(trained(Wrapped(lambda t: {"out": t, "aux": 2 * t}), both, [(IMAGE, TARGET)])["train_loss"]) == 2


def test_torchvision_and_smp_train_unmodified_on_a_loader_of_mappings() -> None:
    """torchvision's segmentation models return a mapping with the key ``out``; TorchGeo's samples have ``mask``."""
    samples = [{"image": torch.rand(3, 64, 64), "mask": torch.randint(0, 2, (64, 64))} for _ in range(4)]
    network = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=2
    )
    history = trained(network, nn.CrossEntropyLoss(), DataLoader(samples, batch_size=2))
    assert len(history["val_loss"]) == 2
    network = smp.Unet("resnet18", encoder_weights=None, classes=2)
    loss = smp.losses.DiceLoss("multiclass")
    assert len(trained(network, loss, DataLoader(samples, batch_size=2))["val_loss"]) == 2


class Accuracy:
    """A metric of torchmetrics' form."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right, self.number = 0, 0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        self.right += int((prediction.argmax(1) == target).sum())
        self.number += target.numel()

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.number)


class PerClass(Accuracy):
    """Several numbers, named and in a row."""

    def compute(self) -> Any:
        return {"all": super().compute(), "classes": torch.tensor([0.25, 0.75])}


def test_a_metric_object_enters_the_history_beside_ours() -> None:
    batches = [{"x": IMAGE, "y": TARGET}] * 2
    metrics = SegmentationMetrics(2), TorchMetric(Accuracy(), "val_right"), TorchMetric(PerClass(), "val_each")
    history = trained(Wrapped(lambda t: (t,)), nn.CrossEntropyLoss(), batches, *metrics)
    assert history["val_right"] == pytest.approx(history["val_accuracy"])
    assert history["val_each_all"] == history["val_right"]
    assert (history["val_each_classes_0"], history["val_each_classes_1"]) == ([0.25] * 2, [0.75] * 2)


def test_an_object_that_is_no_metric_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a Linear has no update\(\)"):
        TorchMetric(nn.Linear(1, 1), "val_x")


@pytest.mark.parametrize("path", ["segmentation_models_pytorch:Unet", "ununennium.models:UNet"])
def test_constructors_are_given_the_counts_by_the_names_that_they_use(path: str) -> None:
    kwargs = {"encoder_weights": None, "encoder_name": "resnet18"} if "Unet" in path else {}
    model = instantiate(path, kwargs, field="model", **counts_of_model(5, 4)).eval()
    assert model(torch.zeros(1, 5, 64, 64)).shape == (1, 4, 64, 64)
