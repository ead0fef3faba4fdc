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

import logging
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ununennium.checkpoints.aliases import read_aliases, write_alias
from ununennium.checkpoints.contract import (
    CONTRACT,
    HEAL,
    WEIGHTS,
    ModelContract,
    check_version,
    check_weights,
    is_version,
    parse_contract,
    read_local_contract,
    version_of,
)
from ununennium.checkpoints.promotion import NAME, Promotion, generation_before, whole_generation
from ununennium.checkpoints.promotion_log import PromotionLog
from ununennium.checkpoints.read_back import read_back
from ununennium.errors import CheckpointError, ConfigError, GateError, StorageError
from ununennium.storage.base import Storage
from ununennium.storage.open import check_exclusive, open_storage
from ununennium.storage.patience import patiently

__all__ = ["Promotion", "Registry"]

logger = logging.getLogger(__name__)

PROMOTED = "promoted"

CHAMPION, PREVIOUS = "champion", "previous"


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
        if not NAME.fullmatch(model):
            raise ConfigError("model", model, "give a name of letters, digits, '-', '_' and '.'")
        self.model = model
        self._storage: Storage = open_storage(storage_url)
        self._log = PromotionLog(self._storage, model)
        self._unsafe_single_writer = unsafe_single_writer
        self._exclusive: bool | None = None

    # ------------------------------------------------------------------ versions

    def add_version(self, folder: Path) -> str:
        """Store the artefact that ``write_artifact`` left in a local folder.

        Returns:
            The version: a hash of weights and contract, so that adding the same again changes nothing, except that
            parts which are missing or damaged are stored again.

        Raises:
            CheckpointError: the artefact is incomplete or damaged.
            StorageError: the storage failed.
        """
        contract, contract_bytes = read_local_contract(folder)
        version = version_of(contract_bytes)
        weights_key, contract_key = self._version_key(version, WEIGHTS), self._version_key(version, CONTRACT)
        if read_back(self._storage, weights_key)[1] != contract.weights_sha256:
            self._storage.put_file(folder / WEIGHTS, weights_key)
            if read_back(self._storage, weights_key)[1] != contract.weights_sha256:
                raise StorageError(f"{self._storage.url(weights_key)} was not stored whole; try again")
        try:
            self._storage.create(contract_key, contract_bytes)  # from here on the version exists
        except FileExistsError:
            if self._storage.read_bytes(contract_key) != contract_bytes:  # it is damaged: its name is its hash
                self._storage.put_file(folder / CONTRACT, contract_key)
        self.check(version)
        return version

    def check(self, version: str) -> ModelContract:
        """Read all of a version, and make sure that it is what its name says; returns its contract.

        Raises:
            CheckpointError: there is no such version, a part of it is missing or damaged; the message says how to heal
                it.
            StorageError: the storage failed.
        """
        contract = self.contract(version)
        key = self._version_key(version, WEIGHTS)
        if not self._storage.exists(key):
            raise CheckpointError(f"{self._storage.url(key)} is missing; {HEAL}")
        check_weights(read_back(self._storage, key)[1], contract, url=self._storage.url(key))
        return contract

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
        keys = set(patiently(lambda: self._storage.list(prefix)))
        found = [key[len(prefix) : -len(suffix)] for key in sorted(keys) if key.endswith(suffix)]
        return [version for version in found if self._version_key(version, WEIGHTS) in keys]

    @property
    def url(self) -> str:
        """Folder of all that the registry has of the model."""
        return self._storage.url(f"models/{self.model}")

    def version_url(self, version: str) -> str:
        """Folder of a version, for ``load_artifact``."""
        return self._storage.url(f"models/{self.model}/versions/{version}")

    def contract(self, version: str) -> ModelContract:
        """The contract of a version.

        Raises:
            CheckpointError: there is no such version, or its contract is not the one that it is named after.
        """
        key = self._version_key(version, CONTRACT)
        try:
            if not is_version(version):
                raise FileNotFoundError(version)
            data = patiently(lambda: self._storage.read_bytes(key))
            check_version(data, version, url=self._storage.url(key))
            return parse_contract(data, url=self._storage.url(key))
        except FileNotFoundError as error:
            known = ", ".join(self.versions()) or "none yet"
            raise CheckpointError(f"model {self.model!r} has no version {version!r}; it has {known}") from error

    # ------------------------------------------------------------------ champions

    def current(self) -> Promotion | None:
        """The champion; None before the first promotion.

        Raises:
            CheckpointError: there are records, and not one of them can be read.
        """
        return self._log.current()

    def history(self) -> list[Promotion]:
        """Every generation, newest first; a record that cannot be read is warned of and left out.

        Raises:
            CheckpointError: there are records, and not one of them can be read: whoever is champion is unknown.
        """
        return self._log.history()

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
            version: version id that ``add_version`` returned.
            expected_generation: generation of the champion that the gate compared with; 0 if there was none.
            gate: the decision (``gate.json``), kept in the record.
            actor: person or program that asks for it.
            run_id: run that trained the version.
            token: calling again with the same token, version and generation, after an answer was lost, finds the
                record of the first call instead of a conflict.
            checkpoint: ``manifest`` (URL) and ``sha256`` of the checkpoint that the version was made of.
            flow_run_id: Prefect's flow run that asks for it, if one does.

        Raises:
            GateError: the gate's verdict is not ``promoted``.
            PromotionConflict: another champion was promoted in the meantime.
            CheckpointError: there is no such version, or it is not whole.
            StorageError: the storage failed, or ignores exclusive creation.
        """
        base = whole_generation("expected_generation", expected_generation)
        verdict = gate.get("verdict")
        if verdict != PROMOTED:
            reason = gate.get("reason") or "no reason is given"
            raise GateError(f"version {version} cannot be promoted: the gate's verdict is {verdict!r} ({reason})")
        record = Promotion(
            generation=base + 1,
            version=version,
            action="promote",
            actor=actor,
            run_id=run_id,
            token=token or uuid.uuid4().hex,
            created=datetime.now(UTC).isoformat(timespec="milliseconds"),
            reason=str(gate.get("reason", "")),
            gate=dict(gate),
            evaluated_against=base,
            checkpoint=dict(checkpoint or {}),
            flow_run_id=flow_run_id,
        )
        return self._append(record, base)

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
            actor: person or program that asks for it.
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
        base = newest if expected_generation is None else whole_generation("expected_generation", expected_generation)
        if to_generation is None:
            to_generation = generation_before(records, base)
        to_generation = whole_generation("to_generation", to_generation)
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
        return self._append(record, base)

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
            before = records.get(generation_before(records, max(records)))
            if before is not None:
                known[PREVIOUS] = before.version
        if name not in known:
            raise ConfigError(
                "version", name, f"{self.model!r} has no such version or alias; it has {', '.join(known)}"
            )
        return known[name]

    def aliases(self) -> dict[str, str]:
        """Named aliases and the versions that they stand for now.

        A note that cannot be read is warned of and left out: the alias is then what the note before says.
        """
        return read_aliases(self._storage, f"models/{self.model}/aliases/")

    def set_alias(self, name: str, version: str, *, actor: str) -> None:
        """Let ``name`` stand for ``version`` from now on; what it stood for before stays on record.

        Raises:
            ConfigError: the name is ``champion`` or ``previous``, which follow from promotions, or cannot be part of
                a URL.
            CheckpointError: there is no such version.
            PromotionConflict: somebody else set it at the same moment.
            StorageError: the storage failed, or ignores exclusive creation.
        """
        if name in (CHAMPION, PREVIOUS) or not NAME.fullmatch(name):
            raise ConfigError("alias", name, "give a name of letters, digits, '-', '_' and '.', such as 'staging'")
        self.contract(version)
        self.probe()
        write_alias(self._storage, f"models/{self.model}/aliases/{name}/", version, actor=actor)

    def probe(self) -> bool:
        """Make sure that of two promotions only one can win here; False if the caller vouched for that instead.

        Raises:
            StorageError: the storage ignores exclusive creation.
        """
        if self._exclusive is None:
            self._exclusive = check_exclusive(self._storage, unsafe_single_writer=self._unsafe_single_writer)
        return self._exclusive

    def _append(self, record: Promotion, base: int) -> Promotion:
        """Create ``record`` as the generation after ``base``, once its version has shown to be whole."""
        self.check(record.version)
        return self._log.append(record, base, exclusive=self.probe())

    def _version_key(self, version: str, name: str) -> str:
        return f"models/{self.model}/versions/{version}/{name}"
