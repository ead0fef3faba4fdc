"""The gradient of a window is that of the loss over the union of its valid pixels."""

from __future__ import annotations

import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ununennium.errors import ConfigError, DataError
from ununennium.losses import CrossEntropyLoss
from ununennium.training.callbacks import Callback


class CountSteps(Callback):
    def __init__(self):
        self.steps = []

    def on_step_end(self, trainer):
        self.steps.append(trainer.state.batches_done)


@pytest.mark.parametrize("window", [1, 2, 3, 4, 6, 7])
def test_an_epoch_takes_the_ceiling_of_batches_over_window_and_leaves_no_gradient(kit, window):
    """correctness 1: optimizer steps per epoch = ceil(N/k); no gradient survives an epoch boundary."""
    model = kit.model()
    counter = CountSteps()
    trainer = kit.trainer(model, kit.loader(24, 4), accumulation_steps=window, epochs=2, callbacks=[counter])
    trainer.fit()
    assert trainer.state.global_step == 2 * -(-6 // window)
    assert counter.steps[-1] == 6
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("short", [1, 2, 3])
@pytest.mark.parametrize(
    "loss_fn", [nn.CrossEntropyLoss(), lambda output, target: nn.functional.cross_entropy(output, target)]
)
def test_a_short_last_window_weighs_like_its_union(kit, short, loss_fn):
    """correctness 2: in a window of r <= k micro-batches the gradient equals that over their union, for every r."""
    data = kit.dataset(4 * (3 + short))
    batches = [data[i : i + 4] for i in range(0, len(data), 4)]
    model, reference = kit.model(), kit.model()
    kit.trainer(model, batches, loss_fn, accumulation_steps=3, gradient_clip=None).fit()
    unions = [data[:12], data[12 : 12 + 4 * short]]
    kit.plain_loop(reference, torch.optim.SGD(reference.parameters(), lr=0.1), unions, 1, clip=None)
    for ours, theirs in zip(kit.weights(model), kit.weights(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_batches_of_different_size_in_a_window_weigh_by_their_samples(kit):
    """correctness 2: a mean-of-means would weigh a batch of one like a batch of seven."""
    data = kit.dataset(8)
    model, reference = kit.model(), kit.model()
    kit.trainer(model, [data[:7], data[7:]], accumulation_steps=2, gradient_clip=None).fit()
    kit.plain_loop(reference, torch.optim.SGD(reference.parameters(), lr=0.1), [data[:]], 1, clip=None)
    for ours, theirs in zip(kit.weights(model), kit.weights(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(shares=st.lists(st.sampled_from([0.0, 0.06, 0.5, 1.0]), min_size=1, max_size=5), window=st.integers(1, 5))
@pytest.mark.parametrize("loss", ["torch", "ours", "pair"])
def test_the_gradient_is_the_mean_over_valid_pixels_of_the_window(kit, loss, shares, window):
    """correctness 3: sum over valid pixels / number of valid pixels in the window, not a mean of means."""
    loss_fn = {
        "torch": nn.CrossEntropyLoss(ignore_index=255),
        "ours": CrossEntropyLoss(ignore_index=255),
        "pair": kit.pixel_sum(),
    }[loss]
    tiles = kit.tiles(shares)
    model, reference = kit.segmenter(), kit.segmenter()
    kit.trainer(model, tiles, loss_fn, accumulation_steps=window, gradient_clip=None).fit()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1)
    for start in range(0, len(tiles), window):
        image = torch.cat([tile[0] for tile in tiles[start : start + window]])
        target = torch.cat([tile[1] for tile in tiles[start : start + window]])
        if (target != 255).any():
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(image), target, ignore_index=255).backward()
            optimizer.step()
    for ours, theirs in zip(kit.weights(model), kit.weights(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_torch_class_weights_divide_by_the_weights_of_valid_pixels(kit, weighted):
    """correctness 3: torch's own mean with class weights, over the union of the window."""
    class_weights = torch.tensor([1.0, 2.0, 0.5]) if weighted else None
    loss_fn = nn.CrossEntropyLoss(weight=class_weights, ignore_index=255)
    tiles = kit.tiles([0.2, 0.9])
    model, reference = kit.segmenter(), kit.segmenter()
    kit.trainer(model, tiles, loss_fn, accumulation_steps=2, gradient_clip=None).fit()
    image, target = torch.cat([tiles[0][0], tiles[1][0]]), torch.cat([tiles[0][1], tiles[1][1]])
    loss_fn(reference(image), target).backward()
    torch.optim.SGD(reference.parameters(), lr=0.1).step()
    for ours, theirs in zip(kit.weights(model), kit.weights(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(ignore_index=255), CrossEntropyLoss(ignore_index=255)])
def test_a_micro_batch_without_a_valid_pixel_counts_for_nothing(kit, loss_fn):
    """correctness 4: zero gradient, zero weight, no NaN."""
    empty, full = kit.tiles([0.0])[0], kit.tiles([1.0], seed=3)[0]
    model, alone = kit.segmenter(), kit.segmenter()
    trainer = kit.trainer(model, [empty, full], loss_fn, accumulation_steps=2)
    history = trainer.fit()
    alone_history = kit.trainer(alone, [full], loss_fn, accumulation_steps=2).fit()
    assert history["train_loss"] == alone_history["train_loss"]
    for ours, theirs in zip(kit.weights(model), kit.weights(alone), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(ignore_index=255), CrossEntropyLoss(ignore_index=255)])
def test_a_window_without_a_valid_pixel_is_skipped_counted_and_logged(kit, caplog, window, loss_fn):
    """correctness 5: weights (momentum and weight decay included) are bit-unchanged, and the log says so."""
    model = kit.segmenter()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    trainer = kit.trainer(model, kit.tiles([0.0, 0.0]), loss_fn, optimizer=optimizer, accumulation_steps=window)
    before = kit.weights(model)
    with caplog.at_level(logging.WARNING, logger="ununennium"):
        trainer.fit()
    assert kit.same(before, kit.weights(model))
    assert trainer.state.skipped_steps == 2 // window
    assert trainer.state.global_step == 0
    assert "no valid pixel" in caplog.text


@pytest.mark.parametrize(("batch_size", "window"), [(1, 1), (3, 2), (8, 5), (24, 1)])
def test_the_train_loss_of_an_epoch_is_the_mean_over_samples(kit, batch_size, window):
    """correctness 7: sum(loss_i n_i) / sum(n_i), whatever the batch size and the window (the model stands still)."""
    model = kit.model()
    data = kit.dataset(23)
    loader = torch.utils.data.DataLoader(data, batch_size=batch_size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    history = kit.trainer(model, loader, optimizer=optimizer, accumulation_steps=window).fit()
    expected = nn.functional.cross_entropy(model(data.tensors[0]), data.tensors[1]).item()
    assert history["train_loss"] == [pytest.approx(expected, rel=1e-6)]


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("kind", ["module", "function"])
def test_without_accumulation_weights_equal_a_plain_loop_to_the_bit(kit, kind, clip):
    """correctness 10: accumulation_steps=1, fp32."""
    loss_fn = nn.CrossEntropyLoss() if kind == "module" else lambda o, t: nn.functional.cross_entropy(o, t)
    model, reference = kit.model(), kit.model()
    loader = kit.loader(22, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    kit.trainer(model, loader, loss_fn, optimizer=optimizer, gradient_clip=clip, epochs=3).fit()
    kit.plain_loop(reference, torch.optim.AdamW(reference.parameters(), lr=0.01), loader, 3, clip)
    assert kit.same(kit.weights(model), kit.weights(reference))


def test_a_loader_without_length_has_its_tail_stepped(kit):
    """correctness 11: an iterable dataset, whose length nobody knows."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from (kit.dataset(20)[i] for i in range(20))

    model, reference = kit.model(), kit.model()
    trainer = kit.trainer(
        model, torch.utils.data.DataLoader(Stream(), batch_size=4), accumulation_steps=2, gradient_clip=None
    )
    trainer.fit()
    assert trainer.state.global_step == 3
    data = kit.dataset(20)
    unions = [data[0:8], data[8:16], data[16:20]]
    kit.plain_loop(reference, torch.optim.SGD(reference.parameters(), lr=0.1), unions, 1, clip=None)
    for ours, theirs in zip(kit.weights(model), kit.weights(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def _as_pair(image, target, valid):
    return image, target.masked_fill(~valid, 255)


def _as_triple(image, target, valid):
    return image, target, valid


def _as_mapping(image, target, valid):
    return {"image": image, "target": target, "valid": valid}


def test_every_form_of_batch_trains_alike(kit):
    """(image, target), (image, target, valid) and mappings mean the same."""
    results = []
    for form in (_as_pair, _as_triple, _as_mapping):
        batches = [form(i, t.masked_fill(t == 255, 0), t != 255) for i, t in kit.tiles([0.3, 0.8])]
        model = kit.segmenter()
        kit.trainer(model, batches, CrossEntropyLoss(ignore_index=255)).fit()
        results.append(kit.weights(model))
    assert kit.same(results[0], results[1])
    assert kit.same(results[0], results[2])


def test_a_loss_with_a_third_parameter_is_given_the_mask(kit):
    def loss_fn(output, target, valid):
        per_pixel = nn.functional.cross_entropy(output, target, reduction="none")
        return (per_pixel * valid).sum(), valid.sum()

    batches = [(i, t.masked_fill(t == 255, 0), t != 255) for i, t in kit.tiles([0.3, 0.8])]
    model, reference = kit.segmenter(), kit.segmenter()
    kit.trainer(model, batches, loss_fn).fit()
    kit.trainer(reference, kit.tiles([0.3, 0.8]), CrossEntropyLoss(ignore_index=255)).fit()
    for ours, theirs in zip(kit.weights(model), kit.weights(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("batch", "loss_fn", "error", "words"),
    [
        ((torch.ones(1, 4),), nn.MSELoss(), DataError, "1 parts"),
        (torch.ones(1, 4), nn.MSELoss(), DataError, "Tensor"),
        ({"image": torch.ones(1, 4)}, nn.MSELoss(), DataError, "'target'"),
        ((torch.ones(1, 4), torch.ones(1, 3), torch.ones(1, 3).bool()), nn.MSELoss(), ConfigError, "valid mask"),
        ((torch.ones(1, 4), torch.ones(1, 3), torch.ones(1, 3)), nn.MSELoss(), ConfigError, "weights"),
        ((torch.ones(1, 4), torch.ones(1, 3)), nn.MSELoss(reduction="none"), ConfigError, "0-dim"),
    ],
)
def test_a_batch_or_loss_that_cannot_work_is_named(kit, batch, loss_fn, error, words):
    with pytest.raises(error, match=words):
        kit.trainer(kit.model(), [batch], loss_fn).fit()


def test_an_empty_loader_is_an_error(kit):
    with pytest.raises(DataError, match="no batch"):
        kit.trainer(kit.model(), []).fit()
