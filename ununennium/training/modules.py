"""The modules beside the model that a run trains or changes: of the loss, the batch transform and the callbacks."""

from __future__ import annotations

import functools
import inspect
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ununennium.errors import CheckpointError, ConfigError
from ununennium.training import distributed
from ununennium.training.generators import HeldGenerators

State = dict[str, dict[str, Any]]


class CompanionModules:
    """Tensors of a checkpoint beside the model's: each once, under the name of the part that has it.

    Args:
        model: without wrappers; its tensors are left out here.
        loss_fn: the loss; a module, or anything that holds modules.
        batch_transform: the same, or None.
        callbacks: by the key of their state. Their modules are looked for anew each time, since a callback may make
            them in ``on_fit_start``.
        device: device of the modules of the loss and of the batch transform.
    """

    def __init__(
        self, model: nn.Module, loss_fn: Any, batch_transform: Any, callbacks: Mapping[str, Any], device: torch.device
    ) -> None:
        self._model = model
        self._callbacks = callbacks
        self._own = {**modules_of(loss_fn, "loss"), **modules_of(batch_transform, "batch_transform")}
        self._late: State = {}
        self.generators = HeldGenerators(model=model, loss=loss_fn, batch_transform=batch_transform)
        own_of_model = set(map(id, model.modules()))
        for name, module in list(self._own.items()):
            if id(module) in own_of_model:
                del self._own[name]
            else:
                module.to(device)
        self._synchronise()

    def modes(self) -> list[tuple[nn.Module, bool]]:
        """Tell whether each module of the loss and the batch transform trains."""
        return [(each, each.training) for module in self._own.values() for each in module.modules()]

    def eval(self) -> None:
        """Put the modules of the loss and the batch transform into evaluation mode."""
        for module in self._own.values():
            module.eval()

    def _synchronise(self) -> None:
        """Make every rank's parameters and buffers rank 0's, as DistributedDataParallel does with the model's."""
        if distributed.is_distributed():
            for _, _, tensor in self._tensors(self._found()):
                distributed.broadcast_tensor(tensor)

    def strangers(self, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
        """The parameters of ``optimizer`` that the model does not have."""
        known = set(map(id, self._model.parameters()))
        return [each for group in optimizer.param_groups for each in group["params"] if id(each) not in known]

    def check_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuse an optimizer that trains what no checkpoint would hold.

        Raises:
            ConfigError: a parameter belongs neither to the model nor to a module found here; its place is named.
        """
        found = [self._model, *self._found().values()]
        known = {id(parameter) for module in found for parameter in module.parameters()}
        for number, group in enumerate(optimizer.param_groups):
            names = group.get("param_names", [])
            for position, parameter in enumerate(group["params"]):
                if id(parameter) not in known:
                    name = f" ({names[position]!r})" if position < len(names) else ""
                    raise ConfigError(
                        f"optimizer.param_groups[{number}].params[{position}]",
                        f"a parameter of shape {tuple(parameter.shape)}{name}",
                        "neither the model nor a module of the loss, the batch transform or a callback has it, so that "
                        "no checkpoint would hold it; make it an nn.Parameter of one of them",
                    )

    # ------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """``modules``, and ``module_buffers`` and ``generators`` of each rank. Every rank calls it."""
        found = self._found()
        state: State = {}
        buffers: State = {}
        is_buffer = {id(each) for module in found.values() for each in module.buffers()}
        for name, key, value in self._entries(found):
            state.setdefault(name, {})[key] = value.detach() if isinstance(value, Tensor) else value
            if id(value) in is_buffer:
                buffers.setdefault(name, {})[key] = value.detach().cpu()
        ranks = distributed.gather(buffers) if distributed.is_distributed() else []
        generators = distributed.gather(self.generators.states())
        return {"modules": distributed.gathered(state), "module_buffers": ranks, "generators": generators}

    def load_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Take over the state in ``checkpoint``; what belongs to modules that are not made yet waits for ``complete``.

        Raises:
            CheckpointError: a module's tensors have other names or shapes.
        """
        found = self._found()
        if "generators" in checkpoint:
            self.generators.set_states(checkpoint["generators"][distributed.rank()])
        if "modules" not in checkpoint:
            learning = [name for name, module in found.items() if any(p.requires_grad for p in module.parameters())]
            if learning:
                names = ", ".join(learning)
                warnings.warn(f"the checkpoint holds no state of {names}: it starts afresh", stacklevel=3)
            return
        state: State = {name: dict(values) for name, values in checkpoint["modules"].items()}
        if ranks := checkpoint.get("module_buffers"):
            for name, values in ranks[distributed.rank()].items():
                state[name] |= values
        self._late = self._load(state, found)

    def complete(self) -> None:
        """Load what the callbacks had not made when the checkpoint was read, and warn of what nobody has."""
        left = self._load(self._late, self._found())
        self._late = {}
        if left:
            names = ", ".join(sorted(left))
            warnings.warn(f"the checkpoint holds the weights of modules that this Trainer lacks: {names}", stacklevel=3)

    def _load(self, state: State, found: Mapping[str, nn.Module]) -> State:
        expected: dict[str, set[str]] = {}
        for name, key, _ in self._entries(found):
            expected.setdefault(name, set()).add(key)
        left = {}
        for name, values in state.items():
            if name not in expected:
                left[name] = values
                continue
            if unknown := expected[name] ^ values.keys():
                raise CheckpointError(
                    f"the checkpoint does not fit {name}: {', '.join(sorted(unknown))} is in one of them only"
                )
            try:
                nn.Module.load_state_dict(found[name], values, strict=False)
            except RuntimeError as error:
                raise CheckpointError(f"the checkpoint does not fit {name}: {' '.join(str(error).split())}") from error
        return left

    def _found(self) -> dict[str, nn.Module]:
        """Name to module, of the loss, the batch transform and the callbacks as they are now."""
        found = dict(self._own)
        for key, callback in self._callbacks.items():
            found |= modules_of(callback, key)
        return found

    def _entries(self, found: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, Any]]:
        """Module's name, key and value, of all that the model and the modules before do not have."""
        seen = {id(value) for value in self._model.state_dict(keep_vars=True).values()}
        for name, module in found.items():
            values = nn.Module.state_dict(module, keep_vars=True)
            mine = {key: value for key, value in values.items() if id(value) not in seen}
            seen.update(map(id, mine.values()))
            yield from ((name, key, value) for key, value in mine.items())

    def _tensors(self, found: Mapping[str, nn.Module]) -> Iterator[tuple[str, str, Tensor]]:
        return (each for each in self._entries(found) if isinstance(each[2], Tensor))


