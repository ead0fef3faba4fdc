"""One scene's map with all that belongs to it, down to the STAC item that says what it is."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from ununennium.config.predictor import PolygonsConfig
from ununennium.errors import StorageUnavailable
from ununennium.files import work_root
from ununennium.inference import mlm_item
from ununennium.inference.change import LastMaps, write_change
from ununennium.inference.jobs import ITEM, JobScene, MapJob
from ununennium.inference.multi_gpu import Ranks
from ununennium.inference.outputs import MappedScene
from ununennium.inference.predictor import OnRows, Predictor
from ununennium.inference.stac_item import ASSETS, stac_item
from ununennium.inference.strip_store import strip_store
from ununennium.storage.base import Storage
from ununennium.storage.open import open_storage

logger = logging.getLogger(__name__)

RETRY_WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Seconds before each new try of an upload, each of which tries several times by itself."""


def make_map(
    job: MapJob,
    predictor: Predictor,
    scene: JobScene,
    folder: Path,
    *,
    ranks: Ranks,
    on_rows: OnRows | None = None,
) -> dict[str, Any]:
    """Map one scene into ``folder``, and move what was made to the job's output.

    What is predicted is kept band by band until all of it is there: a process that is killed, or storage that does not
    answer, costs no more than the band under way.

    Args:
        job: job to run.
        predictor: with the job's model.
        scene: scene of the job.
        folder: on this machine, for the files.
        ranks: the processes that share the scene's rows.
        on_rows: told how many rows of how many this process has done.

    Returns:
        The STAC item.

    Raises:
        DataError: the scene cannot be read, or does not fit the model.
        StorageError: the output cannot be written; nothing of this scene counts as made.
    """
    fingerprint = job.fingerprint(scene.images)  # before it is read: what changes meanwhile is made again
    storage, name = open_storage(job.output), scene.name
    with strip_store(work_root() / "maps", name, predictor.key(scene.images, job.outputs)) as store:
        plan = predictor.plan(scene.images, job.outputs, name=name, date=scene.date, folder=store.folder)
        ranks.begin(name, store)
        predictor.predict(plan, store, share=(0, ranks.count), on_rows=on_rows)
        ranks.wait(name)
        settings = PolygonsConfig.model_validate(job.polygons)
        mapped = predictor.write(plan, store, folder / "map.tif", settings, prefix="")
        links = [{"rel": "derived_from", "href": url} for url in plan.opened.sources]
        files, about = dict(mapped.files), _about(job, predictor, fingerprint)
        if job.change and (change := write_change(LastMaps(storage), mapped, name, predictor.contract, folder)):
            files |= change.files
            about["ununennium:change"] = change.summary
            links.append({"rel": "predecessor-version", "href": change.url})
        links.append(_link_to_model(job, predictor, storage, folder))
        item = stac_item(mapped, name, links=links, files=files, properties=about, title=job.model)
        (folder / ITEM).write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")
        _publish(storage, name, files, folder / ITEM)
    return item


def _about(job: MapJob, predictor: Predictor, fingerprint: str) -> dict[str, Any]:
    return {
        "ununennium:model": job.model,
        "ununennium:version": job.version,
        "ununennium:generation": job.generation,
        "ununennium:run_id": predictor.contract.run_id,
        "ununennium:tta": predictor.tta,
        "ununennium:fingerprint": fingerprint,
    }


def _link_to_model(job: MapJob, predictor: Predictor, storage: Storage, folder: Path) -> dict[str, Any]:
    """Path of the item that describes the model of the map, one for each version."""
    key = f"_models/{job.model}-{job.version[:16]}.json"
    if not storage.exists(key):
        file = folder / "model.json"
        item = mlm_item.mlm_item(predictor.contract, job.model, job.version, storage=job.storage)
        file.write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")
        _upload(storage, file, key)
    return {"rel": "derived_from", "href": f"../{key}", "type": "application/geo+json", "title": f"model {job.model}"}


def _publish(storage: Storage, name: str, files: dict[str, Path], item: Path) -> None:
    """Move a map to its place: the item of the last one goes first, that of this one comes last."""
    _patiently(lambda: storage.delete(f"{name}/{ITEM}"), storage.url(f"{name}/{ITEM}"))
    for kind, about in ASSETS.items():
        if kind not in files:  # what the last map had, and this one has not, must not be taken for this one's
            _patiently(lambda old=about.file: storage.delete(f"{name}/{old}"), storage.url(f"{name}/{about.file}"))
    for file in [*files.values(), item]:
        _upload(storage, file, f"{name}/{file.name}")


def _upload(storage: Storage, file: Path, key: str) -> None:
    _patiently(lambda: storage.put_file(file, key), storage.url(key))


def _patiently(act: Any, what: str) -> None:
    """Try again for a minute where the storage does not answer: the map is whole on this machine."""
    for wait_s in RETRY_WAITS_S:
        try:
            act()
        except StorageUnavailable as error:
            logger.warning("%s: %s; trying again in %g s", what, error, wait_s)
            time.sleep(wait_s)
        else:
            return
    act()


__all__ = ["MappedScene", "make_map"]
