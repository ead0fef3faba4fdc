"""Tiles of any size and overlap give the map that one pass over the whole would give."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ununennium.errors import ConfigError, DataError
from ununennium.models import UNet
from ununennium.prediction.forward import cpu_batch_size
from ununennium.prediction.strips import predict_strips


class Array:
    """Reads windows of an array (C, H, W), 0 and invalid outside it and in its holes; remembers what was asked for."""

    def __init__(self, image, hole=None):
        self.image = image
        self.valid = np.ones(image.shape[1:], bool) if hole is None else ~hole
        self.windows = []

    def __call__(self, row, col, height, width):
        self.windows.append((row, col, height, width))
        image, valid = np.zeros((len(self.image), height, width), np.float32), np.zeros((height, width), bool)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.valid.shape[0]), min(col + width, self.valid.shape[1])
        if top < bottom and left < right:
            inside = slice(top - row, bottom - row), slice(left - col, right - col)
            image[(slice(None), *inside)] = self.image[:, top:bottom, left:right]
            valid[inside] = self.valid[top:bottom, left:right]
        return image * valid, valid


class Logistic(nn.Module):
    """The probability of class 1 is a logistic function of the pixel alone."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, image):
        self.batches.append(len(image))
        return torch.cat((-image, image), 1)


def noise(*size, seed=0):
    return np.random.default_rng(seed).normal(size=(1, *size)).astype(np.float32)


