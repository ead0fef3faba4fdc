"""The model that is promoted: weights as safetensors, and the contract that says how to use them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ununennium.checkpoints.artifact_code import NamesCode, build_from_artifact
from ununennium.checkpoints.contract import (
    CONTRACT,
    HEAL,
    WEIGHTS,
    ModelContract,
    check_contract,
    check_version,
    file_sha256,
    named_version,
    parse_contract,
    to_json,
)
from ununennium.checkpoints.object_cache import ExpectedObject, open_verified
from ununennium.errors import CheckpointError, UnunenniumError
from ununennium.importing import counts_of_model
from ununennium.storage.errors import translated_full_disk
from ununennium.storage.open import open_storage


def write_artifact(folder: Path, state_dict: Mapping[str, Tensor], contract: Mapping[str, Any]) -> ModelContract:
    """Write ``model.safetensors`` and ``contract.json`` into a local folder, the contract last.

    Args:
        folder: made if it is not there; the two files in it are replaced.
        state_dict: the bare model's parameters and buffers, without wrappers' prefixes.
        contract: a ``ModelContract``, or a mapping of its keys; what ``contract.REQUIRED`` lists must be there.

    Returns:
        The contract as it was written, with ``weights_sha256``.

    Raises:
        ConfigError: the contract lacks something.
        CheckpointError: ``state_dict`` holds something that is no tensor.
        StorageError: the disk is full.
    """
    from safetensors.torch import save

    described = ModelContract.of(contract)
    check_contract(described.to_json())
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
        complete = replace(described, weights_sha256=file_sha256(folder / WEIGHTS))
        (folder / CONTRACT).write_bytes(to_json(complete.to_json()))
    return complete


def load_artifact(
    url: str, *, cached: bool = True, trusted: Sequence[NamesCode] = ()
) -> tuple[nn.Module, ModelContract]:
    """Build the model at ``url`` on the CPU, in evaluation mode, with its contract.

    A version of the registry is what its name says: the contract's hash is compared with the folder's name, and the
    weights' hash with the contract, before anything that the contract names is imported.

    Args:
        url: the artefact's folder, such as ``Registry.version_url`` gives.
        cached: whether weights in remote storage may come from a local copy (see ``load_cache``); the copy's hash is
            checked like theirs.
        trusted: the caller's own configuration of models, such as ``[config.model]``: code that it names may be run,
            see ``artifact_code``.

    Raises:
        CheckpointError: a file is missing or damaged, is not what the version's name says, or the weights do not fit
            the model.
        ConfigError: the model may not be built here, or cannot be built as the contract says.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    storage = open_storage(url)
    version = named_version(storage.root)
    try:
        data = storage.read_bytes(CONTRACT)
        if version is not None:
            check_version(data, version, url=storage.url(CONTRACT))
        contract = parse_contract(data, url=storage.url(CONTRACT))
        assert contract.weights_sha256 is not None  # parse_contract
        expected = ExpectedObject(contract.weights_sha256, None, "the contract", HEAL)
        with open_verified(storage, WEIGHTS, expected, cached=cached) as path:
            weights = load_file(path, device="cpu")
    except FileNotFoundError as error:
        raise CheckpointError(f"{url} is no model artefact: {CONTRACT} or {WEIGHTS} is missing; {HEAL}") from error
    except SafetensorError as error:
        raise CheckpointError(f"{storage.url(WEIGHTS)} holds no weights: {error}") from error
    return build_model(contract, weights, trusted=trusted), contract


def build_model(
    contract: ModelContract, weights: Mapping[str, Tensor], *, trusted: Sequence[NamesCode] = ()
) -> nn.Module:
    """The model that ``contract`` describes with ``weights``, in evaluation mode.

    Args:
        contract: of an artefact.
        weights: its parameters and buffers.
        trusted: see ``load_artifact``.

    Raises:
        CheckpointError: the weights do not fit, or the model's own code fails.
        ConfigError: the model may not be built here, or cannot be built.
    """
    described = contract.model
    try:
        with torch.random.fork_rng(devices=[]):  # weights drawn only to be replaced leave no trace
            model = build_from_artifact(
                described.target,
                described.kwargs,
                field="contract.model",
                trusted=trusted,
                **counts_of_model(described.in_channels, described.num_classes),
                num_dates=contract.num_dates,
            )
    except UnunenniumError:
        raise
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(f"{described.target} cannot be built as the contract says: {reason}") from error
    if not isinstance(model, nn.Module):
        raise CheckpointError(f"{described.target} makes a {type(model).__name__}, not an nn.Module")
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the weights do not fit {described.target}: {reason}") from error
    return model.eval()
