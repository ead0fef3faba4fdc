"""YAML as plain data: strict reading, with file, line and column of an error, and writing that reads back the same.

Numbers and dates follow YAML 1.2 where 1.1 surprises: ``1:20``, ``010`` and ``2026-05-18`` are text, ``1e-3`` is a
number. Anchors and merge keys work; what they repeat is limited, so that a few lines cannot fill the memory.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.reader import ReaderError
from yaml.scanner import ScannerError

from ununennium.errors import ConfigError

MAX_CHARACTERS = 4_000_000
MAX_DEPTH = 64
MAX_REPEATED = 100_000
"""Values that aliases may add to those that are written out."""
MAX_DIGITS = 100

_TAGS = ("null", "bool", "int", "float", "str", "seq", "map")
_INT = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$")
_FLOAT = re.compile(
    r"""^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?(?:0|[1-9][0-9_]*)[eE][-+]?[0-9]+
        |[-+]?\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$""",
    re.VERBOSE,
)


def read_yaml(text: str, *, field: str, value: str, name: str | None = None) -> Any:
    """Return the one document in ``text``: mappings, lists, text, numbers, booleans and null.

    Args:
        text: YAML.
        field: setting that an error names, such as ``config``.
        value: value that an error names, such as the file's path.
        name: file name that stands before line and column; None for text of a single line.

    Raises:
        ConfigError: it is not valid YAML, is nested too deep, repeats itself through aliases, or has a key twice.
    """
    if len(text) > MAX_CHARACTERS:
        size = f"has {len(text):,} characters, more than {MAX_CHARACTERS:,}"
        raise ConfigError(field, value, f"{size}; list many scenes in a table (data.catalog.table)")
    try:
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError(field, value, f"is not valid YAML: {_in_words(error, text, name)}") from None


def write_yaml(content: Any, **options: Any) -> str:
    """Return ``content`` as YAML that ``read_yaml`` reads back to an equal value; ``options`` of ``yaml.dump``."""
    text: str = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, **options)
    return text


class _Loader(yaml.SafeLoader):
    """Compose nodes with limits, and construct plain data only."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[yaml.Node] = []
        self._sizes: dict[int, int] = {}
        self._depth = 0
        self._repeated = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"it is nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if is_alias and node is not None:
            if id(node) not in self._sizes:
                raise ComposerError(None, None, "an alias stands inside of what it stands for", mark)
            self._repeated += self._sizes[id(node)]
            if self._repeated > MAX_REPEATED:
                raise ComposerError(None, None, f"aliases repeat more than {MAX_REPEATED:,} values", mark)
        elif node is not None:
            self._sizes[id(node)] = 1 + sum(self._sizes.get(id(child), 0) for child in _children(node))
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise ComposerError(None, None, f"the key {key.value[:80]!r} is there twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            kind = node.tag.rpartition(":")[2]
            problem = f"{str(node.value)[:80]!r} is no {kind}" if isinstance(node, yaml.ScalarNode) else str(error)
            raise ConstructorError(None, None, problem, node.start_mark) from None

    def scan_flow_scalar_non_spaces(self, double: bool, start_mark: yaml.Mark) -> list[str]:
        try:
            chunks: list[str] = super().scan_flow_scalar_non_spaces(double, start_mark)
        except (ValueError, OverflowError):
            problem = "an escape sequence of no character"
            raise ScannerError(None, None, problem, self.get_mark()) from None
        return chunks

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number of a size that a setting can have."""
        if len(node.value) > MAX_DIGITS:
            raise ConstructorError(None, None, f"a number of {len(node.value):,} digits", node.start_mark)
        if node.tag.endswith(":int") and _INT.match(node.value):
            number: int = self.construct_yaml_int(node)
            return number
        if _FLOAT.match(node.value) or _INT.match(node.value):
            return float(self.construct_yaml_float(node))
        raise ValueError


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    return [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []


class _Dumper(yaml.SafeDumper):
    """Quote what ``_Loader`` would read as something else, and write no anchors."""

    yaml_implicit_resolvers = {key: list(found) for key, found in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _resolve() -> None:
    """Give the loader its scalars, and tell the dumper of those that YAML 1.1 lacks."""
    _Loader.yaml_implicit_resolvers = {
        first: kept
        for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
        if (kept := [(tag, regexp) for tag, regexp in found if tag.rpartition(":")[2] in ("null", "bool", "merge")])
    }
    for kind, regexp, beginnings in (("int", _INT, "-+0123456789"), ("float", _FLOAT, "-+0123456789.")):
        _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", regexp, list(beginnings))
        _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", regexp, list(beginnings))
    _Loader.yaml_constructors = {
        tag: make
        for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _TAGS
    }
    for kind in ("int", "float"):
        _Loader.add_constructor(f"tag:yaml.org,2002:{kind}", _Loader.construct_number)


_resolve()


def _in_words(error: yaml.YAMLError, text: str, name: str | None) -> str:
    """File, line and column, and what is wrong there."""
    if isinstance(error, ReaderError):
        before = text[: error.position] if isinstance(error.position, int) else ""
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        code = error.character if isinstance(error.character, int) else ord(error.character)
        problem = f"a character that YAML does not allow (#x{code:04x})"
    else:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        context, started = getattr(error, "context", None), getattr(error, "context_mark", None)
        if context and started is not None and started.line + 1 != line:
            problem += f" ({context} of line {started.line + 1})"
    where = f"column {column}" if name is None else f"{name}, line {line}, column {column}"
    return f"{where}: {problem}"
