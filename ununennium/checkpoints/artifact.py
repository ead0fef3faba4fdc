"""The model that is promoted: weights as safetensors, and the contract that says how to use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ununennium.checkpoints.contract import (
    CONTRACT,
    WEIGHTS,
    check_contract,
    file_sha256,
    parse_contract,
    to_json,
)
from ununennium.checkpoints.load_cache import Expected, verified
from ununennium.checkpoints.storage import open_storage
from ununennium.checkpoints.storage_errors import translated_full_disk
from ununennium.errors import CheckpointError
from ununennium.importing import instantiate

_FETCHED_WEIGHTS = {"pretrained": False, "encoder_weights": None}
"""Keyword arguments by which models fetch weights; the artefact's replace them, so nothing is fetched."""


def write_artifact(folder: Path, state_dict: Mapping[str, Tensor], contract: Mapping[str, Any]) -> dict[str, Any]:
    """Write ``model.safetensors`` and ``contract.json`` into a local folder, the contract last.

    Args:
        folder: made if it is not there; the two files in it are replaced.
        state_dict: the bare model's parameters and buffers, without wrappers' prefixes.
        contract: what ``contract.REQUIRED`` lists.

    Returns:
        The contract as it was written, with ``weights_sha256``.

    Raises:
        ConfigError: the contract lacks something.
        CheckpointError: ``state_dict`` holds something that is no tensor.
        StorageError: the disk is full.
    """
    from safetensors.torch import save

    check_contract(contract)
    tensors: dict[str, Tensor] = {}
    for name, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"{name} in the model's state is a {type(value).__name__}; only tensors are promoted")
        # A copy each: safetensors refuses tensors that share memory, as tied weights do.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
    with translated_full_disk(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONTRACT).unlink(missing_ok=True)  # it must never stand beside weights that are not its own
        (folder / WEIGHTS).write_bytes(save(tensors))
        complete = {**contract, "weights_sha256": file_sha256(folder / WEIGHTS)}
        (folder / CONTRACT).write_bytes(to_json(complete))
    return complete


def load_artifact(url: str, *, cached: bool = True) -> tuple[nn.Module, dict[str, Any]]:
    """Build the model at ``url`` on the CPU, in evaluation mode, with its contract.

    Args:
        url: the artefact's folder, such as ``Registry.version_url`` gives.
        cached: whether weights in remote storage may come from a local copy (see ``load_cache``); the copy's hash is
            checked like theirs.

    Raises:
        CheckpointError: a file is missing or damaged, or the weights do not fit the model.
        ConfigError: the model cannot be built as the contract says.
    """
    from safetensors.torch import load_file

    storage = open_storage(url)
    try:
        contract = parse_contract(storage.read_bytes(CONTRACT), url=storage.url(CONTRACT))
        expected = Expected(contract["weights_sha256"], None, "the contract", "use another version, or export it again")
        with verified(storage, WEIGHTS, expected, cached=cached) as path:
            weights = load_file(path, device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{url} is no model artefact: {CONTRACT} or {WEIGHTS} is missing") from error
    return build_model(contract, weights), contract


def build_model(contract: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The model that ``contract`` describes with ``weights``, in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit.
        ConfigError: the model cannot be built.
    """
    described = contract["model"]
    kwargs = dict(described["kwargs"])
    kwargs.update({name: value for name, value in _FETCHED_WEIGHTS.items() if name in kwargs})
    with torch.random.fork_rng(devices=[]):  # weights drawn only to be replaced leave no trace
        model = instantiate(
            described["target"],
            kwargs,
            field="contract.model",
            in_channels=described["in_channels"],
            num_classes=described["num_classes"],
            num_dates=contract.get("num_dates", 1),
        )
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"{described['target']} makes a {type(model).__name__}, not an nn.Module")
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the weights do not fit {described['target']}: {reason}") from error
    return model.eval()
