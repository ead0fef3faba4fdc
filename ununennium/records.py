"""Base of the typed records that stages hand over as JSON files: fields by name, their defaults in one place."""

from __future__ import annotations

import json
import warnings
from collections.abc import ItemsView, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self

from ununennium.errors import ConfigError

_OWN = ("other", "absent")


@dataclass(frozen=True, eq=False)
class JsonRecord(Mapping[str, Any]):
    """A JSON object of known keys.

    Every field of a subclass has a default, which stands for the key where an earlier version wrote none. A record that
    was read is written back with the keys that it had, so that hashes of files stay what they are.

    Subscripts by key (``record["name"]``, ``dict(record)``) serve code written when records were dictionaries.

    Attributes:
        other: keys that this version does not know, kept as they are.
        absent: known keys that the file did not have.
    """

    other: dict[str, Any] = field(default_factory=dict, repr=False, kw_only=True)
    absent: frozenset[str] = field(default=frozenset(), repr=False, kw_only=True)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record that ``values`` hold; keys that are missing take their defaults."""
        names = cls._names()
        known = {name: cls._parsed(name, values[name]) for name in names if name in values}
        other = {key: value for key, value in values.items() if key not in names}
        return cls(**known, other=other, absent=frozenset(names) - known.keys())

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read the record in ``file``.

        Raises:
            ConfigError: it is missing or damaged.
        """
        return cls.from_json(read_json(file))

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The record in ``data``, the contents of its file as a storage gives them.

        Raises:
            ValueError: it is no JSON.
        """
        return cls.from_json(json.loads(data))

    def updated(self, **changes: Any) -> Self:
        """A copy with ``changes``, all of which are written, also those that are the defaults."""
        return replace(self, **changes, absent=self.absent - changes.keys())

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """``values`` themselves if they are such a record, else what they hold."""
        return values if isinstance(values, cls) else cls.from_json(values)

    def to_json(self) -> dict[str, Any]:
        """Keys and values as the file has them."""
        defaults = self._defaults()
        found = {}
        for name in self._names():
            value = getattr(self, name)
            if name not in self.absent or value != defaults[name]:
                found[name] = self._written(value)
        return {**found, **self.other}

    @classmethod
    def _parsed(cls, name: str, value: Any) -> Any:
        """The value of the field ``name`` from what JSON has; subclasses make records of inner objects."""
        return value

    @staticmethod
    def _written(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [JsonRecord._written(item) for item in value]
        write = getattr(value, "to_json", None)
        return value if write is None else write()

    @classmethod
    def _names(cls) -> list[str]:
        return [each.name for each in fields(cls) if each.name not in _OWN]

    @classmethod
    def _defaults(cls) -> dict[str, Any]:
        return {
            each.name: each.default if each.default_factory is MISSING else each.default_factory()
            for each in fields(cls)
        }

    def __getitem__(self, key: str) -> Any:
        warnings.warn(
            f"{type(self).__name__}[{key!r}]: records are objects with attributes; use .{key} or .to_json()",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.to_json()[key]

    def items(self) -> ItemsView[str, Any]:
        """Keys and values of ``to_json``."""
        return self.to_json().items()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_json())

    def __len__(self) -> int:
        return len(self.to_json())

    def __eq__(self, other: object) -> bool:
        theirs = other.to_json() if isinstance(other, JsonRecord) else other
        return self.to_json() == theirs if isinstance(theirs, Mapping) else NotImplemented

    __hash__ = None  # type: ignore[assignment]


def read_json(file: Path) -> Any:
    """Read a JSON file of a run.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError("run", str(file), "there is no such file; has this stage of the run been done?") from None
    except (OSError, ValueError) as error:
        raise ConfigError("run", str(file), f"cannot be read: {error}") from error
