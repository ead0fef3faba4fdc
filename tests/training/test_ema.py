"""Averages of weights: each tensor counts once, in a precision that holds the average."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from ununennium.errors import ConfigError
from ununennium.training.callbacks import EMA, Callback
from ununennium.training.callbacks.ema import averaged_weights


class Shared(nn.Module):
    """One module under two names, one weight under two, and one BatchNorm for both branches."""

    def __init__(self, shared=True):
        super().__init__()
        make = (lambda module: module) if shared else copy.deepcopy
        self.before = nn.Linear(4, 4, bias=False)
        self.after = make(self.before)
        self.norm = nn.BatchNorm1d(4)
        self.other_norm = make(self.norm)
        self.head = nn.Linear(4, 4, bias=False)
        if shared:
            self.head.weight = self.before.weight
        self.out = nn.Linear(8, 3)

    def forward(self, image):
        return self.out(torch.cat([self.norm(self.before(image)), self.head(self.other_norm(self.after(image)))], 1))


class Transposed(nn.Module):
    """Encoder and decoder share memory, but not one tensor: the one is a view of the other."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 3, bias=False)
        self.register_buffer("decoder", self.encoder.weight.detach().t())

    def forward(self, image):
        return self.encoder(image @ self.decoder @ self.decoder.t())


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.cfloat))

    def forward(self, image):
        return (image.to(torch.cfloat) @ self.weight).abs()


class Truth(Callback):
    """The same average, written out, in double precision, and the raw weights around each validation."""

    priority = -1

    def __init__(self, decay):
        self.decay, self.number, self.before, self.kept = decay, 0, [], True

    def on_fit_start(self, trainer):
        self.average = {key: widened(value) for key, value in trainer.module.state_dict().items()}

    def on_step_end(self, trainer):
        self.number += 1
        decay = min(self.decay, (1 + self.number) / (10 + self.number))
        for key, value in trainer.module.state_dict().items():
            self.average[key] += (1 - decay) * (widened(value) - self.average[key])

    def around_validation(self, trainer):
        self.before = [value.clone() for value in trainer.module.state_dict().values()]
        return super().around_validation(trainer)

    def on_validation_end(self, trainer):
        after = trainer.module.state_dict().values()
        self.kept &= all(torch.equal(one, two) for one, two in zip(self.before, after, strict=True))


def widened(tensor):
    return tensor.detach().to(torch.complex128 if tensor.is_complex() else torch.float64).clone()


def train(kit, model, callbacks, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.randn(8, 4, generator=generator).to(dtype), torch.randint(0, 3, (8,), generator=generator))
        for _ in range(6)
    ]
    trainer = kit.trainer(model, batches, val_loader=batches[:2], callbacks=callbacks, epochs=3)
    return trainer.fit(), trainer


@pytest.mark.parametrize("make", [Shared, Transposed, Complex])
def test_averages_change_nothing_of_what_is_trained(kit, make):
    """correctness 60, 87: tied weights, shared modules and buffers, views and complex weights are swapped once each."""
    states = []
    for callbacks in ([], [Truth(0.9), EMA(0.9)]):
        torch.manual_seed(0)
        model = make()
        history, _ = train(kit, model, callbacks)
        states.append((kit.weights(model), history["train_loss"]))
    assert kit.same(states[0][0], states[1][0])
    assert states[0][1] == states[1][1]
    assert callbacks[0].kept  # and so are the raw weights right after each validation


@pytest.mark.parametrize(
    ("make", "dtype"),
    [
        (Shared, torch.float32),
        (Transposed, torch.float32),
        (Complex, torch.float32),
        (lambda: nn.Linear(4, 3).bfloat16(), torch.bfloat16),
        (lambda: nn.Linear(4, 3).half(), torch.float16),
        (lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)).double(), torch.float64),
    ],
)
def test_the_average_is_the_average(kit, make, dtype):
    """correctness 87: against one in double precision; low precision would round its small steps away."""
    torch.manual_seed(0)
    model, ema, truth = make(), EMA(0.99), Truth(0.99)
    _, trainer = train(kit, model, [truth, ema], dtype)
    kept = ema.state_dict()["weights"]
    assert kept.keys() == model.state_dict().keys()
    for key, value in model.state_dict().items():
        if value.is_floating_point() or value.is_complex():
            torch.testing.assert_close(widened(kept[key]), truth.average[key], rtol=1e-5, atol=1e-6)
            assert kept[key].dtype.itemsize >= 4
        else:
            assert torch.equal(kept[key], value)
    exported = averaged_weights(trainer.state_dict())
    assert {key: value.dtype for key, value in exported.items()} == {
        key: value.dtype for key, value in model.state_dict().items()
    }


@pytest.mark.parametrize("make", [Shared, lambda: nn.Linear(4, 3).bfloat16()])
def test_validation_sees_the_average(kit, make):
    """correctness 60, 87: under every name, also if validation raises."""
    torch.manual_seed(0)
    model, ema, seen = make(), EMA(0.5), []
    dtype = next(model.parameters()).dtype

    class Look(Callback):
        def on_validation_batch(self, trainer, output, target):
            seen.append([value.clone() for value in trainer.module.state_dict().values()])
            if len(seen) == 3:
                raise RuntimeError("broken")

    truth = Truth(0.5)
    with pytest.raises(RuntimeError, match="broken"):
        train(kit, model, [truth, ema, Look()], dtype)
    for value, key in zip(seen[-1], model.state_dict(), strict=True):
        if value.is_floating_point():
            torch.testing.assert_close(value, truth.average[key].to(dtype), rtol=1e-2, atol=1e-2)
    assert kit.same(kit.weights(model), truth.before)


def test_a_checkpoint_with_averages_in_low_precision_still_loads(kit):
    """correctness 59, 87: as earlier versions wrote it."""
    torch.manual_seed(0)
    model, ema = nn.Linear(4, 3).bfloat16(), EMA(0.9)
    _, trainer = train(kit, model, [ema], torch.bfloat16)
    checkpoint = trainer.state_dict()
    weights = checkpoint["callbacks"]["EMA"]["weights"]
    checkpoint["callbacks"]["EMA"]["weights"] = {key: value.bfloat16() for key, value in weights.items()}
    again = EMA(0.9)
    other = kit.trainer(nn.Linear(4, 3).bfloat16(), [], callbacks=[again])
    other.load_state_dict(checkpoint)
    again.on_fit_start(other)
    for key, value in again.state_dict()["weights"].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, weights[key].bfloat16().float())


def test_an_expanded_buffer_is_averaged_as_others_are(kit):
    """correctness 87: its elements share their memory, and are written once."""
    model, plain = nn.Linear(4, 3), nn.Linear(4, 3)
    plain.load_state_dict(model.state_dict())
    model.register_buffer("scale", torch.full((1, 2), 0.5).expand(4, 2))
    kit.trainer(model, kit.loader(), val_loader=kit.loader(), callbacks=[EMA(0.9)], epochs=2).fit()
    kit.trainer(plain, kit.loader(), val_loader=kit.loader(), epochs=2).fit()
    assert torch.equal(model.weight, plain.weight)
    assert torch.equal(model.scale, torch.full((4, 2), 0.5))


def test_weights_without_a_shape_are_refused_by_name(kit):
    """correctness 87"""
    with pytest.raises(ConfigError, match=r"EMA = 'weight': .*one batch before training"):
        kit.trainer(nn.LazyLinear(3), kit.loader(), callbacks=[EMA(0.9)]).fit()
