"""A resumed run reads what an undisturbed one would have read, from whatever plain loader, or is refused at once."""

from __future__ import annotations

import io
import itertools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tests.stopping import StopAt
from ununennium.errors import CheckpointError
from ununennium.training.callbacks import Callback

NUMBERS = torch.arange(12.0).reshape(12, 1)


class Recorder(nn.Module):
    """A model with dropout, which draws from the global generator, that remembers what it was trained on."""

    def __init__(self):
        super().__init__()
        self.layer, self.dropout, self.seen = nn.Linear(1, 1), nn.Dropout(0.3), []

    def forward(self, image):
        if self.training:
            self.seen.append(image.flatten().int().tolist())
        return self.layer(self.dropout(image))


class OwnDraws(Callback):
    """It draws from the global generators at the start of each epoch, as some augmentations do."""

    def on_epoch_start(self, trainer):
        torch.rand(3), random.random(), np.random.rand()  # noqa: NPY002


def through_a_file(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Run:
    """One process's part of a run, over a loader of its own: what it was trained on, its weights and its history."""

    def __init__(self, kit, loader, *, stop_at=None, checkpoint=None, epochs=3, val_loader=None, window=1):
        for seed in (torch.manual_seed, random.seed, np.random.seed):
            seed(1 if checkpoint is None else 99)  # a resumed process has drawn other numbers before
        model = Recorder()
        if checkpoint is None:
            with torch.no_grad():
                model.layer.weight.fill_(0.5)
                model.layer.bias.fill_(0.0)
        trainer = kit.trainer(
            model, loader, nn.MSELoss(), val_loader=val_loader, callbacks=[StopAt(stop_at), OwnDraws()],
            optimizer=torch.optim.SGD(model.parameters(), lr=1e-3), accumulation_steps=window,
        )  # fmt: skip
        if checkpoint is not None:
            trainer.load_state_dict(checkpoint)
        self.history = trainer.fit(epochs)
        self.seen, self.weights = model.seen, kit.weights(model)
        self.checkpoint = through_a_file(trainer.state_dict())
        self.trainer = trainer


def assert_exact(kit, make, *, stops=(3, 4), **arguments):
    """Stopped and resumed at each of ``stops`` (in optimizer steps), one after the other, the run is as undisturbed."""
    whole, parts, checkpoint = Run(kit, make(), **arguments), [], None
    for stop in (*stops, None):
        part = Run(kit, make(), stop_at=stop, checkpoint=checkpoint, **arguments)
        parts += part.seen
        checkpoint = part.checkpoint
    assert parts == whole.seen
    assert kit.same(part.weights, whole.weights)
    assert part.history == whole.history


class Reversed(BatchSampler):
    """Batches of another order within: a subclass without a seed of its own."""

    def __iter__(self):
        return (batch[::-1] for batch in super().__iter__())


class Stateful(Sampler):
    """It counts its epochs itself, and says where it is."""

    def __init__(self):
        self.number = 0

    def __len__(self):
        return 12

    def __iter__(self):
        order = np.random.default_rng([5, self.number]).permutation(12).tolist()
        self.number += 1
        return iter(order)

    def state_dict(self):
        return {"number": self.number}

    def load_state_dict(self, state):
        self.number = state["number"]


class Drawing(Sampler):
    """A custom order from a generator that it holds."""

    def __init__(self, rng):
        self.rng = rng

    def __len__(self):
        return 12

    def __iter__(self):
        order = list(range(12))
        self.rng.shuffle(order)
        yield from order


class Noisy(Dataset):
    """A dataset that augments in the main process, from its own generator."""

    def __init__(self):
        self.rng = np.random.default_rng(3)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        number = NUMBERS[index] + 100 * int(self.rng.integers(9))
        return number, number


def own():
    return torch.Generator().manual_seed(7)


DATA = TensorDataset(NUMBERS, NUMBERS)
LOADERS = {
    "shuffle, own generator": lambda: DataLoader(DATA, 4, shuffle=True, generator=own()),
    "weights, own generator": lambda: DataLoader(
        DATA, 4, sampler=WeightedRandomSampler([1.0] * 12, 12, generator=own())
    ),
    "replacement, own generator": lambda: DataLoader(
        DATA, 4, sampler=RandomSampler(DATA, replacement=True, num_samples=12, generator=own())
    ),
    "subset, own generator": lambda: DataLoader(DATA, 4, sampler=SubsetRandomSampler(range(12), generator=own())),
    "generators apart": lambda: DataLoader(
        DATA, 4, sampler=RandomSampler(DATA, generator=own()), generator=torch.Generator().manual_seed(8)
    ),
    "batch_sampler": lambda: DataLoader(
        DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=own()), 4, drop_last=True)
    ),
    "batch sampler of a subclass": lambda: DataLoader(DATA, batch_sampler=Reversed(RandomSampler(DATA), 4, False)),
    "samples without batches": lambda: DataLoader(
        [(NUMBERS[i : i + 1], NUMBERS[i : i + 1]) for i in range(12)], batch_size=None, shuffle=True, generator=own()
    ),
    "concatenated": lambda: DataLoader(
        ConcatDataset([TensorDataset(NUMBERS[:5], NUMBERS[:5]), TensorDataset(NUMBERS[5:], NUMBERS[5:])]),
        4, shuffle=True, generator=own(),
    ),
    "sampler with state": lambda: DataLoader(DATA, 4, sampler=Stateful()),
    "sampler with NumPy's generator": lambda: DataLoader(DATA, 4, sampler=Drawing(np.random.default_rng(3))),
    "sampler with an older NumPy generator": lambda: DataLoader(DATA, 4, sampler=Drawing(np.random.RandomState(3))),
    "sampler with Python's generator": lambda: DataLoader(DATA, 4, sampler=Drawing(random.Random(3))),
    "sampler of the global generator": lambda: DataLoader(DATA, 4, sampler=Drawing(random)),
    "augmenting dataset": lambda: DataLoader(ConcatDataset([Noisy()]), 4, shuffle=True),
    "workers, own generator": lambda: DataLoader(DATA, 4, shuffle=True, generator=own(), num_workers=2),
}  # fmt: skip