def joined(strips):
    """Probabilities and mask of all strips, after making sure that each row is there once and in its place."""
    strips = list(strips)
    assert [strip.row for strip in strips] == np.cumsum([0, *(len(strip.valid) for strip in strips)])[:-1].tolist()
    assert all(strip.probabilities.dtype == np.float32 for strip in strips)
    probabilities = np.concatenate([strip.probabilities for strip in strips], 1)
    return probabilities, np.concatenate([strip.valid for strip in strips])


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    tile=st.integers(1, 40),
    overlap=st.floats(0, 1),
    batch_size=st.integers(1, 5),
)
def test_a_model_without_context_is_exact_for_any_region_tile_and_overlap(height, width, tile, overlap, batch_size):
    image, hole = noise(height, width), np.random.default_rng(1).random((height, width)) < 0.2
    strips = predict_strips(
        Logistic(),
        Array(image, hole),
        height,
        width,
        num_classes=2,
        tile=tile,
        overlap=int(overlap * (tile // 2)),
        batch_size=batch_size,
    )
    probabilities, valid = joined(strips)
    np.testing.assert_array_equal(valid, ~hole)
    np.testing.assert_allclose(probabilities[1][valid], 1 / (1 + np.exp(-2 * image[0][valid])), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(probabilities.sum(0)[valid], 1, atol=1e-6)
    assert (probabilities[:, ~valid] == 0).all()


def test_where_one_tile_has_full_weight_it_is_one_forward_pass_of_the_whole():
    """A U-Net that sees 10 pixels to each side, at least 20 pixels from any tile's edge."""
    torch.manual_seed(0)
    model = UNet(1, 3, base_channels=4, depth=2).eval()
    image = noise(192, 192)
    blended, _ = joined(predict_strips(model, Array(image), 192, 192, num_classes=3, tile=128, overlap=64))
    with torch.no_grad():
        whole = model(torch.from_numpy(image)[None]).softmax(1)[0].numpy()
    np.testing.assert_allclose(blended[:, 44:84, 44:84], whole[:, 44:84, 44:84], atol=1e-5)


def test_no_seam_shows_where_tiles_disagree():
    """A model that answers by tile alone: the blend goes from one answer to the next in a raised cosine, no step."""

    class TileNumber(nn.Module):
        calls = 0

        def forward(self, image):
            self.calls += 1
            sign = 1.0 if self.calls % 2 else -1.0
            return torch.cat((-sign * torch.ones_like(image), sign * torch.ones_like(image)), 1)

    overlap = 32
    strips = predict_strips(
        TileNumber(), Array(noise(64, 160)), 64, 160, num_classes=2, tile=96, overlap=overlap, batch_size=1
    )
    line = joined(strips)[0][1][30]
    assert np.abs(np.diff(line)).max() < (line.max() - line.min()) * np.pi / 2 / overlap * 1.01
    middle = (np.sin(np.pi / 2 * (np.arange(overlap) + 0.5) / overlap)) ** 2
    np.testing.assert_allclose(
        (line[48 : 48 + overlap] - line.min()) / (line.max() - line.min()), 1 - middle, atol=1e-5
    )


def test_rows_come_as_soon_as_no_later_tile_touches_them():
    """Memory does not grow with the height: when a strip comes, the next row of tiles at most has begun to be read."""
    read = Array(noise(2000, 40))
    for strip in predict_strips(Logistic(), read, 2000, 40, num_classes=2, tile=64, overlap=16):
        assert max(row + height for row, _, height, _ in read.windows) <= strip.row + 48 + 64
        assert len(strip.valid) <= 64
    assert len(read.windows) == len(set(read.windows)) == -(-2000 // 48)


def test_tiles_without_anything_valid_are_not_predicted():
    hole = np.ones((128, 256), bool)
    hole[:64, 64:128] = False
    model, read = Logistic(), Array(noise(128, 256), hole)
    probabilities, valid = joined(predict_strips(model, read, 128, 256, num_classes=2, tile=64, overlap=0))
    assert model.batches == [1]
    np.testing.assert_array_equal(valid, ~hole)
    np.testing.assert_allclose(probabilities.sum(0), valid, atol=1e-6)


def test_batches_are_filled_across_a_row_of_tiles():
    model, read = Logistic(), Array(noise(64, 7 * 32))
    joined(predict_strips(model, read, 64, 7 * 32, num_classes=2, tile=32, overlap=0, batch_size=3))
    assert model.batches == [3, 3, 1] * 2
    assert len(read.windows) == 14


def test_the_next_row_of_tiles_is_being_read_while_a_band_is_used():
    begun = threading.Event()

    def read(row, col, height, width):
        if row > 0:
            begun.set()
        return np.zeros((1, height, width), np.float32), np.ones((height, width), bool)

    strip = next(predict_strips(Logistic(), read, 128, 64, num_classes=2, tile=64, overlap=0))
    assert strip.row == 0
    assert begun.wait(10)


@pytest.mark.parametrize(("tile", "expected"), [(32, 128), (256, 2), (512, 1), (4096, 1)])
def test_a_cpu_predicts_about_as_many_pixels_at_a_time(tile, expected):
    assert cpu_batch_size(tile) == expected


@pytest.mark.parametrize("asked", [None, True, False])
def test_channels_come_last_on_a_cpu_and_weights_are_left_as_they_were(asked):
    torch.manual_seed(0)
    model, image = UNet(2, 3, base_channels=4, depth=2), np.concatenate([noise(70, 50), noise(70, 50, seed=1)])
    before = [weight.stride() for weight in model.parameters()]
    seen = []
    model.register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    weight = next(weight for weight in model.parameters() if weight.dim() == 4)
    model.register_forward_hook(lambda *_: seen.append(weight.is_contiguous(memory_format=torch.channels_last)))
    predicted, _ = joined(predict_strips(model, Array(image), 70, 50, num_classes=3, tile=32, channels_last=asked))
    assert set(seen) == {asked is not False}
    assert [weight.stride() for weight in model.parameters()] == before
    plain, _ = joined(predict_strips(model, Array(image), 70, 50, num_classes=3, tile=32, channels_last=False))
    np.testing.assert_allclose(predicted, plain, atol=1e-5)


def test_a_model_that_cannot_have_channels_last_goes_without():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(2, 3, 3, padding=1)

        def forward(self, image):
            out = self.convolution(image)
            return out.view(len(out), -1).view(out.shape)

    torch.manual_seed(0)
    model, image = Flat(), np.concatenate([noise(70, 50), noise(70, 50, seed=1)])
    predicted, _ = joined(predict_strips(model, Array(image), 70, 50, num_classes=3, tile=32))
    plain, _ = joined(predict_strips(model, Array(image), 70, 50, num_classes=3, tile=32, channels_last=False))
    np.testing.assert_array_equal(predicted, plain)
    assert model.convolution.weight.is_contiguous()


def test_averaging_over_flips_and_turns_is_symmetric():
    torch.manual_seed(0)
    model = UNet(1, 2, base_channels=4, depth=2).eval()
    image = noise(32, 32)

    def predict(array, tta=True):
        return joined(predict_strips(model, Array(array), 32, 32, num_classes=2, tile=32, overlap=0, tta=tta))[0]

    expected = predict(image)
    assert np.abs(expected - predict(image, tta=False)).max() > 1e-4
    for turns in range(4):
        for mirrored in (False, True):
            view = np.rot90(image[..., ::-1] if mirrored else image, turns, (1, 2)).copy()
            back = np.rot90(predict(view), -turns, (1, 2))
            np.testing.assert_allclose(back[..., ::-1] if mirrored else back, expected, atol=1e-5)


def test_lower_precision_changes_little_and_gives_float32():
    torch.manual_seed(0)
    model, image = UNet(1, 2, base_channels=4, depth=2).eval(), noise(40, 40)
    plain, _ = joined(predict_strips(model, Array(image), 40, 40, num_classes=2, tile=64))
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    lower, _ = joined(predict_strips(model, Array(image), 40, 40, num_classes=2, tile=64, autocast=torch.bfloat16))
    assert seen == [torch.bfloat16]
    np.testing.assert_allclose(lower, plain, atol=0.05)


def test_every_submodule_is_left_in_the_mode_it_was_in():
    """correctness 35: also when the caller stops half-way, or the model raises."""
    model = UNet(1, 2, base_channels=2, depth=2)
    model.down[0].eval()
    before = [module.training for module in model.modules()]
    modes = []
    hook = model.register_forward_hook(
        lambda module, inputs, output: modes.append(any(m.training for m in module.modules()))
    )
    strips = predict_strips(model, Array(noise(300, 20)), 300, 20, num_classes=2, tile=64)
    next(strips)
    strips.close()
    assert modes == [False]
    assert [module.training for module in model.modules()] == before
    hook.remove()
    model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(predict_strips(model, Array(noise(30, 20)), 30, 20, num_classes=2, tile=64))
    assert [module.training for module in model.modules()] == before


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"tile": 0}, "tile"),
        ({"overlap": -1}, "overlap"),
        ({"tile": 64, "overlap": 33}, "overlap"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_classes": 0}, "num_classes"),
    ],
)
def test_an_impossible_tiling_is_refused(arguments, field):
    with pytest.raises(ConfigError, match=f"^{field} = "):
        list(predict_strips(Logistic(), Array(noise(8, 8)), 8, 8, **{"num_classes": 2, **arguments}))


class Answers(nn.Module):
    """Gives what it is told to."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, image):
        return self.answer(image)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda image: image, r"gives \(1, 1, 32, 32\) for an image of \(1, 1, 32, 32\): it must be \(1, 2, 32, 32\)"),
        (lambda image: image[..., ::2, ::2].expand(-1, 2, -1, -1), r"gives \(1, 2, 16, 16\)"),
        (lambda image: {"features": image}, "gives dict"),
        (lambda image: torch.full_like(image, torch.nan).expand(-1, 2, -1, -1), "gives NaN for rows 0 to"),
    ],
)
def test_an_output_that_cannot_be_used_is_named(answer, words):
    with pytest.raises(DataError, match=words):
        list(predict_strips(Answers(answer), Array(noise(20, 20)), 20, 20, num_classes=2, tile=32, overlap=8))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_what_the_cpu_gives():
    torch.manual_seed(0)
    model, image = UNet(1, 3, base_channels=4, depth=2).eval(), noise(200, 150)
    arguments = {"num_classes": 3, "tile": 64, "overlap": 16}
    expected, _ = joined(predict_strips(model, Array(image), 200, 150, **arguments))
    got, _ = joined(predict_strips(model.cuda(), Array(image), 200, 150, device="cuda", **arguments))
    np.testing.assert_allclose(got, expected, atol=1e-3)
