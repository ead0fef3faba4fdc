"""A checkpoint holds all that learns: of the loss, the batch transform and the callbacks too."""

from __future__ import annotations

import copy
import functools
import io
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.stopping import StopAt
from ununennium.errors import CheckpointError, ConfigError
from ununennium.training import Trainer, TrainerConfig
from ununennium.training.callbacks import EMA, Callback

PROGRAM = Path(__file__).with_name("companion_ranks.py")


class Uncertainty(nn.Module):
    """A loss with a weight to learn, a buffer that follows its value, and dropout."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))
        self.register_buffer("mean", torch.zeros(()))
        self.dropout = nn.Dropout(0.1)

    def forward(self, output, target):
        loss = nn.functional.cross_entropy(self.dropout(output), target)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        return loss * torch.exp(-self.log_variance) + self.log_variance + 0.1 * self.mean


class Scale(nn.Module):
    """A batch transform that learns a scale, and keeps a BatchNorm's statistics."""

    def __init__(self):
        super().__init__()
        self.scale, self.norm = nn.Parameter(torch.ones(4)), nn.BatchNorm1d(4, affine=False)

    def forward(self, image, target, valid, *, training, epoch, batch):
        return self.norm(image) * self.scale, target


class Head(Callback, nn.Module):
    """A callback that is a module: a head beside the model."""

    def __init__(self):
        nn.Module.__init__(self)
        self.layer = nn.Linear(4, 3)


class MeanTeacher(Callback):
    """A callback that makes its module in ``on_fit_start``, and changes it without an optimizer."""

    def __init__(self):
        self.teacher = None

    def on_fit_start(self, trainer):
        if self.teacher is None:
            self.teacher = copy.deepcopy(trainer.module).requires_grad_(False)

    def on_step_end(self, trainer):
        with torch.no_grad():
            for mine, its in zip(self.teacher.parameters(), trainer.module.parameters(), strict=True):
                mine.lerp_(its, 0.1)


class OneLoss:
    """A loss that is no module, and holds two."""

    def __init__(self):
        self.parts = [Uncertainty(), Uncertainty()]

    def __call__(self, output, target):
        return sum(part(output, target) for part in self.parts)

    def parameters(self):
        return [parameter for part in self.parts for parameter in part.parameters()]


def closure():
    inner = Uncertainty()

    def loss(output, target):
        return inner(output, target)

    loss.parameters = inner.parameters
    return loss


def partial():
    inner = Uncertainty()
    loss = functools.partial(inner)
    loss.parameters = inner.parameters
    return loss


def make(kit, make_loss=Uncertainty, *, callbacks=(), transform=None, stop_at=None):
    torch.manual_seed(3)
    model, loss = kit.model(), make_loss()
    learning = [*model.parameters(), *loss.parameters()]
    transform = transform and transform()
    heads = [callback() for callback in callbacks]
    for part in (transform, *heads):
        learning += part.parameters() if isinstance(part, nn.Module) else []
    optimizer = torch.optim.Adam(learning, lr=0.02)
    config = TrainerConfig(device="cpu", mixed_precision=False, seed=0)
    trainer = Trainer(
        model, optimizer, loss, kit.loader(24, 4), kit.loader(8), callbacks=[*heads, StopAt(stop_at)], config=config,
        batch_transform=transform,
    )  # fmt: skip
    return trainer, [*learning, *(part for part in (transform,) if part)], heads


def through_a_file(checkpoint):
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def tensors(trainer):
    """All that the checkpoint holds of modules, and the optimizer's state."""
    state = trainer.state_dict()
    values = [value for part in ({"model": state["model"]}, state["modules"]) for each in part.values()
              for value in each.values()]  # fmt: skip
    return [value.clone() for value in values] + [
        value.clone() for values in state["optimizer"]["state"].values() for value in values.values()
    ]


@pytest.mark.parametrize("stop_at", [6, 9], ids=["at an epoch's end", "within an epoch"])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"make_loss": OneLoss},
        {"make_loss": closure},
        {"make_loss": partial},
        {"transform": Scale},
        {"callbacks": [Head]},
        {"callbacks": [MeanTeacher]},
        {"callbacks": [functools.partial(EMA, 0.9), Head], "transform": Scale},
    ],
    ids=["module", "object", "closure", "partial", "batch transform", "callback", "late callback", "all"],
)
def test_all_that_learns_is_restored(kit, arguments, stop_at):
    """correctness 59, 62, 86: parameters, buffers and optimizer to the bit."""
    whole, _, _ = make(kit, **arguments)
    wanted = whole.fit(3)
    first, _, _ = make(kit, **arguments, stop_at=stop_at)
    first.fit(3)
    checkpoint = through_a_file(first.state_dict())
    second, _, _ = make(kit, **arguments)
    second.load_state_dict(checkpoint)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert second.fit(3) == wanted
    assert kit.same(tensors(second), tensors(whole))