def modules_of(part: Any, name: str, *, trained_only: bool = True) -> dict[str, nn.Module]:
    """The modules in ``part``, by a dotted name: itself, or what a partial, a method, an object or a closure holds.

    Of a plain function those are taken that it uses by name; with ``trained_only`` if they have parameters to train.
    """
    if isinstance(part, nn.Module):
        return {name: part}
    if isinstance(part, functools.partial):
        return _collected({"func": part.func, **dict(enumerate(part.args)), **part.keywords}, name)
    if isinstance(part, types.MethodType):
        return modules_of(part.__self__, name, trained_only=trained_only)
    if isinstance(part, types.FunctionType):
        used = inspect.getclosurevars(part)
        defaults = dict(enumerate(part.__defaults__ or ())) | (part.__kwdefaults__ or {})
        held = _collected({**used.globals, **used.nonlocals, **defaults}, name)
        learns = {key: any(p.requires_grad for p in module.parameters()) for key, module in held.items()}
        return {key: module for key, module in held.items() if learns[key] or not trained_only}
    return _collected(getattr(part, "__dict__", {}), name)


def _collected(values: Mapping[Any, Any], name: str) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for key, value in values.items():
        inner: Iterable[tuple[Any, Any]] = ()
        if isinstance(value, nn.Module):
            found[f"{name}.{key}"] = value
        elif isinstance(value, Mapping):
            inner = value.items()
        elif isinstance(value, list | tuple):
            inner = enumerate(value)
        elif isinstance(value, functools.partial | types.MethodType):
            found |= modules_of(value, f"{name}.{key}")
        found |= {f"{name}.{key}.{position}": each for position, each in inner if isinstance(each, nn.Module)}
    return found
