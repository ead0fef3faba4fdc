"""Maps of many scenes with one model: what is to do, a process that does it, and what came of it.

No Prefect here, and no torch: the maps are made in a process of their own, which loads the model once. Each scene gets
a folder below ``output``::

    <scene>/map.tif          classes or values, a cloud-optimised GeoTIFF
            quicklook.png    the same to look at, with a legend
            item.json        a STAC item: footprint, areas, model, source; written last, so that it says: all is there

A scene whose item was made from the same files by the same version is not made again, so that what was interrupted, or
failed in part, is asked for again as a whole.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from ununennium.checkpoints.registry import Registry
from ununennium.checkpoints.storage import check_writable, open_storage
from ununennium.config.maps import MapSceneConfig, MapsConfig
from ununennium.errors import ConfigError, DataError, ProcessLost
from ununennium.runs import read_json, resolve_storage, work_root, write_json
from ununennium.training.result import failed_process
from ununennium.training.supervise import how_it_ended, supervise
from ununennium.training.watch import OnLine

ITEM = "item.json"
_GRACE_S = 10.0


@dataclass(frozen=True)
class MapJob:
    """What is to be mapped, decided once: a champion that changes meanwhile changes nothing here.

    Attributes:
        model: name of the model.
        version: which one of its versions.
        generation: of the champion, if it is that; else None.
        scenes: name and images of each.
        output: absolute folder or URL.
        storage: where the registry is.
        tta: average over flips and turns; None as the model was judged.
        device: computation device.
    """

    model: str
    version: str
    generation: int | None
    scenes: list[tuple[str, list[str]]]
    output: str
    storage: str
    tta: bool | None
    device: str

    def fingerprint(self, images: Sequence[str]) -> str:
        """A hash of what decides the map of a scene: its files, as their file system describes them, and the model."""
        stamps = [_stamp(image) for image in images]
        parts = json.dumps([self.model, self.version, self.tta, list(images), stamps])
        return hashlib.sha256(parts.encode()).hexdigest()

    def item(self, name: str) -> dict[str, Any] | None:
        """The STAC item of a scene's map, if it has been made."""
        try:
            found: dict[str, Any] = json.loads(open_storage(self.output).read_bytes(f"{name}/{ITEM}"))
        except (FileNotFoundError, ValueError):
            return None
        return found


@dataclass(frozen=True)
class Mapped:
    """What came of a job.

    Attributes:
        job: what was asked for.
        items: the STAC items by scene, of what was made now or before.
        reused: scenes that were there already.
        failures: what went wrong, by scene.
    """

    job: MapJob
    items: dict[str, dict[str, Any]]
    reused: list[str]
    failures: dict[str, str]

    def rows(self) -> list[dict[str, Any]]:
        """A row for each scene: what became of it, and the share of each class."""
        rows: list[dict[str, Any]] = []
        for name, _ in self.job.scenes:
            if name in self.failures:
                rows.append({"scene": name, "state": "failed", "why": self.failures[name]})
                continue
            areas = self.items[name]["properties"]["ununennium:areas"]
            total = sum(area["pixels"] for area in areas.values()) or 1
            shares = {each: f"{area['pixels'] / total:.1%}" for each, area in areas.items()}
            rows.append({"scene": name, "state": "was there" if name in self.reused else "made", "why": "", **shares})
        return rows


def make_job(config: MapsConfig, version: str | None = None) -> MapJob:
    """Find the model and the scenes.

    Args:
        config: what to map.
        version: of the model; its champion if not given.

    Raises:
        ConfigError: the model has no champion, no image matches, or two scenes have one name.
        CheckpointError: there is no such version.
    """
    storage = resolve_storage(config.storage)
    registry = Registry(storage, config.model)
    champion = registry.current()
    if version is None:
        if champion is None:
            remedy = f"has no champion in {storage}; 'ununennium registry list' shows who has"
            raise ConfigError("model", config.model, remedy)
        version = champion.version
    registry.contract(version)
    scenes: dict[str, list[str]] = {}
    for scene in [*config.scenes, *(MapSceneConfig(image=image) for image in _matches(config.images))]:
        images = [scene.image] if isinstance(scene.image, str) else scene.image
        name = scene.name or PurePosixPath(images[0]).stem
        if name in scenes:
            raise ConfigError("scenes", name, "is the name of two scenes; give one of them another name")
        scenes[name] = [_absolute(image) for image in images]
    is_champion = champion is not None and champion.version == version
    return MapJob(
        model=config.model,
        version=version,
        generation=champion.generation if champion is not None and is_champion else None,
        scenes=sorted(scenes.items()),
        output=resolve_storage(config.output),
        storage=storage,
        tta=config.tta,
        device=config.device,
    )


