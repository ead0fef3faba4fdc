"""A batch without a label contributes nothing, whatever the loss returns for it."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ununennium.errors import ConfigError, DataError, NonFiniteError
from ununennium.training import Trainer, TrainerConfig
from ununennium.training.callbacks import SegmentationMetrics
from ununennium.training.objective import Objective


def mean_of_labelled(output, target, ignore_index=255):
    """A mean over nothing is NaN, and so is its gradient."""
    return F.cross_entropy(output, target, ignore_index=ignore_index)


def divided(output, target):
    """0 / 0, through which a NaN flows back."""
    labelled = (target != 255).float()
    picked = F.cross_entropy(output, target, ignore_index=255, reduction="none")
    return (picked * labelled).sum() / labelled.sum()


class Focal(nn.Module):
    """With an attribute of its own, and an error for nothing."""

    def __init__(self, ignore_index=255):
        super().__init__()
        self.ignore_index = ignore_index

    def forward(self, output, target):
        labelled = target != self.ignore_index
        if not labelled.any():
            raise ValueError("max() of an empty tensor")
        return F.cross_entropy(output.movedim(1, -1)[labelled], target[labelled])


class Learned(nn.Module):
    """A wrapper with a weight of its own."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.log_variance = inner, nn.Parameter(torch.zeros(()))

    def forward(self, output, target):
        return self.inner(output, target) * torch.exp(-self.log_variance) + self.log_variance


class Always(nn.Module):
    """NaN where nothing is labelled, in value and gradient, whatever the target became."""

    ignore_index = 255

    def __init__(self, empty_calls):
        super().__init__()
        self.calls, self.empty_calls = 0, empty_calls

    def forward(self, output, target):
        self.calls += 1
        loss = F.cross_entropy(output, target, ignore_index=255, reduction="sum") / target.numel()
        return loss * math.nan if self.calls in self.empty_calls else loss


def smp_focal():
    smp = pytest.importorskip("segmentation_models_pytorch")
    return smp.losses.FocalLoss("multiclass", ignore_index=255)


def smp_lovasz():
    smp = pytest.importorskip("segmentation_models_pytorch")
    return smp.losses.LovaszLoss("multiclass", ignore_index=255)


def with_default(module):
    def loss(output, target, inner=module):
        return inner(output, target)

    return loss


LOSSES = {
    "function": lambda: mean_of_labelled,
    "partial": lambda: functools.partial(F.cross_entropy, ignore_index=255),
    "module": Focal,
    "bound method": lambda: Focal().forward,
    "wrapper": lambda: Learned(Focal()),
    "wrapper of torch's": lambda: Learned(nn.CrossEntropyLoss(ignore_index=255)),
    "closure": lambda: (lambda inner: lambda output, target: inner(output, target))(Focal()),
    "default": lambda: with_default(Focal()),
    "smp's focal": smp_focal,
    "smp's Lovasz": smp_lovasz,
}


def tiles(kit, shares=(1.0, 0.5, 0.0, 0.7)):
    return kit.tiles(list(shares))


@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_of_ignored_targets_counts_for_nothing(kit, name, window):
    """correctness 4, 5, 7, 88: losses and weights are those of the labelled batches alone."""
    results = []
    for batches in (tiles(kit), [tiles(kit)[i] for i in (0, 1, 3)]):
        model, loss = kit.segmenter(), LOSSES[name]()
        trainer = kit.trainer(model, batches, loss, val_loader=batches, accumulation_steps=window, epochs=2)
        history = trainer.fit()
        results.append((kit.weights(model), history["train_loss"], history["val_loss"]))
    for one, two in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
    assert results[0][1:] == tuple(pytest.approx(values) for values in results[1][1:])
    assert all(math.isfinite(value) for values in results[0][1:] for value in values)


def test_the_trainers_ignore_index_serves_a_loss_that_has_none(kit):
    """correctness 34, 88: metrics and masks take it too."""
    model, metrics = kit.segmenter(), SegmentationMetrics(3)
    batches = tiles(kit)
    config = TrainerConfig(epochs=1, device="cpu", mixed_precision=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, optimizer, divided, batches, batches, callbacks=[metrics], config=config, ignore_index=255)
    history = trainer.fit()
    assert math.isfinite(history["train_loss"][0])
    assert trainer.state.skipped_steps == 1
    assert metrics.confusion.ignore_index == 255
    with pytest.raises(ConfigError, match=r"ignore_index = 0.*ignores 255"):
        Trainer(model, optimizer, Focal(), batches, config=config, ignore_index=0)
    with pytest.raises(ConfigError, match="stands for no label"):
        Trainer(model, optimizer, divided, batches, config=config, ignore_index=True)


