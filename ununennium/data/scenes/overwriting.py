"""Files that must stay as they are: nothing is written over what it is made from.

``refuse_overwriting`` decides it for maps, what is made beside them, pictures, items, predictions, splits, reports and
exports. Local files are compared by device and inode, so that links, hard links, ``..`` and file systems without case
make no difference; files on stores by bucket and key, whichever URL names them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import unquote, urlsplit

from ununennium.config import DataConfig
from ununennium.data.scenes.images import files_of
from ununennium.data.scenes.locations import local_file, remote_url
from ununennium.data.scenes.references import BESIDE_RASTERS, companions, listed, others_beside, sources_in
from ununennium.data.scenes.sources import scenes_of
from ununennium.data.scenes.stores import Stores
from ununennium.data.scenes.virtual_sources import sources_of
from ununennium.errors import ConfigError, DataError

_Inode = tuple[int, int]

_S3_HOST = re.compile(r"^((?P<bucket>.+)\.)?s3([.-][a-z0-9-]+)*\.amazonaws\.com(\.cn)?$")
_STORES = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "abfss": "abfs", "adl": "abfs"}


def refuse_overwriting(
    outputs: Mapping[str, str | os.PathLike[str]], inputs: Iterable[str | os.PathLike[str]], field: str = "output"
) -> None:
    """Refuse outputs that are inputs, or that would be read along with one, or two outputs in one file.

    Args:
        outputs: paths or URLs of files about to be written, by what they are, such as ``map``.
        inputs: whatever is read: paths, URLs, names that GDAL knows, texts of virtual rasters; of a folder, all that
            lies in it.
        field: names the setting or option in the message.

    Raises:
        ConfigError: names the output, and the input.
    """
    named = [(what, os.fspath(output)) for what, output in outputs.items()]
    _refuse_twice(named, field)
    local = [(what, output, file) for what, output in named if (file := _local(output)) is not None]
    remote = [(what, output, url) for what, output in named if (url := _object(output)) is not None]
    for what, output, file in local:
        _refuse_no_file(what, output, file, field)
    local = [(what, output, file) for what, output, file in local if os.path.lexists(file) or file.parent.is_dir()]
    if not local and not remote:
        return
    read = list(_with_sources([os.fspath(each) for each in inputs], follow_remote=bool(remote)))
    _refuse_local(local, read, field)
    _refuse_remote(remote, read, field)


def files_of_data(config: DataConfig) -> list[str]:
    """Files of a data section: images, labels and areas of its scenes, a local catalogue's too, and the split."""
    scenes = list(config.scenes)
    named = [config.split.file]
    if config.catalog is not None:
        location = config.catalog.folder or config.catalog.table or config.catalog.stac
        named += [config.catalog.table, config.catalog.stac]
        if location is not None and local_file(location) is not None:
            scenes = scenes_of(config)
    for scene in scenes:
        given = scene.image if isinstance(scene.image, list) else [scene.image]
        named += [*files_of(given), scene.label, getattr(scene, "labelled_area", None)]
    return [each for each in named if isinstance(each, str)]


def local_output(output: str | os.PathLike[str]) -> Path:
    """The path of a file that is written on this machine.

    Raises:
        ConfigError: it is the URL of another place, or names no file.
    """
    name = os.fspath(output)
    known = re.match(r"^([a-z][a-z0-9+.]+):/", name)
    if known is not None and known[1] != "file":
        raise ConfigError("output", name, "is a URL; give a path on this machine")
    path = Path(name if known is None else unquote(urlsplit(name).path))
    if not path.name:
        raise ConfigError("output", name, "names no file; give the path of the file to write")
    return path


def _refuse_no_file(what: str, output: str, file: Path, field: str) -> None:
    """Refuse a place where no file can be: a folder, a device or pipe, which a file would replace, or below a file."""
    if not file.name or file.is_dir():
        raise ConfigError(field, output, f"is a folder; give the {what} the name of a file")
    if file.exists() and not file.is_file():
        raise ConfigError(field, output, f"is a device or pipe, which the {what} would replace; give a file's name")
    above = next((folder for folder in file.parents if os.path.lexists(folder)), None)
    if above is not None and not above.is_dir():
        raise ConfigError(field, output, f"lies below {above}, which is no folder; give the {what} another place")


def _refuse_twice(outputs: list[tuple[str, str]], field: str) -> None:
    seen: dict[str, str] = {}
    for what, output in outputs:
        file = _local(output)
        location = _object(output) or os.path.realpath(file or output)
        if location in seen:
            raise ConfigError(field, output, f"is to be the {seen[location]} and the {what} at once; give another name")
        seen[location] = what


