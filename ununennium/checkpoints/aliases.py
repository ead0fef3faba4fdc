"""Named aliases of a model's versions: numbered notes, of which the newest that can be read counts.

Each note is a record of ``ununennium.storage.record_log``.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from ununennium.checkpoints.contract import to_json
from ununennium.checkpoints.json_records import parse_json_object, shortened, text
from ununennium.checkpoints.promotion import NAME
from ununennium.errors import CheckpointError, PromotionConflict, StorageError
from ununennium.storage.base import Storage
from ununennium.storage.patience import patiently
from ununennium.storage.record_log import is_record, number_of, record_key

logger = logging.getLogger(__name__)

_FORMAT = 1
_CREATE_ATTEMPTS = 5


def read_aliases(storage: Storage, folder: str) -> dict[str, str]:
    """The aliases below ``folder``, and the versions that they stand for now.

    A note that cannot be read is warned of and left out: the alias is then what the note before says.
    """
    newest: dict[str, str] = {}
    for key in patiently(lambda: storage.list(folder)):  # the newest of each comes first
        name = key[len(folder) :].partition("/")[0]
        if name not in newest and is_record(key) and (version := _noted(storage, key)) is not None:
            newest[name] = version
    return newest


def write_alias(storage: Storage, folder: str, version: str, *, actor: str) -> None:
    """Note in ``folder``, which is that of one alias, that it stands for ``version`` from now on.

    Raises:
        PromotionConflict: somebody else set it at the same moment.
        StorageError: the storage failed.
    """
    keys = filter(is_record, patiently(lambda: storage.list(folder)))
    newest = next((key for key in keys if _noted(storage, key) is not None), None)
    first = 1 if newest is None else number_of(newest) + 1
    created = datetime.now(UTC).isoformat(timespec="milliseconds")
    note = to_json({"format": _FORMAT, "version": version, "actor": actor, "created": created})
    for number in range(first, first + _CREATE_ATTEMPTS):
        key = record_key(folder, number)
        try:
            storage.create(key, note)
            return
        except FileExistsError:
            if _noted(storage, key) is None:
                continue  # what nobody can read, at the place of the next note
            if storage.read_bytes(key) == note:  # the answer was lost, and it is ours
                return
            raise PromotionConflict(f"somebody else set {storage.url(folder[:-1])} just now; look again") from None
    raise StorageError(f"{storage.url(folder[:-1])} holds notes that cannot be read; remove them")


def _noted(storage: Storage, key: str) -> str | None:
    """The version that a note names; None, with a warning, if it cannot be read."""
    url = storage.url(key)
    try:
        note = parse_json_object(patiently(lambda: storage.read_bytes(key)), f"{url} is no note of an alias")
        version = text(note.get("version"), f"{url}: version")
        if NAME.fullmatch(version):
            return version
        raise CheckpointError(f"{url} names no version: {shortened(version)}")
    except FileNotFoundError:
        return None
    except CheckpointError as error:
        logger.warning("left out: %s", error)
        return None