def test_each_tensor_is_held_once(kit):
    """correctness 86, 87: what the model has is not saved again for a loss or a callback that refers to it."""

    class Distance(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model, self.weight = model, nn.Parameter(torch.ones(()))

        def forward(self, output, target):
            return nn.functional.cross_entropy(output, target) * self.weight

    class Holds(Callback):
        def __init__(self, model, loss):
            self.model, self.loss = model, loss

    model = kit.model()
    loss = Distance(model)
    optimizer = torch.optim.SGD([*model.parameters(), loss.weight], lr=0.1)
    trainer = kit.trainer(model, kit.loader(), loss, optimizer=optimizer, callbacks=[Holds(model, loss)])
    trainer.fit()
    assert {name: set(values) for name, values in trainer.state_dict()["modules"].items()} == {"loss": {"weight"}}


@pytest.mark.parametrize("named", [False, True])
def test_a_parameter_that_no_checkpoint_would_hold_is_refused_by_name(kit, named):
    """correctness 86: before the first step."""
    model, temperature = kit.model(), nn.Parameter(torch.ones(2))
    groups = [{"params": list(model.parameters())}, {"params": [temperature]}]
    if named:
        groups = [{"params": list(model.named_parameters())}, {"params": [("temperature", temperature)]}]
    trainer = kit.trainer(
        model, kit.loader(), lambda output, target: nn.functional.cross_entropy(output / temperature.mean(), target),
        optimizer=torch.optim.SGD(groups, lr=0.1),
    )  # fmt: skip
    words = r"param_groups\[1\]\.params\[0\].*shape \(2,\)" + (" \\('temperature'\\)" if named else "")
    with pytest.raises(ConfigError, match=words):
        trainer.fit()
    assert trainer.state.global_step == 0


def test_checkpoints_of_other_modules(kit):
    """correctness 59, 86: of an earlier version, with a warning; of other tensors, an error; of more, a warning."""
    old = make(kit)[0].state_dict()
    del old["modules"], old["module_buffers"]
    with pytest.warns(UserWarning, match="no state of loss"):
        make(kit)[0].load_state_dict(old)
    plain = kit.trainer(kit.model(), kit.loader())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain.load_state_dict({key: value for key, value in plain.state_dict().items() if "module" not in key})
    other = make(kit)[0].state_dict()
    other["modules"]["loss"]["bias"] = other["modules"]["loss"].pop("mean")
    with pytest.raises(CheckpointError, match="does not fit loss: bias, mean"):
        make(kit)[0].load_state_dict(other)
    other = make(kit, callbacks=[MeanTeacher])[0]
    other.fit(1)
    trainer, _, _ = make(kit)
    trainer.load_state_dict(other.state_dict())
    with pytest.warns(UserWarning, match="lacks: MeanTeacher"):
        trainer.fit(2)


def test_the_gradient_of_a_loss_is_clipped_with_the_others(kit):
    """correctness 13, 86: one global norm over all that the optimizer has."""
    trainer, _, _ = make(kit)
    norms = []
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *_: norms.append(
            torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in optimizer.param_groups[0]["params"]]))
        )
    )
    trainer._window._clip = 1e-3
    trainer.fit(1)
    assert len(norms) == 6
    torch.testing.assert_close(torch.stack(norms), torch.full((6,), 1e-3), rtol=1e-3, atol=0)


def test_a_loss_is_in_evaluation_mode_while_the_model_is(kit):
    """correctness 35, 86: and as it was afterwards."""
    trainer, _, _ = make(kit)
    loss, seen = trainer.objective.loss_fn, []
    loss.register_forward_hook(lambda module, *_: seen.append(module.training))
    loss.dropout.eval()
    trainer.fit(1)
    assert seen == [True] * 6 + [False] * 2
    assert loss.training
    assert not loss.dropout.training


@pytest.mark.parametrize("sharded", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_two_ranks_train_one_loss(kit, tmp_path, sharded):
    """correctness 6, 7, 62, 66, 86: its parameters are rank 0's first, its gradients are shared; a resume is exact."""
    out = tmp_path / "out"
    kit.on_ranks(2, PROGRAM, out, int(sharded))
    ranks = [torch.load(f"{out}.{rank}", weights_only=True) for rank in (0, 1)]
    for rank in ranks:
        for key, value in rank["one"].items():
            torch.testing.assert_close(rank["two"][key], value, rtol=1e-5, atol=1e-6)
        for key, value in rank["two"].items():
            assert torch.equal(rank["resumed"][key], value), key
    assert not torch.equal(ranks[0]["mean"], ranks[1]["mean"])  # buffers of each rank's own, and restored as such
    for rank in ranks:
        assert torch.equal(rank["mean"], rank["resumed_mean"])
        assert rank["history"] == rank["resumed_history"]  # also of the epoch that was stopped: each rank's sums