def _refuse_local(outputs: list[tuple[str, str, Path]], read: list[str], field: str) -> None:
    files: dict[_Inode, str] = {}
    folders: list[tuple[Path, str]] = []
    beside: dict[_Inode, list[tuple[Path, str]]] = {}
    for name in read:
        file = local_file(name)
        if file is None:
            continue
        if file.is_dir():
            folders.append((file.resolve(), name))
            continue
        files.setdefault(_inode(file), name)
        for folder in {file.parent, file.resolve().parent}:
            beside.setdefault(_inode(folder), []).append((file, name))
    for what, output, file in outputs:
        if file.exists() and (known := files.get(_inode(file))) is not None:
            _refuse(field, what, output, f"is the input {_shown(known, file)}")
        for folder, name in folders:
            if file.resolve().is_relative_to(folder):
                _refuse(field, what, output, f"lies in {name}, which is read")
        for neighbour, name in beside.get(_inode(file.parent), []) if file.parent.is_dir() else []:
            if _is_read_with(file, neighbour):
                _refuse(field, what, output, f"is, or would be, read along with the input {_shown(name, neighbour)}")


def _refuse_remote(outputs: list[tuple[str, str, str]], read: list[str], field: str) -> None:
    objects = {found: name for name in read if (found := _object(name)) is not None} if outputs else {}
    for what, output, url in outputs:
        if (name := objects.get(url)) is not None:
            _refuse(field, what, output, f"is the input {name}")
        for ending in BESIDE_RASTERS:
            if url.endswith(ending) and (name := objects.get(url.removesuffix(ending))) is not None:
                _refuse(field, what, output, f"is, or would be, read along with the input {name}")


def _refuse(field: str, what: str, output: str, why: str) -> NoReturn:
    remedy = f"the {what} {why}; nothing is written over what it is made from: give it another place"
    raise ConfigError(field, output, remedy)


def _with_sources(names: list[str], *, follow_remote: bool) -> Iterable[str]:
    """Files that are read, and those that virtual rasters and tile indexes among them name, down to the last."""
    stores, seen = Stores(), set[str]()
    waiting = list(dict.fromkeys(names))
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name.startswith("<"):
            waiting += sources_of(name)
            continue
        yield name
        if (file := local_file(name)) is not None:
            waiting += sources_in(file)
        elif follow_remote and (remote_url(name) or "").lower().endswith(".vrt"):
            with suppress(DataError):  # whoever reads it says so
                waiting += stores.references(name)[0]


def _is_read_with(file: Path, source: Path) -> bool:
    """Tell whether a file is a sidecar of another in its folder, or would become one.

    Sidecars are masks, overviews, statistics, world files and metadata.
    """
    name, its = file.name.casefold(), source.name.casefold()
    stem, _, ending = its.rpartition(".")
    world = {f"{stem}.{ending}w", f"{stem}.wld", f"{stem}.{ending[:1]}{ending[-1:]}w"}
    if name in {f"{its}{end}" for end in BESIDE_RASTERS} | world:
        return True
    if not file.exists() or not source.is_file():
        return False
    _, others = listed(source)
    known = [Path(other) for other in others] + [*companions(source), *others_beside(source)]
    return any(other.exists() and _inode(other) == _inode(file) for other in known)


def _inode(file: Path) -> _Inode:
    state = file.stat()
    return state.st_dev, state.st_ino


def _local(name: str) -> Path | None:
    """The local path of an output; None of a URL."""
    if name.startswith("file:"):
        return Path(unquote(urlsplit(name).path))
    return None if "://" in name or remote_url(name) is not None else Path(name).expanduser()


def _object(name: str) -> str | None:
    """One URL for each object of a store, whichever way it is named; None of what is local."""
    url = None if name.startswith("<") else remote_url(name) or (name if "://" in name else None)
    if url is None or url.startswith("file:") or local_file(name) is not None:
        return None
    parts = urlsplit(url)
    scheme, host, path = _STORES.get(parts.scheme, parts.scheme), parts.netloc, os.path.normpath(f"/{parts.path}")
    path = f"/{path.lstrip('/')}"
    if scheme in ("http", "https"):
        path = unquote(path)
        if found := _S3_HOST.match(host):
            scheme, bucket = "s3", found["bucket"]
        elif host in _endpoints():
            scheme, bucket = "s3", None
        elif host == "storage.googleapis.com":
            scheme, bucket = "gs", None
        else:
            return f"https://{host.lower()}{path}"
        return f"{scheme}://{bucket}{path}" if bucket else f"{scheme}:/{path}"
    return f"{scheme}://{host.rpartition('@')[0] or host}{path}"


def _endpoints() -> set[str]:
    """Hosts of S3 servers that are not Amazon's."""
    given = (os.environ.get(name, "") for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"))
    return {urlsplit(each if "://" in each else f"//{each}").netloc for each in given if each}


def _shown(name: str, file: Path) -> str:
    return name if name == str(file) else f"{name} ({file})"