@pytest.mark.parametrize("stops", [("epoch 1",), (3,), (4, 5), (2, "epoch 2")], ids=str)
@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.filterwarnings("ignore:train_loader")
def test_a_resumed_run_reads_what_an_undisturbed_one_reads(kit, name, stops):
    """correctness 62, 63, 64, 85: order, weights and history to the bit, at an epoch's end and within it."""
    assert_exact(kit, LOADERS[name], stops=stops)


@pytest.mark.parametrize(
    ("method", "workers", "generator", "stops"),
    [
        ("fork", 1, None, (1, 4)),
        ("fork", 2, None, ("epoch 1", 7)),
        ("fork", 1, own, ("epoch 2",)),
        ("fork", 2, own, (2, "epoch 1", 4)),
        pytest.param("spawn", 2, own, (4,), marks=pytest.mark.slow),
        pytest.param("spawn", 1, None, ("epoch 1",), marks=pytest.mark.slow),
    ],
)
def test_persistent_workers_are_resumed_exactly(kit, method, workers, generator, stops):
    """correctness 62, 85: a fresh process starts its workers without moving the generators of the run."""

    def make():
        return DataLoader(
            DATA, 4, shuffle=True, num_workers=workers, persistent_workers=True, multiprocessing_context=method,
            generator=generator and generator(),
        )  # fmt: skip

    assert_exact(kit, make, stops=stops)


