"""Log of promotions: one record a generation, created exclusively, the newest first in a listing."""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial

from ununennium.checkpoints.promotion import Promotion
from ununennium.errors import CheckpointError, ConfigError, PromotionConflict, StorageError
from ununennium.storage.base import Storage
from ununennium.storage.patience import patiently
from ununennium.storage.record_log import is_record, number_of, record_key

logger = logging.getLogger(__name__)

_CREATE_ATTEMPTS = 5
_LOOK_AHEAD = 6
"""Records after the next one that must not be there: a log with a gap is no place for a new champion."""


class PromotionLog:
    """The promotions of one model.

    Args:
        storage: root of the storage.
        model: name of the model.
    """

    def __init__(self, storage: Storage, model: str) -> None:
        self._storage = storage
        self.model = model
        self._records_folder = f"models/{model}/promotions/"

    def current(self) -> Promotion | None:
        """The champion; None before the first promotion.

        Raises:
            CheckpointError: there are records, and not one of them can be read.
        """
        key = patiently(lambda: self._storage.first(self._records_folder))
        record = self._readable(key) if key is not None and is_record(key) else None
        if record is not None or key is None:
            return record
        return next(iter(self.history()), None)

    def history(self) -> list[Promotion]:
        """Every generation, newest first; a record that cannot be read is warned of and left out.

        Raises:
            CheckpointError: there are records, and not one of them can be read: whoever is champion is unknown.
        """
        keys = list(filter(is_record, patiently(lambda: self._storage.list(self._records_folder))))
        records = [record for key in keys if (record := self._readable(key)) is not None]
        if keys and not records:
            raise CheckpointError(
                f"not one of the {len(keys)} records in {self._storage.url(self._records_folder[:-1])} can be read; "
                "restore them from a backup, or remove them to begin without a champion"
            )
        return records

    def append(self, record: Promotion, base: int, *, exclusive: bool) -> Promotion:
        """Create ``record`` as the generation after ``base``, or find that an earlier attempt with its token did.

        Args:
            record: of generation ``base + 1``.
            base: generation that was compared with.
            exclusive: the storage creates exclusively; if not, one process alone writes here.

        Raises:
            PromotionConflict: another champion was promoted in the meantime.
            ConfigError: there is no such generation.
            StorageError: the storage failed.
        """
        self._check_newest(record, base)
        failure: Exception | None = None
        for _ in range(_CREATE_ATTEMPTS):
            key = self._record_key(record.generation)
            try:
                if not exclusive and self._storage.exists(key):
                    raise FileExistsError(key)
                patiently(partial(self._storage.create, key, record.to_json()))
                return record
            except (FileExistsError, StorageError) as error:
                failure = error
            try:
                existing = patiently(partial(self._read, key))
            except FileNotFoundError:
                continue  # refused though nothing is there: two writers met, and the server told both to try again
            except CheckpointError as error:
                logger.warning("%s is left out: %s", key, error)
                record = replace(record, generation=record.generation + 1)
                continue
            return self._same_or_conflict(existing, record)
        raise StorageError(f"{self._storage.url(key)} could not be created: {failure}") from failure

    def _check_newest(self, record: Promotion, base: int) -> None:
        """Refuse to fill a gap in the log, or to begin beyond its end."""
        if base == 0:
            is_there = not self._storage.exists(self._record_key(1))
        else:
            is_there = base > 0 and self._readable(self._record_key(base)) is not None
        ahead = range(base + 2, base + 2 + _LOOK_AHEAD)
        if is_there and not any(self._storage.exists(self._record_key(generation)) for generation in ahead):
            return  # the log itself, which may be long, is not read
        records = self.history()
        newest = max((each.generation for each in records), default=0)
        if not 0 <= base <= newest:
            raise ConfigError("expected_generation", base, f"there are {newest} generations so far")
        later = [each for each in records if each.generation > base]
        if later and all((each.token, each.version) != (record.token, record.version) for each in later):
            self._same_or_conflict(min(later, key=lambda each: each.generation), record)

    def _same_or_conflict(self, existing: Promotion, record: Promotion) -> Promotion:
        if (existing.token, existing.version) == (record.token, record.version):
            return existing
        raise PromotionConflict(
            f"generation {existing.generation} of {self.model!r} is version {existing.version}, made champion by "
            f"{existing.actor} at {existing.created}; compare with it before promoting {record.version}"
        )

    def _readable(self, key: str) -> Promotion | None:
        try:
            return patiently(lambda: self._read(key))
        except FileNotFoundError:
            return None
        except CheckpointError as error:
            logger.warning("left out: %s", error)
            return None

    def _read(self, key: str) -> Promotion:
        url = self._storage.url(key)
        record = Promotion.from_json(self._storage.read_bytes(key), url=url)
        if record.generation != number_of(key):
            raise CheckpointError(f"{url} holds the record of generation {record.generation}, not {number_of(key)}")
        return record

    def _record_key(self, generation: int) -> str:
        return record_key(self._records_folder, generation)
