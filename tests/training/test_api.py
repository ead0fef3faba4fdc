"""The API that training-api.md fixes, and the seed's own examples as written."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
import textwrap
import typing
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import ununennium
from ununennium.errors import ConfigError
from ununennium.training import config as config_module
from ununennium.training.callbacks import Callback, CheckpointCallback, EarlyStopping
from ununennium.training.trainer import Trainer, TrainerConfig


def positional(callable_):
    parameters = inspect.signature(callable_).parameters.values()
    return [(p.name, p.default) for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def test_signatures_are_the_contract():
    empty = inspect.Parameter.empty
    assert positional(Trainer) == [
        ("model", empty), ("optimizer", empty), ("loss_fn", empty), ("train_loader", empty), ("val_loader", None),
        ("scheduler", None), ("callbacks", None), ("config", None),
    ]  # fmt: skip
    assert positional(Trainer.fit) == [("self", empty), ("epochs", None)]
    assert typing.get_type_hints(Trainer.fit)["return"] == dict[str, list[float]]
    assert positional(TrainerConfig) == [
        ("epochs", 100), ("device", "cuda"), ("mixed_precision", True), ("accumulation_steps", 1),
        ("gradient_clip", 1.0),
    ]  # fmt: skip
    assert positional(CheckpointCallback) == [
        ("dirpath", empty), ("monitor", "val_loss"), ("mode", "min"), ("save_top_k", 1),
    ]  # fmt: skip
    assert positional(EarlyStopping) == [("monitor", "val_loss"), ("patience", 10), ("min_delta", 0.0)]
    assert issubclass(EarlyStopping, Callback)
    assert issubclass(CheckpointCallback, Callback)
    assert all(f.kw_only for f in dataclasses.fields(TrainerConfig)[5:])


def test_the_seeds_examples_run_as_written_with_config_none(kit, monkeypatch):
    """On a machine without CUDA, the default device and precision warn or fall back, and train."""
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA; the default device is not missing")
    monkeypatch.setattr(config_module, "_warned_devices", set())
    model = kit.model()
    with pytest.warns(UserWarning, match="no CUDA device"):
        trainer = Trainer(
            model,
            torch.optim.Adam(model.parameters()),
            nn.CrossEntropyLoss(),
            kit.loader(),
            kit.loader(8),
            config=None,
        )
    history = trainer.fit(epochs=2)
    assert len(history["train_loss"]) == len(history["val_loss"]) == 2
    assert trainer.device.type == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the warning comes once
        Trainer(kit.model(), torch.optim.Adam(model.parameters()), nn.CrossEntropyLoss(), kit.loader(), config=None)


def test_early_stopping_and_checkpoints_are_used_as_documented(kit, tmp_path):
    model = kit.model()
    callbacks = [
        CheckpointCallback(str(tmp_path / "checkpoints"), monitor="val_loss", mode="min", save_top_k=2),
        EarlyStopping(monitor="val_loss", patience=3, min_delta=0.001),
    ]
    scheduler_optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(scheduler_optimizer, T_max=5)
    trainer = Trainer(
        model, scheduler_optimizer, nn.CrossEntropyLoss(), kit.loader(), kit.loader(8), scheduler, callbacks,
        TrainerConfig(epochs=5, device="cpu", mixed_precision=True, accumulation_steps=4, gradient_clip=1.0),
    )  # fmt: skip
    history = trainer.fit()
    assert {"train_loss", "val_loss"} <= history.keys()


def test_a_required_device_that_is_missing_is_an_error(kit):
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA; the device is not missing")
    with pytest.raises(ConfigError, match="require_device"):
        kit.trainer(kit.model(), kit.loader(), device="cuda", require_device=True)


def test_auto_is_the_best_device_that_there_is_without_a_word(kit, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert config_module.resolve_device(TrainerConfig(device="auto")) == torch.device("cpu")
        with pytest.raises(ConfigError, match="no GPU is usable here"):
            config_module.resolve_device(TrainerConfig(device="auto", require_device=True))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        assert config_module.resolve_device(TrainerConfig(device="auto")) == torch.device("cuda", 0)


@pytest.mark.parametrize("device", ["gpu", "cpu:zero"])
def test_an_unknown_device_is_named(kit, device):
    with pytest.raises(ConfigError, match=f"device = '{device}'"):
        kit.trainer(kit.model(), kit.loader(), device=device)


def test_the_local_rank_chooses_the_gpu(monkeypatch):
    """correctness 71: `cuda` under torchrun is cuda:LOCAL_RANK, set before any other CUDA call."""
    chosen = []
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert config_module.resolve_device(TrainerConfig()) == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 1)]
    with pytest.raises(ConfigError, match="there are 2 GPUs"):
        config_module.resolve_device(TrainerConfig(device="cuda:5"))


def python(code):
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def bare_packages(tmp_path_factory):
    """A folder with torch, NumPy, fsspec, what they themselves require, and this project: nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    wanted, seen = ["torch", "numpy", "fsspec"], set()
    while wanted:
        name = re.match(r"[A-Za-z0-9._-]+", wanted.pop()).group().lower().replace("_", "-")
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # a requirement for another platform
        if name in seen:
            continue
        seen.add(name)
        wanted += [line for line in distribution.requires or [] if "extra ==" not in line]
        for top in {file.parts[0] for file in distribution.files or [] if not file.parts[0].startswith((".", "_"))}:
            link = folder / top
            if not link.exists():
                link.symlink_to(distribution.locate_file(top))
    (folder / "ununennium").symlink_to(Path(ununennium.__file__).parent)
    return folder