@pytest.mark.parametrize("ignored", [-9999.0, math.nan])
def test_regression_targets_are_ignored_too(kit, ignored):
    """correctness 88: a float target, and NaN as the value that is ignored."""

    def loss(output, target):
        labelled = ~target.isnan() if math.isnan(ignored) else target != ignored
        return (output[labelled] - target[labelled]).square().mean()

    model = nn.Linear(4, 1)
    batches = [(torch.randn(4, 4), torch.randn(4, 1)), (torch.randn(4, 4), torch.full((4, 1), ignored))]
    config = TrainerConfig(epochs=1, device="cpu", mixed_precision=False, accumulation_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    history = Trainer(model, optimizer, loss, batches, config=config, ignore_index=ignored).fit()
    assert math.isfinite(history["train_loss"][0])


def test_a_mask_without_a_valid_pixel_counts_for_nothing(kit):
    """correctness 88: for a loss that takes the mask itself, without any ignore_index."""

    def loss(output, target, valid):
        return F.cross_entropy(output, target, reduction="none")[valid].mean()

    batches = [(image, target.clamp(max=2), target != 255) for image, target in tiles(kit)]
    trainer = kit.trainer(kit.segmenter(), batches, loss, val_loader=batches, accumulation_steps=4)
    history = trainer.fit()
    assert math.isfinite(history["train_loss"][0])
    assert math.isfinite(history["val_loss"][0])


@pytest.mark.parametrize("wrap", [lambda mask: {"mask": mask, "edges": mask}, lambda mask: [mask, mask]])
@pytest.mark.parametrize("size", [1, 2])
def test_targets_of_several_parts_are_ignored_and_weighed_by_samples_too(kit, wrap, size):
    """correctness 7, 88: a batch none of whose parts has a label counts for nothing, any other one by its samples."""
    tiles = kit.tiles([1.0, 0.5, 0.0, 0.7])
    first = tuple(torch.cat(parts) for parts in zip(*tiles[:size], strict=True))
    batches = [first, *tiles[size:]]

    def of_parts(output, target):
        parts = target.values() if isinstance(target, dict) else target
        return sum(mean_of_labelled(output, part) for part in parts) / len(parts)

    results = []
    for targets, loss in ((wrap, of_parts), (lambda mask: mask, mean_of_labelled)):
        data = [(image, targets(mask)) for image, mask in batches]
        model = kit.segmenter()
        config = TrainerConfig(device="cpu", mixed_precision=False, epochs=2, accumulation_steps=3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        history = Trainer(model, optimizer, loss, data, data, None, [], config, ignore_index=255).fit()
        results.append((kit.weights(model), history["train_loss"], history["val_loss"]))
    for one, two in zip(results[0][0], results[1][0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)
    assert results[0][1:] == tuple(pytest.approx(values) for values in results[1][1:])


def test_nan_with_valid_pixels_is_still_an_error(kit):
    """correctness 15, 88."""
    loss = Always(range(1, 99))
    with pytest.raises(NonFiniteError):
        kit.trainer(kit.segmenter(), tiles(kit, [1.0] * 4), loss, max_nonfinite_steps=3).fit()


def test_a_wrapper_of_losses_that_differ_is_not_guessed_at():
    """correctness 88: where one of them ignores nothing, the batch has a loss."""

    class Sum(nn.Module):
        def __init__(self, *parts):
            super().__init__()
            self.parts, self.softmax = nn.ModuleList(parts), nn.Softmax(1)

        def forward(self, output, target):
            return sum(part(output, target) for part in self.parts)

    assert Objective(Sum(Focal(255), nn.CrossEntropyLoss(ignore_index=255))).ignore_index == 255
    assert Objective(Sum(Focal(255), Focal(0))).ignore_index is None
    assert Objective(Sum(Focal(0), nn.MSELoss())).ignore_index is None
    assert Objective(Learned(Sum(Focal(7)))).ignore_index == 7


class OnDevice(Objective):
    """The path of an accelerator, on the CPU: the decision is a tensor."""

    def _has_any(self, target, valid):
        found = super()._has_any(target, valid)
        return torch.tensor(found) if isinstance(found, bool) else found


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(
    "make", [lambda: mean_of_labelled, Focal, lambda: Always({2}), smp_focal], ids=["mean", "error", "always", "smp"]
)
def test_on_a_device_the_decision_needs_no_wait(kit, make, accumulate):
    """correctness 73, 88: value, weight and gradient are zero, decided by tensors; NaN * 0 does not leak."""
    model, loss = kit.segmenter(), OnDevice(make())
    (image, target), (empty, ignored) = tiles(kit, [1.0, 0.0])
    full = loss(model(image), target)
    (full.value * full.weight).backward()
    wanted = [parameter.grad.clone() for parameter in model.parameters()]
    if not accumulate:
        model.zero_grad()
    nothing = loss(model(empty), ignored)
    assert isinstance(nothing.weight, torch.Tensor)
    assert nothing.weight == 0
    assert nothing.value == 0
    (nothing.value * nothing.weight).backward()
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        assert torch.equal(parameter.grad, gradient if accumulate else torch.zeros_like(gradient))


@pytest.mark.parametrize("wrap", [lambda output: {"out": output}, lambda output: (output, output)])
def test_outputs_of_several_tensors_are_connected_too(kit, wrap):
    """correctness 88: all parameters get a gradient, zero, as DistributedDataParallel expects."""
    model = kit.segmenter()
    (empty, ignored) = tiles(kit, [0.0])[0]

    class Of(nn.Module):
        ignore_index = 255

        def forward(self, output, target):
            return mean_of_labelled(output["out"] if isinstance(output, dict) else output[0], target)

    for objective in (Objective(Of()), OnDevice(Of())):
        model.zero_grad()
        objective(wrap(model(empty)), ignored).value.backward()
        assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())


def with_mask(output, target, valid):
    """Takes the mask itself, of pixels or of samples, and has nothing to say of ignored ones."""
    each = F.cross_entropy(output, target, ignore_index=255, reduction="none")
    chosen = each[valid & (target != 255)] if valid.ndim > 1 else each.mean((1, 2))[valid]
    return chosen.mean()


@pytest.mark.parametrize("case", ["masked", "labels outside of the mask", "samples without labels"])
@pytest.mark.parametrize("kind", ["host", "device"])
def test_labels_count_only_where_the_mask_of_the_loss_is_true(kit, case, kind):
    """correctness 88: also if mask and labels exist, but nowhere together."""
    (image, target), (_, ignored) = tiles(kit, [1.0, 0.0])
    valid = torch.zeros(1, 8, 8, dtype=torch.bool)
    if case == "labels outside of the mask":
        valid[0, :4] = True
        target[0, :4] = 255
    if case == "samples without labels":
        target, valid = ignored, torch.ones(1, dtype=torch.bool)
    loss = {"host": Objective, "device": OnDevice}[kind](with_mask, ignore_index=255)
    model = kit.segmenter()
    found = loss(model(image), target, valid)
    assert (found.value.item(), float(found.weight)) == (0.0, 0.0)
    found.value.backward()
    assert all(torch.equal(p.grad, torch.zeros_like(p)) for p in model.parameters())


def test_on_a_device_a_mask_and_parts_reach_the_loss_as_they_are(kit):
    """correctness 73, 88: what has labels has the value that it has on the host."""
    ((image, target),) = tiles(kit, [0.6])
    valid = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    output = kit.segmenter()(image)
    on_host, on_device = (kind(with_mask, ignore_index=255)(output, target, valid) for kind in (Objective, OnDevice))
    assert on_host.value > 0
    assert (on_host.value, on_host.weight) == (on_device.value, on_device.weight)


def test_on_a_device_parts_that_are_no_tensors_stay_and_ignored_parts_count_for_nothing(kit):
    """correctness 88."""
    names = []

    def of_parts(output, target):
        names.append(output["name"])
        return sum(mean_of_labelled(output["out"], part) for part in target.values())

    loss = OnDevice(of_parts, ignore_index=255)
    (image, target), (_, ignored) = tiles(kit, [1.0, 0.0])
    output = {"out": kit.segmenter()(image), "name": "segmenter"}
    full = loss(output, {"mask": target, "edges": target})
    assert full.value == 2 * mean_of_labelled(output["out"], target)
    nothing = loss(output, {"mask": ignored, "edges": ignored})
    assert (nothing.value, nothing.weight) == (0, 0)
    assert names == ["segmenter", "segmenter"]


@pytest.mark.parametrize("loader", [[], torch.utils.data.DataLoader([], batch_size=2)])
def test_an_empty_validation_loader_is_an_error_before_the_first_step(kit, loader):
    """correctness 88."""
    trainer = kit.trainer(kit.segmenter(), tiles(kit), Focal(), val_loader=loader)
    with pytest.raises(ConfigError, match="val_loader = '0 batches'"):
        trainer.fit()
    assert trainer.state.global_step == 0

    class Nothing(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    unknown = torch.utils.data.DataLoader(Nothing())
    with pytest.raises(DataError, match="val_loader gave no batch"):
        kit.trainer(kit.segmenter(), tiles(kit), Focal(), val_loader=unknown).fit()
