"""Maps of many scenes with one model: what is to do, a process that does it, and what came of it.

No Prefect here, and no torch: the maps are made in a process of their own, which loads the model once. Each scene gets
a folder below ``output``, with what ``outputs`` asks for::

    <scene>/map.tif            classes or values, a cloud-optimised GeoTIFF
            probabilities.tif  of each class, in a byte
            confidence.tif     the predicted class's own probability
            polygons.parquet   and .geojson: connected areas of a class
            areas.csv          pixels and square metres of each class
            quicklook.png      the map to look at, with a legend
            change.json        and .png: what changed since the last map of the place
            item.json          a STAC item: footprint, areas, model, source; written last: it says that all is there

A scene whose item was made from the same files by the same version is not made again, so that what was interrupted, or
failed in part, is asked for again as a whole.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from ununennium.checkpoints.registry import Registry
from ununennium.config.maps import MapsConfig, check_outputs
from ununennium.data.scenes.images import files_of
from ununennium.errors import ConfigError, DataError, UnunenniumError
from ununennium.files import cache_folder, work_root, write_json
from ununennium.launch.stalls import OnLine
from ununennium.processes.entry_points import Worker
from ununennium.processes.worker import ProcessTimedOut, run_worker
from ununennium.runs.directory import read_json
from ununennium.storage.open import check_writable, open_storage, resolve_storage

ITEM = "item.json"
_GRACE_S = 10.0


@dataclass(frozen=True)
class JobScene:
    """A scene to map.

    Attributes:
        name: of its map's folder.
        images: a path, URL or mapping of bands to files; one for each date of a stack.
        date: day of the image, or of each, where known.
    """

    name: str
    images: list[Any]
    date: str | list[str] | None = None


@dataclass(frozen=True)
class MapJob:
    """Maps to make, decided once: a champion that changes meanwhile changes nothing here.

    Attributes:
        model: name of the model.
        version: version of the model.
        generation: of the champion, if it is that; else None.
        scenes: scenes to map.
        output: absolute folder or URL.
        storage: storage of the registry.
        tta: average over flips and turns; None as the model was judged.
        device: computation device.
        outputs: outputs to make of each scene.
        predictor, fit, polygons: the sections of the configuration.
        new_only: a scene that has a map, by whichever version, is not made again.
        change: compare with the last map of the place.
    """

    model: str
    version: str
    generation: int | None
    scenes: list[JobScene]
    output: str
    storage: str
    tta: bool | None
    device: str
    outputs: list[str]
    predictor: dict[str, Any]
    fit: dict[str, Any]
    polygons: dict[str, Any]
    new_only: bool = False
    change: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MapJob:
        """The inverse of ``dataclasses.asdict``."""
        return cls(**{**values, "scenes": [JobScene(**scene) for scene in values["scenes"]]})

    def fingerprint(self, images: Sequence[Any]) -> str:
        """A hash of what decides the map of a scene: its files with what they refer to, and the model."""
        how = [sorted(self.outputs), self.polygons, self.fit, self.predictor["tile"], self.predictor["overlap"]]
        parts = json.dumps([self.model, self.version, self.tta, fingerprint(images), how])
        return hashlib.sha256(parts.encode()).hexdigest()

    def item(self, name: str) -> dict[str, Any] | None:
        """The STAC item of a scene's map, if it has been made."""
        try:
            found: dict[str, Any] = json.loads(open_storage(self.output).read_bytes(f"{name}/{ITEM}"))
        except (FileNotFoundError, ValueError):
            return None
        return found


