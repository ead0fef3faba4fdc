"""Storages to test on, and a small training run."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ununennium.training import Trainer, TrainerConfig


@pytest.fixture(autouse=True)
def no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What these tests load is what lies in storage, not a copy that was kept."""
    monkeypatch.setenv("UNUNENNIUM_LOAD_CACHE_GB", "0")


@pytest.fixture(params=["path", "file", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder: a plain path, a ``file://`` URL, a ``memory://`` URL, a prefix on a real S3 server."""
    if request.param == "memory":
        name = uuid.uuid4().hex
        yield f"memory://{name}/checkpoints"
        memory = fsspec.filesystem("memory")
        if memory.exists(f"/{name}"):
            memory.rm(f"/{name}", recursive=True)
    elif request.param == "s3":
        request.getfixturevalue("s3")
        yield f"s3://checkpoints/{uuid.uuid4().hex}"
    elif request.param == "file":
        yield f"file://{tmp_path}/checkpoints"
    else:
        yield str(tmp_path / "checkpoints")


@pytest.fixture
def state() -> Callable[..., dict[str, Any]]:
    """Makes small states, each with other contents."""

    def make(number: int = 0) -> dict[str, Any]:
        return {"model": {"weight": torch.full((4, 4), float(number)), "bias": torch.zeros(4)}, "number": number}

    return make


@pytest.fixture
def make_trainer() -> Callable[..., Trainer]:
    """Makes Trainers of a linear model on fixed data, on the CPU; equal arguments give equal training."""

    def make(*callbacks: Any, validate: bool = True, model: nn.Module | None = None, **settings: Any) -> Trainer:
        generator = torch.Generator().manual_seed(0)
        data = TensorDataset(torch.randn(12, 3, generator=generator), torch.randn(12, 2, generator=generator))
        if model is None:
            torch.manual_seed(0)
            model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return Trainer(
            model,
            optimizer,
            nn.MSELoss(),
            DataLoader(data, batch_size=4),
            DataLoader(data, batch_size=4) if validate else None,
            callbacks=list(callbacks),
            config=TrainerConfig(device="cpu", mixed_precision=False, **settings),
        )

    return make
