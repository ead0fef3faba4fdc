"""Generators that transforms, collate functions, losses and models hold of their own go on where they were."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset, default_collate

from tests.stopping import StopAt
from ununennium.training import CheckpointCallback, StopReason, Trainer, TrainerConfig
from ununennium.training.callbacks import Callback
from ununennium.training.generators import generators_of

NUMBERS = TensorDataset(torch.arange(12.0).reshape(12, 1), torch.ones(12, 1))


class StopInValidation(Callback):
    """Stop after the first batch of the first validation."""

    def on_validation_batch(self, trainer, output, target):
        if trainer.state.epoch == 0:
            trainer.request_stop(StopReason.PREEMPTED)


class Noise:
    def __init__(self, seed):
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, value):
        return value + torch.rand(value.shape, generator=self.generator)


class NumpyNoise(nn.Module):
    """A transform that is a module, as torchvision's are."""

    def __init__(self, seed):
        super().__init__()
        self.rng = np.random.default_rng(seed)

    def forward(self, value):
        return value + float(self.rng.random())


class Compose:
    def __init__(self, *transforms):
        self.transforms = transforms

    def __call__(self, value):
        for transform in self.transforms:
            value = transform(value)
        return value


class Noisy(Dataset):
    def __init__(self, augment):
        self.augment = augment

    def __len__(self):
        return 12

    def __getitem__(self, index):
        image, target = NUMBERS[index]
        return self.augment(image), target


class NoisyModel(nn.Linear):
    def __init__(self, *, is_noisy=False):
        super().__init__(1, 1)
        self.noise = Noise(5) if is_noisy else None

    def forward(self, image):
        return super().forward(image if self.noise is None or not self.training else self.noise(image))


class Mix:
    """A batch transform; it draws in validation too."""

    def __init__(self):
        self.noise = Noise(6)

    def __call__(self, image, target, valid, *, training, epoch, batch):
        return self.noise(image), target


def by_python(seed):
    generator = random.Random(seed)
    return lambda value: value + generator.random()


def collate(generator, samples):
    image, target = default_collate(samples)
    return image + torch.rand(image.shape, generator=generator), target


def collate_with(seed):
    generator = torch.Generator().manual_seed(seed)
    return lambda samples: collate(generator, samples)


def noisy_loss():
    noise = Noise(7)
    return lambda output, target: (output - noise(target)).square().mean()


def of_dataset(*transforms):
    return lambda: {"loader": DataLoader(Noisy(Compose(*(make() for make in transforms))), 4, shuffle=True)}


CASES = {
    "transforms in a list": of_dataset(lambda: Noise(1), lambda: NumpyNoise(2)),
    "transforms in a list in a module": of_dataset(lambda: nn.Sequential(NumpyNoise(1), NumpyNoise(2))),
    "transform in a closure": of_dataset(lambda: by_python(1)),
    "collate function": lambda: {"loader": DataLoader(NUMBERS, 4, shuffle=True, collate_fn=collate_with(3))},
    "batch transform": lambda: {"batch_transform": Mix()},
    "loss": lambda: {"loss": noisy_loss()},
    "model": lambda: {"model": NoisyModel(is_noisy=True)},
}


def train(folder, make, *, callbacks=(), resume=False):
    torch.manual_seed(0)
    parts = {"loader": DataLoader(NUMBERS, 4, shuffle=True), "model": NoisyModel(), "loss": nn.MSELoss()} | make()
    model = parts["model"]
    trainer = Trainer(
        model, torch.optim.SGD(model.parameters(), lr=1e-3), parts["loss"], parts["loader"],
        [tuple(tensor[:4] for tensor in NUMBERS.tensors)] * 2,
        callbacks=[CheckpointCallback(str(folder), monitor="train_loss"), *callbacks],
        config=TrainerConfig(epochs=3, seed=1, device="cpu", mixed_precision=False),
        batch_transform=parts.get("batch_transform"),
    )  # fmt: skip
    history = trainer.fit(resume_from=str(folder) if resume else None)
    return [value.clone() for value in model.state_dict().values()], history


@pytest.mark.parametrize("name", CASES)
def test_generators_wherever_they_are_held_go_on_where_they_were(kit, name, tmp_path):
    """correctness 62, 63: stopped within an epoch, in validation, and at an epoch's end."""
    make = CASES[name]
    weights, history = train(tmp_path / "whole", make)
    parts = tmp_path / "parts"
    for number, stop in enumerate((StopAt(2), StopInValidation(), StopAt(6), None)):
        got, got_history = train(parts, make, callbacks=[stop] if stop else [], resume=number > 0)
    assert kit.same(got, weights)
    for metric in ("train_loss", "val_loss"):
        assert got_history[metric] == history[metric]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (2, 0)])
def test_a_lazy_sampler_is_resumed_with_another_number_of_workers(before, after, tmp_path):
    """correctness 62: it draws while it is read, and workers read ahead."""
    seen = []

    def make(workers):
        sampler = RandomSampler(NUMBERS, replacement=True, num_samples=80, generator=torch.Generator().manual_seed(7))
        loss = lambda output, target: (seen.append(output.tolist()), output.mean())[1]  # noqa: E731
        return lambda: {"loader": DataLoader(NUMBERS, 4, sampler=sampler, num_workers=workers), "loss": loss}

    train(tmp_path / "whole", make(before))
    whole = list(seen)
    seen.clear()
    train(tmp_path / "parts", make(before), callbacks=[StopAt(5)])
    train(tmp_path / "parts", make(after), resume=True)
    assert seen == whole


def test_what_only_looks_like_an_object_of_the_user_is_not_walked_through():
    """Samples by the million, threads and running workers hold nothing that decides an order."""
    loader = DataLoader(Noisy(Noise(1)), 4, generator=torch.Generator())
    loader.dataset.samples = [str(number) for number in range(100_000)]
    loader.dataset.itself = loader
    loader._iterator = Noise(2)
    assert list(generators_of(loader)) == ["dataset.augment.generator", "generator"]
