"""Fit ``deployments/prefect.yaml`` to a place: its storage, its run configuration, and its work pools.

The file itself is for one machine: a relative folder as storage, and one work pool for all flows. On Kubernetes and in
Compose, as in each installation where runs share no folder::

    python -m infra.deployments --config run.yaml --pool cpu-job --train-pool gpu-job > /tmp/prefect.yaml
    prefect deploy --all --prefect-file /tmp/prefect.yaml

Without storage that runs share, a schedule of a flow that uses storage is deployed inactive.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from ununennium.config import RunConfig
from ununennium.errors import UnunenniumError

FILE = Path(__file__).parents[1] / "deployments" / "prefect.yaml"
TRAINS = "retrain"
"""The flow that needs the pool with GPUs."""


def is_shared(storage: str) -> bool:
    """Whether runs on several machines can share ``storage``: a URL, or an absolute path that they all mount."""
    return ("://" in storage and not storage.startswith("file:")) or storage.startswith("/")


def render(
    described: Mapping[str, Any],
    *,
    config: RunConfig | None = None,
    storage: str | None = None,
    pool: str | None = None,
    train_pool: str | None = None,
    on_train_pool: Collection[str] = (),
) -> dict[str, Any]:
    """Deployments for ``prefect deploy``.

    Args:
        described: contents of ``deployments/prefect.yaml``.
        config: trained, evaluated and watched in place of the sample; its name is that of the model.
        storage: of runs, registry and maps; that of ``config`` if None.
        pool: work pool of all flows but those of ``train_pool``; as described if None.
        train_pool: work pool of ``retrain``; ``pool`` if None.
        on_train_pool: further flows that use ``train_pool``, such as ``predict``.
    """
    content = {key: copy.deepcopy(value) for key, value in described.items() if key != "definitions"}
    storage = storage or (config.storage if config is not None else None)
    deployments = []
    for each in content["deployments"]:
        deployment = copy.deepcopy(each)  # anchors share parts
        flow = str(deployment["entrypoint"]).rpartition(":")[2]
        trains = flow == TRAINS or flow in on_train_pool
        if wanted := (train_pool or pool) if trains else pool:
            deployment["work_pool"]["name"] = wanted
        parameters = deployment.get("parameters", {})
        if config is not None:
            if not _put_config(deployment, parameters, config):
                print(f"{flow}/{deployment['name']} is left out: the scenes are a catalogue's", file=sys.stderr)
                continue
            if not trains and "data" in parameters.get("config", {}):
                trainer = parameters["config"].setdefault("trainer", {})
                trainer["device"] = "auto" if str(trainer.get("device", "")).startswith("cuda") else trainer["device"]
        _put_storage(parameters, storage)
        used = _storage(parameters)  # None: it uses none, as the sweep over runs
        for schedule in deployment.get("schedules", []):
            schedule["active"] = bool(schedule.get("active", True)) and (used is None or is_shared(used))
        deployments.append(deployment)
    return {**content, "deployments": deployments}


def _put_config(deployment: dict[str, Any], parameters: dict[str, Any], config: RunConfig) -> bool:
    """Put a configuration where the sample is; False if the deployment cannot work with it."""
    sample = parameters.get("config")
    if isinstance(sample, dict) and "data" in sample:
        parameters["config"] = config.model_dump(mode="json")
    elif isinstance(sample, dict):  # of maps
        images = [scene.image for scene in config.data.scenes or []]
        if not images or not all(isinstance(image, str) for image in images):
            return False
        sample.update(model=config.name, images=images)
    if "model" in parameters:
        parameters["model"] = config.name
    for trigger in deployment.get("triggers", []):
        resource = trigger.get("match", {}).get("prefect.resource.id", "")
        for kind in ("ununennium.data.", "ununennium.model."):
            if resource.startswith(kind):
                trigger["match"]["prefect.resource.id"] = f"{kind}{config.name}"
    return True


def _put_storage(parameters: dict[str, Any], storage: str | None) -> None:
    if storage is None:
        return
    settings = parameters.get("config")
    for each in (parameters, settings if isinstance(settings, dict) else {}):
        if "storage" in each:
            each["storage"] = storage
        if "output" in each:
            each["output"] = f"{storage.rstrip('/')}/maps"


def _storage(parameters: Mapping[str, Any]) -> str | None:
    settings = parameters.get("config")
    for each in (settings if isinstance(settings, dict) else {}, parameters):
        if "storage" in each:
            return str(each["storage"] or "")
    return None


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 the deployments are on the standard output; 1 the configuration cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m infra.deployments",
        description="Print deployments/prefect.yaml with the storage, run configuration and work pools of a place.",
    )
    parser.add_argument("--config", metavar="FILE", help="run configuration in place of the sample's")
    parser.add_argument("--storage", metavar="URL", help="storage of runs, registry and maps (default: of --config)")
    parser.add_argument("--pool", metavar="NAME", help="work pool of every flow that does not train")
    parser.add_argument("--train-pool", metavar="NAME", help=f"work pool of {TRAINS} (default: that of --pool)")
    parser.add_argument(
        "--on-train-pool",
        metavar="FLOW",
        action="append",
        default=[],
        choices=["predict", "evaluate"],
        help="a further flow for --train-pool, as it predicts faster on a GPU: predict or evaluate",
    )
    options = parser.parse_args(arguments)
    try:
        config = RunConfig.load(options.config) if options.config else None
    except (UnunenniumError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rendered = render(
        yaml.safe_load(FILE.read_text(encoding="utf-8")),
        config=config,
        storage=options.storage,
        pool=options.pool,
        train_pool=options.train_pool,
        on_train_pool=options.on_train_pool,
    )
    inactive = [
        f"{each['entrypoint'].rpartition(':')[2]}/{each['name']}"
        for each in rendered["deployments"]
        if any(not schedule["active"] for schedule in each.get("schedules", []))
    ]
    if inactive:
        print(f"schedules are inactive, as no shared storage is given: {', '.join(inactive)}", file=sys.stderr)
    print(yaml.safe_dump(rendered, sort_keys=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
