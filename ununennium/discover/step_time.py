"""Time of an optimizer step on this machine, so that ``init --budget`` can say how many steps fit."""

from __future__ import annotations

import time
import warnings

import torch

from ununennium.config import RunConfig
from ununennium.importing import counts_of_model, instantiate
from ununennium.training.config import TrainerConfig, resolve_device
from ununennium.training.precision import resolve_precision

_TIMED = 3


def step_time_s(config: RunConfig, in_channels: int) -> float:
    """Median seconds of an optimizer step of ``config``'s model, loss and batch, on random pixels and labels.

    Args:
        config: of a segmentation; its device, precision and layout apply.
        in_channels: bands of the model.
    """
    data, number = config.data, len(config.data.classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a device that is not there: training says it
        device = resolve_device(TrainerConfig(device=config.trainer.device))
    layout = torch.channels_last if config.trainer.channels_last else torch.contiguous_format
    runtime = {**counts_of_model(in_channels, number), "num_dates": 1}
    model = instantiate(config.model.target, config.model.kwargs, field="model", **runtime)
    model = model.to(device, memory_format=layout).train()
    classes = {"ignore_index": data.ignore_index, "num_classes": number}
    loss_fn = instantiate(config.loss.target, config.loss.kwargs, field="loss", **classes).to(device)
    optimizer = instantiate(config.optimizer.target, config.optimizer.kwargs, model.parameters(), field="optimizer")
    precision = resolve_precision(config.trainer.mixed_precision, device)
    image = torch.randn(data.batch_size, in_channels, data.chip_size, data.chip_size, device=device)
    target = torch.randint(number, (data.batch_size, data.chip_size, data.chip_size), device=device)
    taken = []
    for _ in range(1 + _TIMED):  # the first warms up
        begun = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with precision.autocast():
            output = model(image.to(memory_format=layout))
        total, weight = loss_fn(output.float(), target)
        (total / weight).backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - begun)
    return sorted(taken[1:])[_TIMED // 2]