@dataclass(frozen=True)
class JobResult:
    """Result of a job.

    Attributes:
        job: job that was run.
        items: the STAC items by scene, of what was made now or before.
        reused: scenes that were there already.
        failures: errors by scene.
        transient: the failed scenes that another try may map.
    """

    job: MapJob
    items: dict[str, dict[str, Any]]
    reused: list[str]
    failures: dict[str, str]
    transient: list[str] = field(default_factory=list)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each scene: what became of it, and the share of each class."""
        rows: list[dict[str, Any]] = []
        for name in [scene.name for scene in self.job.scenes]:
            if name in self.failures:
                rows.append({"scene": name, "state": "failed", "why": self.failures[name]})
                continue
            areas = self.items[name]["properties"]["ununennium:areas"]
            total = sum(area["pixels"] for area in areas.values()) or 1
            shares = {each: f"{area['pixels'] / total:.1%}" for each, area in areas.items()}
            rows.append({"scene": name, "state": "was there" if name in self.reused else "made", "why": "", **shares})
        return rows


class ScenesFailed(UnunenniumError):
    """Scenes failed that another try may map.

    Args:
        mapped: results of all scenes, failed ones included.
    """

    def __init__(self, mapped: JobResult) -> None:
        super().__init__(mapped)
        self.mapped = mapped

    def __str__(self) -> str:
        name, why = next(iter(self.mapped.failures.items()))
        return f"{len(self.mapped.failures)} scene(s) failed, such as {name}: {why}"


def join_results(job: MapJob, parts: Sequence[JobResult]) -> JobResult:
    """Result of a job whose scenes were mapped in parts."""
    return JobResult(
        job,
        {name: item for part in parts for name, item in part.items.items()},
        sorted({name for part in parts for name in part.reused}),
        {name: why for part in parts for name, why in part.failures.items()},
        sorted({name for part in parts for name in part.transient}),
    )


def split_known(job: MapJob) -> tuple[dict[str, dict[str, Any]], list[JobScene]]:
    """The items of scenes that are mapped already, and the scenes that are not."""
    known = {scene.name: item for scene in job.scenes if (item := _made_before(job, scene)) is not None}
    return known, [scene for scene in job.scenes if scene.name not in known]


def make_job(config: MapsConfig, version: str | None = None) -> MapJob:
    """Find the model and the scenes.

    Args:
        config: configuration of the maps.
        version: of the model; its champion if not given.

    Raises:
        ConfigError: the model has no champion, no image matches, two scenes have one name, or what is made would be
            written over an image, or over a file of the model or the catalogue.
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
    check_outputs(config.outputs, registry.contract(version).task)
    scenes, output = _wanted(config), resolve_storage(config.output)
    _check_overwriting(config, scenes, output, registry.url)
    is_champion = champion is not None and champion.version == version
    return MapJob(
        model=config.model,
        version=version,
        generation=champion.generation if champion is not None and is_champion else None,
        scenes=scenes,
        output=output,
        storage=storage,
        tta=config.tta,
        device=config.device,
        outputs=list(config.outputs),
        predictor=config.predictor.model_dump(mode="json"),
        fit=config.fit.model_dump(mode="json"),
        polygons=config.polygons.model_dump(mode="json"),
        new_only=config.new_only,
        change=config.change,
    )


def _wanted(config: MapsConfig) -> list[JobScene]:
    """The scenes by name: those that are listed, that match a pattern, and that the catalogue has."""
    given = [(scene.name, scene.image, scene.date) for scene in config.scenes]
    given += [(None, image, None) for image in _matches(config.images)]
    if config.catalog is not None:
        from ununennium.data.scenes.sources import scenes_without_labels

        found = scenes_without_labels(config.catalog, recent_days=config.recent_days)
        given += [(scene.name, scene.image, scene.date) for scene in found]
    scenes: dict[str, JobScene] = {}
    for given_name, image, date in given:
        images = [image] if isinstance(image, str | dict) else list(image)
        name = (given_name or PurePosixPath(files_of(images)[0]).stem).replace("/", "_")
        if name in scenes:
            raise ConfigError("scenes", name, "is the name of two scenes; give one of them another name")
        scenes[name] = JobScene(name, [_absolute(image) for image in images], date)
    return [scenes[name] for name in sorted(scenes)]


