"""A promoted model as a STAC item of the Machine Learning Model extension (MLM 1.4), which its maps link to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ununennium.checkpoints.contract import WEIGHTS, ModelContract
from ununennium.checkpoints.registry import Registry
from ununennium.data.scenes.places import crs_text, resolution_text
from ununennium.runs.directory import as_link
from ununennium.tasks import TASKS

EXTENSION = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
_TASKS = {
    "segmentation": "semantic-segmentation",
    "change": "semantic-segmentation",
    "classification": "scene-classification",
    "multilabel": "scene-classification",
    "regression": "regression",
}
_SAFETENSORS = "application/octet-stream; framework=pytorch; profile=safetensors"


def mlm_item(contract: ModelContract, model: str, version: str, *, storage: str) -> dict[str, Any]:
    """The item of a version of a model.

    Args:
        contract: of the version.
        model: its name.
        version: version of the model.
        storage: storage of the registry.
    """
    described, task = contract.model, contract.task
    # A model has no place: it can be applied wherever scenes fit. The item's geometry is the whole Earth.
    ring = [[-180, -90], [180, -90], [180, 90], [-180, 90], [-180, -90]]
    url = Registry(storage, model).version_url(version)
    versions = contract.versions
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [EXTENSION],
        "id": f"{model}-{version[:16]}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [-180, -90, 180, 90],
        "properties": {
            "datetime": contract.created,
            "description": f"version {version} of the model {model}, of run {contract.run_id}",
            "mlm:name": model,
            "mlm:architecture": str(described.target),
            "mlm:tasks": [_TASKS[task]],
            "mlm:framework": "pytorch",
            "mlm:framework_version": str(versions.get("torch", "unknown")),
            "mlm:batch_size_suggestion": 4,
            "mlm:hyperparameters": dict(described.kwargs),
            "mlm:input": [_input(contract)],
            "mlm:output": [_output(contract, task)],
            "ununennium:version": version,
            "ununennium:run_id": contract.run_id,
            "ununennium:metrics": contract.metrics,
        },
        "links": [],
        "assets": {
            "model": {
                "href": as_link(f"{url}/{WEIGHTS}"),
                "type": _SAFETENSORS,
                "title": "weights",
                "roles": ["mlm:model", "mlm:weights"],
                "mlm:artifact_type": "safetensors.torch.save",
            },
            "contract": {
                "href": as_link(f"{url}/contract.json"),
                "type": "application/json",
                "title": "contract",
                "roles": ["mlm:inference", "metadata"],
            },
        },
    }


def _input(contract: ModelContract) -> dict[str, Any]:
    statistics, size = contract.statistics, int(contract.chip_size)
    names = contract.inputs
    dates = contract.num_dates
    over_time = dates > 1 and contract.layout != "channels"
    shape = [-1, dates, len(names), size, size] if over_time else [-1, len(names) * dates, size, size]
    order = ["batch", "time", "bands", "height", "width"] if over_time else ["batch", "bands", "height", "width"]
    crs, resolution = contract.crs, contract.resolution
    return {
        "name": "pixels",
        "bands": names,
        "input": {"shape": shape, "dim_order": order, "data_type": "float32"},
        "value_scaling": _value_scaling(statistics),
        "description": f"pixels of {resolution_text(crs, resolution)}, {crs_text(crs)}, normalised; 0 without data",
    }


def _value_scaling(statistics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Normalisation of each band; MLM knows a standard deviation by the name "stddev"."""
    moments = list(zip(statistics["mean"], statistics["std"], strict=True))
    if not statistics.get("log_floor"):
        return [{"type": "z-score", "mean": mean, "stddev": std} for mean, std in moments]
    return [
        {
            "type": "processing",
            "format": "python",
            "expression": f"(numpy.log(numpy.maximum(pixels, {floor!r})) - {mean!r}) / {std!r}",
        }
        for floor, (mean, std) in zip(statistics["log_floor"], moments, strict=True)
    ]


def _output(contract: ModelContract, task: str) -> dict[str, Any]:
    number, size = len(contract.classes), int(contract.chip_size)
    spec = TASKS[task]
    output: dict[str, Any] = {
        "name": contract.classes[0] if not spec.has_classes else "logits",
        "tasks": [_TASKS[task]],
        "result": {
            "shape": [-1, number] if spec.is_patchwise else [-1, number, size, size],
            "dim_order": ["batch", "class"] if spec.is_patchwise else ["batch", "class", "height", "width"],
            "data_type": "float32",
        },
    }
    if spec.has_classes:
        names = list(contract.classes)
        output["classification:classes"] = [{"value": value, "name": name} for value, name in enumerate(names)]
    return output
