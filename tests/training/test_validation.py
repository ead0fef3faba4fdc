"""Validation weighs samples, changes nothing, and its numbers are Python floats."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
import torch
from torch import nn

from ununennium.errors import ConfigError
from ununennium.losses import CrossEntropyLoss
from ununennium.training.callbacks import Callback, SegmentationMetrics


def test_the_validation_loss_weighs_samples_not_batches(kit):
    """correctness 28: [0.7 x 256, 0.7 x 256, 0.0 x 10] is 0.6866, not 0.4667."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, image):
            return image + self.bias * 0

    batches = [(torch.full((n, 1), value), torch.zeros(n, 1)) for value, n in [(0.7, 256), (0.7, 256), (0.0, 10)]]
    model = Constant()
    history = kit.trainer(
        model, batches[:1], lambda output, target: (output - target).abs().mean(), val_loader=batches
    ).fit()
    assert history["val_loss"] == [pytest.approx(0.7 * 512 / 522)]
    assert history["val_loss"][0] == pytest.approx(0.6866, abs=1e-4)


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(ignore_index=255), CrossEntropyLoss(ignore_index=255)])
def test_the_validation_batch_size_does_not_matter(kit, loss_fn):
    """correctness 29: less than 1e-6, for pixels of very different valid shares."""
    tiles = kit.tiles([0.05, 1.0, 0.0, 0.4, 0.9, 0.2, 1.0])
    results = []
    for size in (1, 2, 7):
        batches = [tuple(torch.cat(part) for part in zip(*tiles[i : i + size], strict=True)) for i in range(0, 7, size)]
        model = kit.segmenter()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        metrics = SegmentationMetrics(3, 255)
        results.append(
            kit.trainer(model, tiles[1:2], loss_fn, optimizer=optimizer, val_loader=batches, callbacks=[metrics]).fit()
        )
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        for name in other:
            assert other[name] == pytest.approx(results[0][name], abs=1e-6)


def test_validation_calls_the_unwrapped_module(kit):
    """correctness 31: not the compiled or DistributedDataParallel wrapper, whose hooks could wait for other ranks."""
    model = kit.model()
    wrapper_calls = []

    class Wrapper(nn.parallel.DistributedDataParallel):
        def __init__(self, module):  # no process group in one process; what matters is which forward is called
            nn.Module.__init__(self)
            self.module = module
            self.require_backward_grad_sync = True

        def forward(self, *inputs):
            wrapper_calls.append(self.training)
            return self.module(*inputs)

    trainer = kit.trainer(Wrapper(model), kit.loader(8, 4), val_loader=kit.loader(8, 4))
    assert trainer.module is model
    trainer.fit()
    assert len(wrapper_calls) == 2  # the training batches only


def test_loss_and_metric_ignore_the_same_pixels(kit):
    """correctness 34: one source; a metric that ignores something else is refused."""
    tiles = kit.tiles([0.3, 0.6])
    metrics = SegmentationMetrics(3)
    model = kit.segmenter()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = kit.trainer(
        model, tiles, CrossEntropyLoss(ignore_index=255), optimizer=optimizer, val_loader=tiles, callbacks=[metrics]
    ).fit()
    matrix = np.zeros((3, 3), np.int64)
    for image, target in tiles:
        prediction = model(image).argmax(1).numpy()
        labelled = target.numpy() != 255
        np.add.at(matrix, (target.numpy()[labelled], prediction[labelled]), 1)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    iou = matrix.diagonal() / union
    assert history["val_IoU_1"] == [pytest.approx(iou[1])]
    assert history["val_IoU"] == [pytest.approx(iou.mean())]
    with pytest.raises(ConfigError, match="must ignore the same"):
        kit.trainer(
            kit.segmenter(), tiles, CrossEntropyLoss(ignore_index=255), val_loader=tiles,
            callbacks=[SegmentationMetrics(3, ignore_index=0)],
        ).fit()  # fmt: skip


def _with_frozen_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    model[1].eval()
    return model


@pytest.mark.parametrize("raises", [False, True])
def test_every_training_flag_is_as_before_after_validation(kit, raises):
    """correctness 35: a frozen BatchNorm stays frozen, also when validation raises."""
    model = _with_frozen_norm()
    statistics = model[1].running_mean.clone()

    class Fail(Callback):
        def on_validation_batch(self, trainer, output, target):
            assert not any(module.training for module in model.modules())
            if raises:
                raise RuntimeError("validation broke")

    trainer = kit.trainer(model, kit.loader(), val_loader=kit.loader(8), callbacks=[Fail()])
    if raises:
        with pytest.raises(RuntimeError, match="validation broke"):
            trainer.fit()
    else:
        trainer.fit()
    assert [module.training for module in model] == [True, False, True, True]
    assert model.training
    assert torch.equal(model[1].running_mean, statistics)


def test_validation_leaves_the_random_numbers_of_training_alone(kit):
    """correctness 36: same weights with and without a val_loader (dropout, shuffling, NumPy and random included)."""

    class Disturb(Callback):
        def on_validation_batch(self, trainer, output, target):
            torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002

    results = []
    for val_loader in (None, kit.loader(8, 4, shuffle=True)):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002
        random.seed(0)
        model = _with_frozen_norm()
        torch.manual_seed(5)
        loader = torch.utils.data.DataLoader(kit.dataset(), batch_size=4, shuffle=True)
        kit.trainer(model, loader, val_loader=val_loader, callbacks=[Disturb()], epochs=3).fit()
        results.append((kit.weights(model), np.random.rand(), random.random()))  # noqa: NPY002
    assert kit.same(results[0][0], results[1][0])
    assert results[0][1:] == results[1][1:]


def test_the_history_has_one_python_float_per_epoch_and_key(kit):
    """correctness 37, 38: and fit returns that very dict."""

    class Late(Callback):
        def on_validation_end(self, trainer):
            if trainer.state.epoch == 2:
                trainer.metrics["val_late"] = 1.0

    trainer = kit.trainer(kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=[Late()], epochs=4)
    history = trainer.fit()
    assert history is trainer.history
    assert {"train_loss", "val_loss", "lr", "grad_norm", "val_late"} <= history.keys()
    for values in history.values():
        assert len(values) == 4
        assert all(type(value) is float for value in values)


@pytest.mark.slow
def test_memory_is_constant_over_epochs(kit):
    """correctness 38: no tensor of a finished epoch is held, only its few floats."""
    held = []

    class Count(Callback):
        def on_epoch_end(self, trainer):
            gc.collect()
            held.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))

    trainer = kit.trainer(kit.model(), kit.loader(96, 4), val_loader=kit.loader(8), callbacks=[Count()], epochs=6)
    history = trainer.fit()
    assert len(set(held[1:])) == 1
    assert sum(map(len, history.values())) == 6 * len(history)
