"""Contents of a checkpoint, and their restoration into a Trainer."""

from __future__ import annotations

import platform
import warnings
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ununennium.checkpoints.parts import check_parts, taking_over
from ununennium.checkpoints.savers import upload_left
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import CheckpointError
from ununennium.training import distributed
from ununennium.training.state import TrainerState, random_state, set_random_state
from ununennium.version import __version__

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

_WRAPPERS = ("module.", "_orig_mod.")


def clean_key(key: str) -> str:
    """A parameter's name without the prefixes that DistributedDataParallel and ``torch.compile`` add."""
    stripped = True
    while stripped:
        stripped = False
        for wrapper in _WRAPPERS:
            if key.startswith(wrapper):
                key, stripped = key[len(wrapper) :], True
    return key.replace("._orig_mod.", ".")


def snapshot(trainer: Trainer) -> dict[str, Any]:
    """State that a resumed run needs. Every rank calls it: random states, and parts of weights, are gathered."""
    scaler = trainer.precision.scaler
    epoch_start = trainer.replays["train_loader"].start_random_state
    loaders = {name: each.state_dict(trainer.state.batches_done) for name, each in trainer.replays.items()}
    weights = {_module_key(trainer, key): value for key, value in trainer.module.state_dict().items()}
    return {
        "model": distributed.gathered(weights),
        **trainer.companions.state_dict(),
        "optimizer": distributed.gathered(trainer.optimizer.state_dict()),
        "scheduler": trainer.schedule.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "state": trainer.state.to_dict(),
        "history": {name: list(values) for name, values in trainer.history.items()},
        "callbacks": distributed.gathered({key: callback.state_dict() for key, callback in keyed(trainer).items()}),
        "random_states": distributed.gather({"now": random_state(), "epoch_start": epoch_start}),
        "loaders": distributed.gather(loaders),
        "running": distributed.gather(trainer.state.running),
        "config": asdict(trainer.config),
        "precision": trainer.precision.name,
        "world_size": distributed.world_size(),
        "versions": {
            "ununennium": __version__,
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


@taking_over("the checkpoint's state")
def restore(trainer: Trainer, checkpoint: dict[str, Any]) -> None:
    """Put ``trainer`` where ``checkpoint`` was written.

    What a checkpoint holds but this Trainer lacks (a callback, a scaler) is warned of and left out; what the Trainer
    needs but the checkpoint lacks is an error, but for callbacks, which start afresh with a warning.

    Raises:
        CheckpointError: a part is missing or does not fit, the checkpoint is from another number of ranks, or it was
            written within an epoch whose rest the training loader cannot give.
    """
    check_parts(checkpoint)
    needed = ["model", "optimizer", "state", "history", "callbacks", "random_states", "world_size"]
    missing = [part for part in needed if part not in checkpoint]
    if missing:
        raise CheckpointError(f"the checkpoint has no {', '.join(missing)}; it was not written by this trainer")
    if checkpoint["world_size"] != distributed.world_size():
        raise CheckpointError(
            f"the checkpoint was written by {checkpoint['world_size']} ranks and this run has "
            f"{distributed.world_size()}: the order of samples would change; run with as many ranks as before"
        )
    state, loaders = TrainerState.from_dict(checkpoint["state"]), _loaders(checkpoint)
    _check_rest_of_epoch(trainer, state, loaders)
    _load_model(trainer, checkpoint["model"])
    trainer.companions.load_state_dict(checkpoint)
    try:
        trainer.optimizer.load_state_dict(_divided(trainer.optimizer, checkpoint["optimizer"]))
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint's optimizer state does not fit: {error}") from error
    _load_scheduler(trainer, checkpoint.get("scheduler"))
    _load_scaler(trainer, checkpoint.get("scaler"))
    states = dict(checkpoint["callbacks"])
    for key, callback in keyed(trainer).items():
        if key in states:
            callback.load_state_dict(states.pop(key))
        elif callback.state_dict():
            warnings.warn(f"the checkpoint holds no state of {key}: it starts afresh", stacklevel=2)
    if any(states.values()):
        left = ", ".join(sorted(key for key, state in states.items() if state))
        warnings.warn(
            f"the checkpoint holds the state of callbacks that this Trainer does not have: {left}", stacklevel=2
        )
    trainer.state = state
    trainer.history = {name: list(values) for name, values in checkpoint["history"].items()}
    if "running" in checkpoint:  # every rank has sums of its own; a checkpoint of one rank may lack them
        trainer.state.running = dict(checkpoint["running"][distributed.rank()])
    mine = checkpoint["random_states"][distributed.rank()]
    set_random_state(mine["now"])
    for name, replay in trainer.replays.items():
        replay.load_state_dict(loaders.get(name), mine["epoch_start"], state.batches_done)


def read_checkpoint(url: str) -> dict[str, Any]:
    """The checkpoint at ``url``: a folder (its newest checkpoint) or one manifest. Rank 0 reads, all ranks get it.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    if distributed.rank() == 0:
        upload_left(url)  # what an earlier process could not upload may be the newest
    if not distributed.is_distributed():
        return CheckpointStore.read(url)
    return dict(distributed.broadcast(CheckpointStore.read(url) if distributed.rank() == 0 else None))


def keyed(trainer: Trainer) -> dict[str, Any]:
    """The callbacks by ``state_key``; two that share one are told apart by a number."""
    found: dict[str, Any] = {}
    for callback in trainer.callbacks:
        key, number = callback.state_key, 1
        while key in found:
            number += 1
            key = f"{callback.state_key}#{number}"
        found[key] = callback
    return found


def _loaders(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """This rank's part of what the checkpoint holds of the loaders: nothing in one of an earlier version."""
    return dict(checkpoint["loaders"][distributed.rank()]) if "loaders" in checkpoint else {}


def _check_rest_of_epoch(trainer: Trainer, state: TrainerState, loaders: dict[str, Any]) -> None:
    """Refuse, on all ranks alike, a resume within an epoch whose remaining batches would not be the right ones."""
    problem = trainer.replays["train_loader"].problem(loaders.get("train_loader"), state.batches_done)
    problems = [each for each in distributed.gather(problem) if each is not None]
    if problems:
        raise CheckpointError(
            f"the checkpoint was written within epoch {state.epoch + 1}, after {state.batches_done} batches, and "
            f"{problems[0]}"
        )


def _module_key(trainer: Trainer, key: str) -> str:
    return clean_key(key) if any(wrapper in key for wrapper in _WRAPPERS) else key


def _load_model(trainer: Trainer, weights: dict[str, Any]) -> None:
    live = trainer.module.state_dict()
    names = {_module_key(trainer, name): name for name in live}
    given = {clean_key(key) if key not in names else key: value for key, value in weights.items()}
    given = {names.get(key, key): value for key, value in given.items()}
    try:
        trainer.module.load_state_dict({key: _as_part(live.get(key), value) for key, value in given.items()})
    except RuntimeError as error:
        raise CheckpointError(f"the checkpoint does not fit the model: {' '.join(str(error).split())}") from error


def _divided(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """``state``, with what is as large as a parameter divided over ranks as that is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    held = {
        number: {name: _as_part(parameters[number], value) for name, value in values.items()}
        for number, values in state["state"].items()
        if number < len(parameters)
    }
    return {**state, "state": held}


def _as_part(like: Any, value: Any) -> Any:
    if distributed.is_divided(like) and isinstance(value, torch.Tensor) and value.shape == like.shape:
        return distributed.divided_like(like, value)
    return value


def _load_scheduler(trainer: Trainer, state: dict[str, Any] | None) -> None:
    has_scheduler = trainer.schedule.scheduler is not None
    if has_scheduler and state is None:
        raise CheckpointError("the checkpoint has no scheduler state, and this Trainer has a scheduler")
    if has_scheduler and state is not None:
        trainer.schedule.load_state_dict(state)
    elif state is not None:
        warnings.warn("the checkpoint holds a scheduler's state, and this Trainer has no scheduler", stacklevel=3)


def _load_scaler(trainer: Trainer, state: dict[str, Any] | None) -> None:
    scaler = trainer.precision.scaler
    if scaler is not None and state is not None:
        scaler.load_state_dict(state)
    elif scaler is not None:
        warnings.warn("the checkpoint was not trained in fp16: the gradient scale starts afresh", stacklevel=3)