def run_job(job: MapJob, *, timeout_s: float | None = None, on_line: OnLine = print) -> Mapped:
    """Make the maps that are not there yet, in a process of its own; a scene that fails does not stop the others.

    Args:
        job: what to map.
        timeout_s: seconds after which the process is ended.
        on_line: told what is being done, from a thread.

    Raises:
        StorageError: the output cannot be written.
        ProcessLost: the process was killed; what it had made is there, and a new call goes on.
        TrainingError: it failed before it came to the scenes.
    """
    check_writable(open_storage(job.output))
    known = {name: item for name, images in job.scenes if (item := _made_before(job, name, images)) is not None}
    missing = [(name, images) for name, images in job.scenes if name not in known]
    if known:
        on_line(f"{len(known)} of {len(job.scenes)} scene(s) are mapped already")
    failures: dict[str, str] = {}
    if missing:
        work = work_root() / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-map-{job.model}-{secrets.token_hex(2)}"
        try:
            failures = _in_process(job, missing, work, timeout_s, on_line)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    items = {name: item for name, _ in missing if name not in failures and (item := job.item(name)) is not None}
    return Mapped(job, {**known, **items}, sorted(known), failures)


def _in_process(
    job: MapJob, scenes: list[tuple[str, list[str]]], work: Path, timeout_s: float | None, on_line: OnLine
) -> dict[str, str]:
    """Map ``scenes``; returns what went wrong, by scene."""
    write_json(work / "job.json", asdict(replace(job, scenes=scenes)))

    def on_output(line: str) -> bool:
        on_line(line)
        return True

    command = [sys.executable, "-m", "ununennium.inference.worker", str(work / "job.json")]
    outcome = supervise(command, timeout_s=timeout_s, grace_s=_GRACE_S, on_line=on_output)
    answers = {name: read_json(file) for name, _ in scenes if (file := work / f"{name}.json").exists()}
    failures = {name: str(answer["error"]) for name, answer in answers.items() if answer["error"] is not None}
    unseen = [name for name, _ in scenes if name not in answers]
    if outcome.timed_out:
        return failures | dict.fromkeys(unseen, f"not begun, or not done: timeout_s = {timeout_s:g} passed")
    if outcome.returncode < 0:
        raise ProcessLost(f"the mapping process {how_it_ended(outcome.returncode)}, with {len(unseen)} scene(s) to go")
    if outcome.returncode != 0:
        raise failed_process(work / "error.json", "mapping process", outcome.returncode)
    return failures


def _made_before(job: MapJob, name: str, images: Sequence[str]) -> dict[str, Any] | None:
    """The item of a scene, if it is what would be made now; a file that is gone is the mapping's to tell of."""
    item = job.item(name)
    try:
        if item is not None and item["properties"]["ununennium:fingerprint"] == job.fingerprint(images):
            return item
    except (DataError, KeyError):
        pass
    return None


def _stamp(image: str) -> list[str]:
    """What a file system says of a file that changes with its contents.

    Raises:
        DataError: there is no such file.
    """
    if image.startswith("/vsi"):
        return [image]
    try:
        filesystem, path = fsspec.core.url_to_fs(image)
        info = filesystem.info(path)
    except Exception as error:
        raise DataError(f"{image} cannot be read: {type(error).__name__}: {error}") from error
    return [str(info.get(key)) for key in ("size", "mtime", "ETag", "etag", "LastModified") if info.get(key)]


def _matches(patterns: Sequence[str]) -> list[str]:
    """The files that match, each once, in order.

    Raises:
        ConfigError: nothing matches a pattern.
    """
    found: list[str] = []
    for pattern in patterns:
        filesystem, path = fsspec.core.url_to_fs(pattern)
        matches = [path for path in filesystem.glob(path) if filesystem.isfile(path)]
        if not matches:
            raise ConfigError(
                "images", pattern, "no file matches; '**' stands for any folders, '*' for a part of a name"
            )
        found += [filesystem.unstrip_protocol(match) if "://" in pattern else match for match in matches]
    return sorted(set(found))


def _absolute(image: str) -> str:
    return image if "://" in image or image.startswith("/vsi") else str(Path(image).expanduser().resolve())
