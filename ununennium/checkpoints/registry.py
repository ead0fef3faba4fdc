"""Immutable model versions, and the log of who was champion when.

Each generation is one record, created exclusively and never changed, named so that the newest comes first in a
listing::

    models/<model>/versions/<version>/model.safetensors, contract.json; README.md and stac.json describe it
    models/<model>/promotions/<10**10 - generation>.json
    models/<model>/aliases/<alias>/<10**10 - number>.json

Promotion is a compare-and-set: whoever wants to make generation ``g + 1`` says that ``g`` is what was compared with,
and of several only one succeeds. It needs nothing of the storage but "create if absent".
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ununennium.checkpoints.contract import CONTRACT, WEIGHTS, parse_contract, read_local_contract, to_json
from ununennium.checkpoints.storage import Storage, check_exclusive, open_storage
from ununennium.errors import CheckpointError, ConfigError, GateError, PromotionConflict, StorageError

PROMOTED = "promoted"
_FORMAT = 1
_LAST = 10**10
_CREATE_ATTEMPTS = 5
CHAMPION, PREVIOUS = "champion", "previous"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Promotion:
    """One generation of the champion.

    Attributes:
        generation: counted from 1.
        version: what became the champion.
        action: ``promote`` a new version, or ``rollback`` to an older generation's.
        restored_from: the generation whose version a rollback restored; None for a promotion.
        gate: the decision that allowed it; empty for a rollback.
        evaluated_against: generation of the champion that the gate compared with, 0 if there was none; None for a
            rollback, which compares nothing.
        checkpoint: ``manifest`` (URL) and ``sha256`` of the checkpoint that the version was made of; empty if unknown.
        reason: why, in words.
        actor: who asked for it.
        run_id: run that trained the version, or asked for the rollback.
        flow_run_id: Prefect's flow run that asked for it; empty if none did.
        token: by which a caller that got no answer recognises its own record.
        created: when, UTC, ISO 8601.
    """

    generation: int
    version: str
    action: Literal["promote", "rollback"]
    actor: str
    run_id: str
    token: str
    created: str
    reason: str = ""
    restored_from: int | None = None
    gate: dict[str, Any] = field(default_factory=dict)
    evaluated_against: int | None = None
    checkpoint: dict[str, str] = field(default_factory=dict)
    flow_run_id: str = ""

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return to_json({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes, *, url: str) -> Promotion:
        """The inverse of ``to_json``.

        Raises:
            CheckpointError: the record is damaged, or of a later format.
        """
        try:
            values = json.loads(data)
            if values.pop("format") != _FORMAT:
                raise ValueError(f"this version reads format {_FORMAT}")
            known = {item.name for item in fields(cls)}
            return cls(**{name: value for name, value in values.items() if name in known})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{url} is not a promotion record: {type(error).__name__}: {error}") from error


class Registry:
    """The versions and the champion of one model.

    Args:
        storage_url: the folder or fsspec URL that holds all models.
        model: name of the model.
        unsafe_single_writer: use storage that cannot create exclusively, with a warning, because never more than one
            process promotes; None takes it from ``UNUNENNIUM_UNSAFE_SINGLE_WRITER``.

    Raises:
        ConfigError: the name cannot be part of a URL, or fsspec does not know the URL's scheme.
    """

    def __init__(self, storage_url: str, model: str, *, unsafe_single_writer: bool | None = None) -> None:
        if not _NAME.fullmatch(model):
            raise ConfigError("model", model, "give a name of letters, digits, '-', '_' and '.'")
        self.model = model
        self._storage: Storage = open_storage(storage_url)
        self._unsafe_single_writer = unsafe_single_writer
        self._exclusive: bool | None = None

    # ------------------------------------------------------------------ versions

    def add_version(self, folder: Path) -> str:
        """Store the artefact that ``write_artifact`` left in a local folder.

        Returns:
            The version: a hash of weights and contract, so that adding the same again changes nothing.

        Raises:
            CheckpointError: the artefact is incomplete or damaged.
            StorageError: the storage failed.
        """
        contract, contract_bytes = read_local_contract(folder)
        version = hashlib.sha256(contract_bytes).hexdigest()[:16]  # the contract holds the hash of the weights
        weights_key, contract_key = self._version_key(version, WEIGHTS), self._version_key(version, CONTRACT)
        if self._storage.exists(contract_key):
            return version
        self._storage.put_file(folder / WEIGHTS, weights_key)
        digest = hashlib.sha256()
        for chunk in self._storage.chunks(weights_key):
            digest.update(chunk)
        if digest.hexdigest() != contract["weights_sha256"]:
            raise StorageError(f"{self._storage.url(weights_key)} was not stored whole; try again")
        try:
            self._storage.create(contract_key, contract_bytes)  # from here on the version exists
        except FileExistsError:
            if self._storage.read_bytes(contract_key) != contract_bytes:
                raise StorageError(f"{self._storage.url(contract_key)} exists with other contents") from None
        return version

    def describe(self, version: str, files: Iterable[Path]) -> None:
        """Put files that describe a version beside it, instead of those of that name; they are no part of it.

        Raises:
            CheckpointError: one has the name of what the version consists of.
            StorageError: the storage failed.
        """
        for file in files:
            if file.name in (WEIGHTS, CONTRACT):
                raise CheckpointError(f"{file.name} is a part of the version {version!r}, and describes nothing")
            self._storage.put_file(file, self._version_key(version, file.name))

    def versions(self) -> list[str]:
        """All complete versions, in no particular order."""
        prefix, suffix = f"models/{self.model}/versions/", f"/{CONTRACT}"
        keys = self._storage.list(prefix)
        return [key[len(prefix) : -len(suffix)] for key in keys if key.endswith(suffix)]

    @property
    def url(self) -> str:
        """Folder of all that the registry has of the model."""
        return self._storage.url(f"models/{self.model}")

    def version_url(self, version: str) -> str:
        """Folder of a version, for ``load_artifact``."""
        return self._storage.url(f"models/{self.model}/versions/{version}")

    def contract(self, version: str) -> dict[str, Any]:
        """The contract of a version.

        Raises:
            CheckpointError: there is no such version, or its contract is damaged.
        """
        key = self._version_key(version, CONTRACT)
        try:
            return parse_contract(self._storage.read_bytes(key), url=self._storage.url(key))
        except FileNotFoundError as error:
            known = ", ".join(self.versions()) or "none yet"
            raise CheckpointError(f"model {self.model!r} has no version {version!r}; it has {known}") from error

    # ------------------------------------------------------------------ champions

    def current(self) -> Promotion | None:
        """The champion; None before the first promotion."""
        key = self._newest_key()
        return self._read(key) if key else None

    def history(self) -> list[Promotion]:
        """Every generation, newest first."""
        return [self._read(key) for key in self._record_keys()]

    def promote(
        self,
        version: str,
        *,
        expected_generation: int,
        gate: Mapping[str, Any],
        actor: str,
        run_id: str,
        token: str | None = None,
        checkpoint: Mapping[str, str] | None = None,
        flow_run_id: str = "",
    ) -> Promotion:
        """Make ``version`` the champion, if the champion is still the one it was compared with.

        Args:
            version: what ``add_version`` returned.
            expected_generation: generation of the champion that the gate compared with; 0 if there was none.
            gate: the decision (``gate.json``), kept in the record.
            actor: who asks for it.
            run_id: run that trained the version.
            token: calling again with the same token, version and generation, after an answer was lost, finds the
                record of the first call instead of a conflict.
            checkpoint: ``manifest`` (URL) and ``sha256`` of the checkpoint that the version was made of.
            flow_run_id: Prefect's flow run that asks for it, if one does.

        Raises:
            GateError: the gate's verdict is not ``promoted``.
            PromotionConflict: another champion was promoted in the meantime.
            CheckpointError: there is no such version.
            StorageError: the storage failed, or ignores exclusive creation.
        """
        verdict = gate.get("verdict")
        if verdict != PROMOTED:
            reason = gate.get("reason") or "no reason is given"
            raise GateError(f"version {version} cannot be promoted: the gate's verdict is {verdict!r} ({reason})")
        record = Promotion(
            generation=expected_generation + 1,
            version=version,
            action="promote",
            actor=actor,
            run_id=run_id,
            token=token or uuid.uuid4().hex,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            reason=str(gate.get("reason", "")),
            gate=dict(gate),
            evaluated_against=expected_generation,
            checkpoint=dict(checkpoint or {}),
            flow_run_id=flow_run_id,
        )
        return self._append(record)

    def rollback(
        self,
        *,
        actor: str,
        to_generation: int | None = None,
        expected_generation: int | None = None,
        reason: str = "",
        run_id: str = "",
        token: str | None = None,
        flow_run_id: str = "",
    ) -> Promotion:
        """Make an older generation's version the champion again, as a new generation; nothing is rewritten.

        Args:
            actor: who asks for it.
            to_generation: the generation to restore; if not given, the one before the present champion's own.
            expected_generation: the generation to roll back from; if not given, whichever is current.
            reason: why, in words.
            run_id: run that asks for it, if one does.
            token: see ``promote``.
            flow_run_id: see ``promote``.

        Raises:
            ConfigError: there is no such generation, or none before the present one.
            PromotionConflict: another champion was promoted in the meantime.
            StorageError: the storage failed, or ignores exclusive creation.
        """
        records = {record.generation: record for record in self.history()}
        newest = max(records, default=0)
        base = newest if expected_generation is None else expected_generation
        if to_generation is None:
            to_generation = _origin(records, base) - 1
        if to_generation not in records or to_generation > base:
            known = ", ".join(str(generation) for generation in sorted(records) if generation <= base)
            raise ConfigError("to_generation", to_generation, f"is no earlier generation; there are: {known or 'none'}")
        restored = records[to_generation]
        record = Promotion(
            generation=base + 1,
            version=restored.version,
            action="rollback",
            actor=actor,
            run_id=run_id,
            token=token or uuid.uuid4().hex,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            reason=reason,
            restored_from=to_generation,
            checkpoint=restored.checkpoint,
            flow_run_id=flow_run_id,
        )
        return self._append(record)

    # ------------------------------------------------------------------ aliases

    def resolve(self, name: str) -> str:
        """The version that ``name`` stands for: ``champion``, ``previous``, a named alias, or a version itself.

        ``previous`` is what ``rollback`` would restore.

        Raises:
            ConfigError: it stands for nothing; the message names what there is.
        """
        records = {record.generation: record for record in self.history()}
        known = {record.version: record.version for record in records.values()}
        known |= {version: version for version in self.versions()} | self.aliases()
        if records:
            known[CHAMPION] = records[max(records)].version
            before = records.get(_origin(records, max(records)) - 1)
            if before is not None:
                known[PREVIOUS] = before.version
        if name not in known:
            raise ConfigError(
                "version", name, f"{self.model!r} has no such version or alias; it has {', '.join(known)}"
            )
        return known[name]

    def aliases(self) -> dict[str, str]:
        """Named aliases and the versions that they stand for now."""
        newest: dict[str, str] = {}
        prefix = f"models/{self.model}/aliases/"
        for key in self._storage.list(prefix):  # the newest of each comes first
            name = key[len(prefix) :].partition("/")[0]
            if name not in newest:
                newest[name] = str(json.loads(self._storage.read_bytes(key))["version"])
        return newest

    def set_alias(self, name: str, version: str, *, actor: str) -> None:
        """Let ``name`` stand for ``version`` from now on; what it stood for before stays on record.

        Raises:
            ConfigError: the name is ``champion`` or ``previous``, which follow from promotions, or cannot be part of
                a URL.
            CheckpointError: there is no such version.
            PromotionConflict: somebody else set it at the same moment.
            StorageError: the storage failed, or ignores exclusive creation.
        """
        if name in (CHAMPION, PREVIOUS) or not _NAME.fullmatch(name):
            raise ConfigError("alias", name, "give a name of letters, digits, '-', '_' and '.', such as 'staging'")
        self.contract(version)
        self.probe()
        folder = f"models/{self.model}/aliases/{name}/"
        newest = self._storage.first(folder)
        number = _generation(newest) + 1 if newest else 1
        created = datetime.now(UTC).isoformat(timespec="milliseconds")
        note = to_json({"format": _FORMAT, "version": version, "actor": actor, "created": created})
        key = f"{folder}{_LAST - number:010d}.json"
        try:
            self._storage.create(key, note)
        except FileExistsError:
            if self._storage.read_bytes(key) != note:  # else the answer was lost, and it is ours
                raise PromotionConflict(f"somebody else set {name!r} of {self.model!r} just now; look again") from None

    def probe(self) -> bool:
        """Make sure that of two promotions only one can win here; False if the caller vouched for that instead.

        Raises:
            StorageError: the storage ignores exclusive creation.
        """
        if self._exclusive is None:
            self._exclusive = check_exclusive(self._storage, unsafe_single_writer=self._unsafe_single_writer)
        return self._exclusive

    def _append(self, record: Promotion) -> Promotion:
        """Create ``record`` as the next generation, or find that an earlier attempt with its token did."""
        self.contract(record.version)
        exclusive = self.probe()
        base = record.generation - 1
        if base < 0 or (base > 0 and not self._storage.exists(self._record_key(base))):
            newest_key = self._newest_key()
            newest = _generation(newest_key) if newest_key else 0
            if not 0 <= base <= newest:
                raise ConfigError("expected_generation", base, f"there are {newest} generations so far")
        key = self._record_key(record.generation)
        failure: Exception | None = None
        for _ in range(_CREATE_ATTEMPTS):
            try:
                if not exclusive and self._storage.exists(key):
                    raise FileExistsError(key)
                self._storage.create(key, record.to_json())
                return record
            except (FileExistsError, StorageError) as error:
                failure = error
            try:
                existing = self._read(key)
            except FileNotFoundError:
                continue  # refused though nothing is there: two writers met, and the server told both to try again
            if (existing.token, existing.version) == (record.token, record.version):
                return existing
            raise PromotionConflict(
                f"generation {existing.generation} of {self.model!r} is version {existing.version}, made champion by "
                f"{existing.actor} at {existing.created}; compare with it before promoting {record.version}"
            )
        raise StorageError(f"{self._storage.url(key)} could not be created: {failure}") from failure

    def _record_keys(self) -> Iterator[str]:
        """Keys of the promotion records, newest first."""
        return filter(_is_record, self._storage.list(f"models/{self.model}/promotions/"))

    def _newest_key(self) -> str | None:
        key = self._storage.first(f"models/{self.model}/promotions/")
        return key if key is None or _is_record(key) else next(self._record_keys(), None)

    def _record_key(self, generation: int) -> str:
        return f"models/{self.model}/promotions/{_LAST - generation:010d}.json"

    def _version_key(self, version: str, name: str) -> str:
        return f"models/{self.model}/versions/{version}/{name}"

    def _read(self, key: str) -> Promotion:
        return Promotion.from_json(self._storage.read_bytes(key), url=self._storage.url(key))


def _is_record(key: str) -> bool:
    return re.fullmatch(r"\d{10}\.json", key.rpartition("/")[2]) is not None


def _generation(key: str) -> int:
    return _LAST - int(key.rpartition("/")[2].removesuffix(".json"))


def _origin(records: Mapping[int, Promotion], generation: int) -> int:
    """The generation that first promoted what ``generation`` holds: rolling back twice goes back two versions."""
    while (record := records.get(generation)) is not None and record.restored_from is not None:
        generation = record.restored_from
    return generation
