"""fp16 with a real gradient scaler (torch has one for the CPU too), and bf16."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ununennium.errors import ConfigError, NonFiniteError
from ununennium.training import TrainerConfig, precision
from ununennium.training.callbacks import EMA, Callback
from ununennium.training.precision import resolve_precision

CPU = torch.device("cpu")


class Norms(Callback):
    def __init__(self):
        self.gradients = []

    def on_fit_start(self, trainer):
        step = trainer.optimizer.step
        parameters = trainer.optimizer.param_groups[0]["params"]

        def recorded(*args, **kwargs):
            self.gradients.append(torch.cat([p.grad.flatten() for p in parameters]).clone())
            return step(*args, **kwargs)

        trainer.optimizer.step = recorded


def test_the_parts_of_a_step_come_in_order(kit, monkeypatch):
    """correctness 12: backward, normalise, unscale once, clip, scaler.step, scaler.update, zero_grad."""
    calls = []

    def spy(owner, name, label):
        real = getattr(owner, name)

        def called(*args, **kwargs):
            calls.append(label)
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, called)

    spy(torch.Tensor, "backward", "backward")
    spy(torch, "_foreach_mul_", "multiply")
    spy(torch.amp.GradScaler, "unscale_", "unscale")
    spy(nn.utils, "clip_grads_with_norm_", "clip")
    spy(torch.amp.GradScaler, "step", "step")
    spy(torch.amp.GradScaler, "update", "update")
    spy(torch.optim.SGD, "zero_grad", "zero_grad")
    kit.trainer(kit.model(), kit.loader(8, 4), mixed_precision="fp16", accumulation_steps=2).fit()
    first = calls.index("backward")
    inside_clip = calls.index("clip") + 1  # the clip multiplies too
    assert calls[inside_clip] == "multiply"
    del calls[inside_clip]
    assert calls[first:] == [
        "backward", "backward", "multiply", "unscale", "clip", "step", "update", "zero_grad",
    ]  # fmt: skip


@settings(max_examples=12, deadline=None)
@given(exponent=st.integers(0, 16), clip=st.sampled_from([0.01, 0.1]))
def test_the_clip_acts_on_true_gradients_whatever_the_loss_scale(kit, exponent, clip):
    """correctness 13: property test over the initial scale."""
    norms = Norms()
    trainer = kit.trainer(kit.model(), kit.loader(8, 4), mixed_precision="fp16", gradient_clip=clip, callbacks=[norms])
    trainer.precision.scaler.load_state_dict({**trainer.precision.scaler.state_dict(), "scale": 2.0**exponent})
    trainer.fit()
    assert len(norms.gradients) == 2
    for gradient in norms.gradients:
        assert gradient.norm().item() == pytest.approx(clip, rel=1e-4)  # they are larger before the clip


@pytest.mark.parametrize("window", [1, 2])
def test_the_logged_norm_is_unscaled_and_from_before_the_clip(kit, window):
    """correctness 14: pre-clip, unscaled, global."""
    reference = kit.model()
    data = kit.dataset(8)
    history = kit.trainer(
        kit.model(),
        [data[:4], data[4:]][:window],
        mixed_precision="fp16",
        gradient_clip=1e-3,
        accumulation_steps=window,
    ).fit()
    nn.functional.cross_entropy(reference(data[: 4 * window][0]), data[: 4 * window][1]).backward()
    expected = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm().item()
    assert history["grad_norm"] == [pytest.approx(expected, rel=1e-2)]


class PoisonSome(nn.Module):
    """A loss whose gradient is not finite for the chosen calls, though the loss itself is."""

    def __init__(self, calls):
        super().__init__()
        self.calls, self.count = calls, 0

    def forward(self, output, target):
        self.count += 1
        loss = nn.functional.cross_entropy(output, target)
        if self.count in self.calls:
            return loss + torch.sqrt((output * 0).sum())  # d sqrt(x) at 0 is infinite: inf * 0 = NaN
        return loss


@pytest.mark.parametrize("mixed_precision", [False, "bf16", "fp16"])
def test_a_gradient_with_nan_never_reaches_the_weights(kit, mixed_precision):
    """correctness 15: one NaN poisons all through the clip; a finite check precedes the step."""
    model, reference = kit.model(), kit.model()
    trainer = kit.trainer(model, kit.loader(12, 4), PoisonSome({2}), mixed_precision=mixed_precision)
    trainer.fit()
    assert trainer.state.skipped_steps == 1
    assert trainer.state.global_step == 2
    data = kit.dataset(12)
    kit.trainer(reference, [data[:4], data[8:]], PoisonSome({}), mixed_precision=mixed_precision).fit()
    for ours, theirs in zip(kit.weights(model), kit.weights(reference), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_skipped_step_moves_nothing(kit):
    """correctness 16, 17: weights, optimizer state, EMA, scheduler and global_step stay; skipped_steps + 1."""
    model = kit.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    ema = EMA(0.9)
    trainer = kit.trainer(
        model, kit.loader(8, 4), PoisonSome({2}), optimizer=optimizer, scheduler=scheduler, callbacks=[ema],
        mixed_precision="fp16", scheduler_interval="step",
    )  # fmt: skip
    scale = trainer.precision.scaler.get_scale()
    trainer.fit()
    assert (trainer.state.global_step, trainer.state.skipped_steps) == (1, 1)
    assert scheduler.last_epoch == 1
    assert ema.num_updates == 1
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}
    assert trainer.precision.scaler.get_scale() == scale / 2


@pytest.mark.parametrize("fused", [False, True])
def test_a_skip_is_seen_with_fused_optimizers_too(kit, fused):
    """correctness 17: a fused optimizer's step hook fires although nothing changed; the check precedes the step."""
    model = kit.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused)
    trainer = kit.trainer(model, kit.loader(8, 4), PoisonSome({1, 2}), optimizer=optimizer, mixed_precision="fp16")
    before = kit.weights(model)
    trainer.fit()
    assert (trainer.state.global_step, trainer.state.skipped_steps) == (0, 2)
    assert kit.same(before, kit.weights(model))