@pytest.mark.slow
def test_training_needs_nothing_beyond_torch_numpy_and_fsspec(bare_packages, tmp_path):
    """A GPU machine without Prefect, pydantic, rasterio or smp trains, writes checkpoints and resumes."""
    code = f"""
        for absent in ("prefect", "pydantic", "rasterio", "segmentation_models_pytorch", "yaml", "rich", "safetensors"):
            try:
                __import__(absent)
            except ModuleNotFoundError:
                continue
            raise SystemExit(f"{{absent}} can be imported: this test would prove nothing")

        import torch
        from torch.utils.data import DataLoader, TensorDataset
        from ununennium.losses import CrossEntropyLoss
        from ununennium.models import UNet
        from ununennium.training import CheckpointCallback, EarlyStopping, Trainer, TrainerConfig
        from ununennium.training.callbacks import EMA, MetricsFile, Progress, SegmentationMetrics

        loader = DataLoader(TensorDataset(torch.randn(4, 2, 32, 32), torch.randint(0, 3, (4, 32, 32))), batch_size=2)

        def make(epochs):
            model = UNet(2, 3, base_channels=4)
            callbacks = [
                CheckpointCallback({str(tmp_path)!r}), EarlyStopping(), EMA(), SegmentationMetrics(3, 255), Progress(),
                MetricsFile({str(tmp_path / "metrics.csv")!r}),
            ]
            config = TrainerConfig(epochs=epochs, device="cpu")
            optimizer = torch.optim.AdamW(model.parameters())
            return Trainer(model, optimizer, CrossEntropyLoss(), loader, loader, callbacks=callbacks, config=config)

        make(1).fit()
        print(len(make(2).fit(resume_from={str(tmp_path)!r})["train_loss"]), "epochs")
        """
    finished = subprocess.run(
        [sys.executable, "-S", "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(bare_packages)}, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "2 epochs"


@pytest.mark.slow
def test_importing_training_loads_nothing_heavy_beyond_torch():
    """What takes the time is known by name; the seconds themselves are measured in benchmarks/."""
    out = python(
        """
        import json, sys
        import torch
        before = set(sys.modules)
        from ununennium.training import Trainer, TrainerConfig, CheckpointCallback, EarlyStopping
        import ununennium.training.callbacks, ununennium.training.trainer
        print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
        """
    )
    heavy = {"prefect", "pydantic", "rasterio", "matplotlib", "rich", "yaml", "safetensors", "tensorboard", "s3fs",
             "mlflow", "torchvision", "sklearn", "aiohttp", "botocore", "sympy"}  # fmt: skip
    assert not heavy & set(json.loads(out))


def test_the_launcher_costs_its_caller_no_torch():
    assert python("import ununennium.launch.training, sys; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.slow
def test_compile_and_channels_last_train(kit):
    """Settings that change the speed, not the result."""
    results = []
    for settings in ({}, {"channels_last": True}, {"compile": True}):
        torch.compiler.reset()
        model = kit.segmenter()
        with torch.compiler.set_stance("force_eager"):  # the wiring is what is tested; compiling takes a minute
            history = kit.trainer(
                model, kit.tiles([1.0, 0.5]), val_loader=kit.tiles([1.0]), loss_fn=kit.pixel_sum(), **settings
            ).fit()
        results.append(history)
    assert results[0]["val_loss"] == pytest.approx(results[1]["val_loss"], rel=1e-5)
    assert results[0]["val_loss"] == pytest.approx(results[2]["val_loss"], rel=1e-5)


def test_a_plain_loader_of_a_list_works(kit):
    """Any iterable of batches will do."""
    assert isinstance(kit.loader(), DataLoader)
    kit.trainer(kit.model(), list(kit.loader())).fit(1)