@pytest.mark.parametrize("stop_at", [1, 4])
def test_fit_goes_on_in_the_same_process_with_persistent_workers(kit, stop_at):
    """correctness 63, 85: a stop within an epoch is no end of the process; its workers are started anew."""

    def make():
        return DataLoader(DATA, 4, shuffle=True, num_workers=1, persistent_workers=True)

    whole = Run(kit, make())
    part = Run(kit, make(), stop_at=stop_at)
    part.trainer.fit(3)
    assert part.trainer.module.seen == whole.seen
    assert kit.same(kit.weights(part.trainer.module), whole.weights)


def test_a_shuffled_validation_goes_on_with_its_own_order(kit):
    """correctness 36, 85: the history too is to the bit, and a generator that both loaders share trains as without."""

    def run(shared, **arguments):
        generator = own()
        train = DataLoader(DATA, 4, shuffle=True, generator=generator)
        other = generator if shared else torch.Generator().manual_seed(5)
        noise = TensorDataset(torch.rand(11, 1), torch.rand(11, 1))
        return Run(kit, train, val_loader=DataLoader(noise, 3, shuffle=True, generator=other), **arguments)

    whole = run(shared=False)
    first = run(shared=False, stop_at=4)
    torch.manual_seed(1)
    second = run(shared=False, checkpoint=first.checkpoint)
    assert second.trainer.history["train_loss"] == whole.history["train_loss"]
    assert run(shared=True).seen == Run(kit, DataLoader(DATA, 4, shuffle=True, generator=own())).seen == whole.seen


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 4), (4, 2), (5, 4)])
@pytest.mark.parametrize("kind", ["in order", "shuffle", "own generator", "replacement", "two workers", "persistent"])
def test_another_batch_size_within_an_epoch_goes_on_by_samples(kit, kind, before, after):
    """correctness 63, 85: the rest of the epoch's samples, each once, in the epoch's order; then whole epochs."""
    if kind in ("two workers", "persistent") and (before, after) != (3, 4):
        pytest.skip("one pair of sizes is enough where processes are started")

    def make(size):
        arguments = {
            "in order": dict,
            "shuffle": lambda: {"shuffle": True},
            "own generator": lambda: {"shuffle": True, "generator": own()},
            "replacement": lambda: {"sampler": RandomSampler(DATA, replacement=True, num_samples=12, generator=own())},
            "two workers": lambda: {"shuffle": True, "num_workers": 2},
            "persistent": lambda: {"shuffle": True, "num_workers": 1, "persistent_workers": True},
        }[kind]()
        return DataLoader(DATA, size, **arguments)

    whole = [number for batch in Run(kit, make(before), epochs=1).seen for number in batch]
    first = Run(kit, make(before), stop_at=2, epochs=1)
    second = Run(kit, make(after), stop_at=3, checkpoint=first.checkpoint, epochs=1)  # once more within the same epoch
    third = Run(kit, make(after), checkpoint=second.checkpoint, epochs=2)
    trained = [number for run in (first, second, third) for batch in run.seen for number in batch]
    assert trained[:12] == whole
    assert len(trained) == 24
    assert kind == "replacement" or sorted(trained[12:]) == list(range(12))
    assert second.seen[0] == whole[2 * before : 2 * before + after]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda: DataLoader(TensorDataset(NUMBERS[:10], NUMBERS[:10]), 4, shuffle=True), "samples was 12 and is 10"),
        (lambda: DataLoader(DATA, 4), "RandomSampler"),
        (lambda: DataLoader(DATA, 4, shuffle=True, generator=own()), "generator"),
        (lambda: DataLoader(DATA, 4, sampler=RandomSampler(DATA, replacement=True)), "replacement=True"),
        (lambda: DataLoader(DATA, batch_sampler=Reversed(RandomSampler(DATA), 4, False)), "Reversed"),
        (lambda: [(NUMBERS[:4], NUMBERS[:4])] * 5, "batches"),
    ],
)
def test_a_loader_that_has_changed_within_an_epoch_is_refused_before_the_first_step(kit, change, words):
    """correctness 63, 85: nothing is skipped or repeated in silence; at an epoch's end it may change."""
    within = Run(kit, DataLoader(DATA, 4, shuffle=True), stop_at=4).checkpoint
    with pytest.raises(CheckpointError, match=rf"within epoch 2.*{words}.*end of an epoch"):
        Run(kit, change(), checkpoint=within)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        between = Run(kit, DataLoader(DATA, 4, shuffle=True), epochs=1).checkpoint
        assert len(Run(kit, change(), checkpoint=between).seen) >= 6