def test_training_that_stays_non_finite_ends_with_a_clear_error(kit):
    trainer = kit.trainer(kit.model(), kit.loader(24, 4), PoisonSome(range(99)), max_nonfinite_steps=3)
    with pytest.raises(NonFiniteError, match="3 optimizer steps in a row"):
        trainer.fit()
    assert trainer.state.stop_reason == "failed"


@pytest.mark.parametrize("native", [True, False])
def test_mixed_precision_without_fp16_is_bf16_or_a_warning(monkeypatch, native):
    """correctness 18: never a silent fp32 run."""
    monkeypatch.setattr(precision, "_cpu_computes_bf16", lambda: native)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resolved = resolve_precision(True, CPU)
    if native:
        assert resolved.name == "bf16"
        assert not caught
    else:
        assert resolved.name == "fp32"
        assert "bf16" in str(caught[0].message)


def test_bf16_has_no_scaler_and_fp16_has_one():
    """correctness 19: bf16 uses no scaler."""
    assert resolve_precision("bf16", CPU).scaler is None
    assert resolve_precision("fp16", CPU).scaler is not None
    assert resolve_precision("no", CPU).name == resolve_precision(False, CPU).name == "fp32"


def test_the_scaler_goes_on_where_it_was_after_a_resume(kit):
    """correctness 19: the fp16 scaler's state is in the checkpoint, and identical after resume."""
    first = kit.trainer(kit.model(), kit.loader(8, 4), PoisonSome({1}), mixed_precision="fp16")
    first.fit()
    state = first.state_dict()
    assert state["scaler"]["scale"] == 32768.0
    second = kit.trainer(kit.model(2), kit.loader(8, 4), mixed_precision="fp16")
    second.load_state_dict(state)
    assert second.precision.scaler.state_dict() == first.precision.scaler.state_dict()


@pytest.mark.parametrize("mixed_precision", ["bf16", "fp16"])
def test_loss_and_metrics_see_float32_and_validation_the_same_autocast(kit, mixed_precision):
    """correctness 20: loss in fp32; metrics outside autocast; validation in training's autocast dtype."""
    seen = {"linear": set(), "loss": set(), "metric": set(), "autocast": set()}

    class Probe(Callback):
        def on_validation_batch(self, trainer, output, target):
            seen["metric"].add(output.dtype)
            seen["autocast"].add(torch.is_autocast_enabled("cpu"))

    def loss_fn(output, target):
        seen["loss"].add(output.dtype)
        seen["autocast"].add(torch.is_autocast_enabled("cpu"))
        return nn.functional.cross_entropy(output, target)

    model = kit.model()
    model[0].register_forward_hook(lambda module, inputs, output: seen["linear"].add((module.training, output.dtype)))
    trainer = kit.trainer(
        model, kit.loader(8, 4), loss_fn, val_loader=kit.loader(8, 4), callbacks=[Probe()],
        mixed_precision=mixed_precision,
    )  # fmt: skip
    trainer.fit()
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}[mixed_precision]
    assert seen["linear"] == {(True, half), (False, half)}
    assert seen["loss"] == seen["metric"] == {torch.float32}
    assert seen["autocast"] == {False}


def test_sums_over_many_pixels_stay_in_the_range_of_fp16(kit):
    """A summed loss times the initial scale would overflow fp16 in the first window."""
    image = torch.randn(1, 2, 96, 96)
    target = torch.randint(0, 3, (1, 96, 96))
    trainer = kit.trainer(
        kit.segmenter(), [(image, target)] * 4, kit.pixel_sum(), mixed_precision="fp16", accumulation_steps=2
    )
    history = trainer.fit()
    assert trainer.state.skipped_steps == 0
    assert math.isfinite(history["grad_norm"][0])


@pytest.mark.parametrize("field", ["fp8", 3, "True"])
def test_an_unknown_precision_is_refused(field):
    with pytest.raises(ConfigError, match="mixed_precision"):
        resolve_precision(field, CPU)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0), ("epochs", 1.5), ("accumulation_steps", 0), ("gradient_clip", 0.0), ("gradient_clip", -1.0),
        ("time_limit_s", 0), ("max_nonfinite_steps", 0),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_by_name(field, value):
    with pytest.raises(ConfigError, match=f"{field} = "):
        TrainerConfig(**{field: value})