def _check_overwriting(config: MapsConfig, scenes: Sequence[JobScene], output: str, model: str) -> None:
    """Refuse a job that would write over what it reads; files of earlier maps that it removes are among them."""
    from ununennium.data.scenes.overwriting import refuse_overwriting
    from ununennium.inference.stac_item import ASSETS  # with GDAL

    names = {kind: about.file for kind, about in ASSETS.items()} | {"item": ITEM}
    outputs = {
        f"{kind} of {scene.name}": f"{output}/{scene.name}/{file}" for scene in scenes for kind, file in names.items()
    }
    read = [file for scene in scenes for file in files_of(scene.images)]
    catalogue = [] if config.catalog is None else [config.catalog.table, config.catalog.stac]
    refuse_overwriting(outputs, [*read, model, *(location for location in catalogue if location is not None)])


def run_job(job: MapJob, *, timeout_s: float | None = None, on_line: OnLine = print) -> JobResult:
    """Make the maps that are not there yet, in a process of its own; a scene that fails does not stop the others.

    Args:
        job: job to run.
        timeout_s: seconds after which the process is ended.
        on_line: told what is being done, from a thread.

    Raises:
        StorageError: the output cannot be written.
        ProcessLost: the process was killed; what it had made is there, and a new call goes on.
        TrainingError: it failed before it came to the scenes.
    """
    check_writable(open_storage(job.output))
    known, missing = split_known(job)
    if known:
        on_line(f"{len(known)} of {len(job.scenes)} scene(s) are mapped already")
    failures: dict[str, dict[str, Any]] = {}
    if missing:
        work = work_root() / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-map-{job.model}-{secrets.token_hex(2)}"
        try:
            failures = _in_process(job, missing, work, timeout_s, on_line)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    made = [scene.name for scene in missing if scene.name not in failures]
    items = {name: item for name in made if (item := job.item(name)) is not None}
    return JobResult(
        job,
        {**known, **items},
        sorted(known),
        {name: str(answer["error"]) for name, answer in failures.items()},
        sorted(name for name, answer in failures.items() if answer.get("transient")),
    )


def _in_process(
    job: MapJob, scenes: list[JobScene], work: Path, timeout_s: float | None, on_line: OnLine
) -> dict[str, dict[str, Any]]:
    """Map ``scenes``; returns what went wrong, by scene."""
    write_json(work / "job.json", asdict(replace(job, scenes=scenes)))
    names, late = [scene.name for scene in scenes], None
    try:
        run_worker(
            Worker.MAP,
            [work / "job.json"],
            what="mapping process",
            error_file=work / "error.json",
            timeout_s=timeout_s,
            grace_s=_GRACE_S,
            on_line=on_line,
        )
    except ProcessTimedOut:  # the user's own limit: what was made by then stays
        late = {"error": f"not begun, or not done: timeout_s = {timeout_s:g} passed", "transient": False}
    answers: dict[str, dict[str, Any]] = {
        name: read_json(file) for name in names if (file := work / f"{name}.json").exists()
    }
    failures = {name: answer for name, answer in answers.items() if answer["error"] is not None}
    if late is not None:
        failures |= {name: late for name in names if name not in answers}
    return failures


def _made_before(job: MapJob, scene: JobScene) -> dict[str, Any] | None:
    """The item of a scene, if it is what would be made now; a file that is gone is the mapping's to tell of."""
    item = job.item(scene.name)
    if item is None or job.new_only:
        return item
    try:
        if item["properties"]["ununennium:fingerprint"] == job.fingerprint(scene.images):
            return item
    except (DataError, KeyError):
        pass
    return None


def fingerprint(images: Sequence[Any]) -> list[Any]:
    """Images with the state of all files that they depend on, JSON-ready: it changes when one of them does.

    Raises:
        DataError: a file is not there.
    """
    from ununennium.data.scenes.fingerprints import Fingerprints  # with GDAL, which a plan does not need

    fingerprints = Fingerprints(cache_folder() / "contents.json")
    files = fingerprints.of_files(files_of(images))
    with suppress(OSError):
        fingerprints.save()
    return [list(images), files]


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


def _absolute(image: Any) -> Any:
    """An image with absolute paths; of a mapping, each band's."""
    if isinstance(image, Mapping):
        return {
            band: _absolute(file) if isinstance(file, str) else [_absolute(file[0]), *file[1:]]
            for band, file in image.items()
        }
    return image if "://" in image or image.startswith(("/vsi", "<")) else str(Path(image).expanduser().resolve())