class Unseeded(Sampler):
    """An order that nobody can know again."""

    numbers = itertools.count()

    def __len__(self):
        return 12

    def __iter__(self):
        yield from np.random.default_rng(next(self.numbers)).permutation(12).tolist()


class Backwards(Sampler):
    """A custom order without any chance."""

    def __len__(self):
        return 12

    def __iter__(self):
        return iter(range(11, -1, -1))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_sampler_without_a_seed_trains_with_a_warning_and_is_not_resumed_within_an_epoch(kit, workers):
    """correctness 85: what it drew is recorded, and another order is refused, before the first step."""

    def make():
        return DataLoader(DATA, 4, sampler=Unseeded(), num_workers=workers)

    with pytest.warns(UserWarning, match="Unseeded without set_epoch") as caught:
        within = Run(kit, make(), stop_at=4).checkpoint
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError, match=r"order of Unseeded .* give the sampler set_epoch\(\)"):
            Run(kit, make(), checkpoint=within)
        between = Run(kit, make(), epochs=1).checkpoint
        assert len(Run(kit, make(), checkpoint=between).seen) == 6


def test_a_custom_order_that_is_the_same_each_time_is_resumed(kit):
    """correctness 85: evidence decides, not the class: a sampler is refused only if it gives another order."""
    with pytest.warns(UserWarning, match="Backwards"):
        assert_exact(kit, lambda: DataLoader(DATA, 4, sampler=Backwards()), stops=(4,))


class Stream(IterableDataset):
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        place, of = (0, 1) if worker is None else (worker.id, worker.num_workers)
        return iter([(number, number) for number in NUMBERS[place::of]])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_is_replayed_with_one_warning(kit, workers):
    """correctness 63, 85: its first batches are read again and dropped."""
    with pytest.warns(UserWarning, match="IterableDataset Stream") as caught:
        Run(kit, DataLoader(Stream(), 2, num_workers=workers), epochs=1)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_exact(kit, lambda: DataLoader(Stream(), 2, num_workers=workers), stops=(4, 8))


def test_batches_that_arrive_out_of_order_are_not_resumed_within_an_epoch(kit):
    """correctness 85: with in_order=False nobody knows the samples that were consumed."""

    def make():
        return DataLoader(DATA, 4, num_workers=2, in_order=False)

    with pytest.warns(UserWarning, match="in_order=False"):
        within = Run(kit, make(), stop_at=1).checkpoint
    with pytest.raises(CheckpointError, match="in_order=False"):
        Run(kit, make(), checkpoint=within)


def test_a_checkpoint_of_an_earlier_version_still_loads(kit):
    """correctness 59: without the loader's state, with a warning where that matters."""
    old = Run(kit, DataLoader(DATA, 4, shuffle=True), stop_at=4).checkpoint
    whole = Run(kit, DataLoader(DATA, 4, shuffle=True))
    del old["loaders"]
    assert Run(kit, DataLoader(DATA, 4, shuffle=True), checkpoint=old).seen == whole.seen[4:]
    with pytest.warns(UserWarning, match=r"does not hold the state of sampler\.generator"):
        Run(kit, DataLoader(DATA, 4, shuffle=True, generator=own()), checkpoint=old)


def test_a_window_in_progress_is_not_lost(kit):
    """correctness 62, 85: with accumulation the position counts micro-batches."""
    make = LOADERS["shuffle, own generator"]
    assert_exact(kit, make, stops=(3,), window=2)
