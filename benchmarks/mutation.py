"""Small changes to a source file, and their way into functions that are already loaded.

``candidates`` lists every change that is known for the functions of a file, always in the same order; ``sample`` draws
some of them by hash, so that an edit elsewhere in the file leaves the sample as it was. Code outside of functions
(constants of a module, fields of a class, defaults of parameters) is left alone, and so are messages: what is raised,
warned of or logged, and f-strings.

A loaded function gets its changed code by ``put_into``; no file is written. A process that a test starts makes the same
change while it imports: see ``install_from_environment``. This module needs the standard library alone.
"""

from __future__ import annotations

import ast
import builtins
import copy
import gc
import hashlib
import importlib.abc
import importlib.machinery
import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

VARIABLE = "UNUNENNIUM_MUTATION"
HIT = "__mutants_hit__"

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
_LOGGERS = {"logger", "logging", "warnings"}
_Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Mutant:
    """One change to one function.

    Attributes:
        number: index among the candidates of the file.
        kind: comparison, constant, arithmetic, boolean, statement, return, or arguments.
        function: qualified name of the outermost function that is changed.
        first_line: where its code object begins.
        line: where the innermost statement begins that is changed.
        text: that line, without its indentation.
        change: the changed part before and after.
        id: hash of all this but for numbers of lines, so that it stays when lines move.
    """

    number: int
    kind: str
    function: str
    first_line: int
    line: int
    text: str
    change: str
    id: str


@dataclass(frozen=True)
class _Edit:
    kind: str
    function: str
    first_line: int
    line: int
    parent: ast.AST
    field: str
    place: int | None
    new: ast.AST

    @property
    def old(self) -> ast.AST:
        value = getattr(self.parent, self.field)
        return value if self.place is None else value[self.place]

    def apply(self) -> None:
        new = ast.fix_missing_locations(ast.copy_location(self.new, self.old))
        if self.place is None:
            setattr(self.parent, self.field, new)
        else:
            getattr(self.parent, self.field)[self.place] = new


# ------------------------------------------------------------------ which changes there are


def candidates(source: str, name: str) -> list[Mutant]:
    """Every change to the functions of ``source``, in the order of the file.

    Args:
        source: text of the file.
        name: stands for the file in the hashes.
    """
    lines = source.splitlines()
    found: list[Mutant] = []
    times: dict[str, int] = defaultdict(int)
    for number, edit in enumerate(_edits(ast.parse(source))):
        text = lines[edit.line - 1].strip()
        change = f"{_words(edit.old)} -> {_words(edit.new)}"
        known = "\n".join((name, edit.function, text, change))
        times[known] += 1
        identity = hashlib.sha256(f"{known}\n{times[known]}".encode()).hexdigest()[:12]
        found.append(
            Mutant(number, edit.kind, edit.function, edit.first_line, edit.line, text, change, identity),
        )
    return found


def sample(mutants: Iterable[Mutant], limit: int, seed: int) -> list[Mutant]:
    """At most ``limit`` of ``mutants``, of each kind about as many; the same ones for the same seed."""
    by_kind: dict[str, list[Mutant]] = defaultdict(list)
    for mutant in sorted(mutants, key=lambda each: hashlib.sha256(f"{seed} {each.id}".encode()).digest()):
        by_kind[mutant.kind].append(mutant)
    turns = zip_longest(*(by_kind[kind] for kind in sorted(by_kind)))
    drawn = [mutant for mutant in chain.from_iterable(turns) if mutant is not None][:limit]
    return sorted(drawn, key=lambda mutant: mutant.number)


def _words(node: ast.AST) -> str:
    return "nothing" if isinstance(node, ast.Pass) else " ".join(ast.unparse(node).split())


def _edits(tree: ast.Module) -> list[_Edit]:
    return [edit for name, function in _functions(tree) for edit in _edits_of(name, function)]


def _functions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, _Function]]:
    """Outermost functions and methods with their qualified names."""
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, _Function):
            yield f"{prefix}{child.name}", child


def _edits_of(name: str, function: _Function) -> Iterator[_Edit]:
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    waiting: list[tuple[ast.AST, int]] = [(function, function.lineno)]
    while waiting:
        parent, line = waiting.pop()
        inside: list[tuple[ast.AST, int]] = []
        for field, place, child in _children(parent):
            its_line = child.lineno if isinstance(child, ast.stmt) else line
            is_made = name.endswith("__init__") and isinstance(child, ast.Assign)  # missing, it is an error at once
            for kind, new in () if is_made else _variants(child, parent, field):
                yield _Edit(kind, name, first, its_line, parent, field, place, new)
            inside.append((child, its_line))
        waiting += reversed(inside)


def _children(parent: ast.AST) -> Iterator[tuple[str, int | None, ast.AST]]:
    """Nodes below ``parent`` with the field and the place that they are in; those that are left alone are not given."""
    if isinstance(parent, ast.Raise | ast.Assert | ast.JoinedStr | ast.Pass) or _only_tells(parent):
        return
    for field, value in ast.iter_fields(parent):
        if field in ("decorator_list", "args", "returns", "annotation") and not isinstance(parent, ast.Call):
            continue  # of a function: defaults and annotations
        for place, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or isinstance(child, ast.expr_context):
                continue
            is_types = (
                isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id == "isinstance"
            )
            is_style = isinstance(child, ast.keyword) and child.arg in ("strict", "stacklevel", "indent")
            if not is_style and not (is_types and place == 1):
                yield field, place, child


def _only_tells(node: ast.AST) -> bool:
    """Tell whether it calls a logger, or warns."""
    call = node.value if isinstance(node, ast.Expr) else node
    function = call.func if isinstance(call, ast.Call) else None
    return (
        isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name) and function.value.id in _LOGGERS
    )


def _variants(node: ast.AST, parent: ast.AST, field: str) -> Iterator[tuple[str, ast.AST]]:
    """Replacements of ``node``, one after the other."""
    if isinstance(node, ast.stmt):
        yield from _of_statement(node)
    elif isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            new = copy.deepcopy(node)
            new.ops[place] = _COMPARISONS[type(operator)]()
            yield "comparison", new
    elif isinstance(node, ast.BoolOp):
        new_operator = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield "boolean", ast.BoolOp(new_operator, copy.deepcopy(node.values))
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "boolean", copy.deepcopy(node.operand)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "arithmetic", copy.deepcopy(node.operand)
    elif isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC and not _is_text(node):
        new_binary = copy.deepcopy(node)
        new_binary.op = _ARITHMETIC[type(node.op)]()
        yield "arithmetic", new_binary
    elif isinstance(node, ast.IfExp):
        yield "boolean", ast.IfExp(copy.deepcopy(node.test), copy.deepcopy(node.orelse), copy.deepcopy(node.body))
    elif isinstance(node, ast.Constant) and type(node.value) in (bool, int, float):
        yield "constant", ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    elif isinstance(node, ast.Call):
        yield from _swapped(node)
    if (
        field == "test"
        and isinstance(parent, ast.If | ast.IfExp)
        and isinstance(node, ast.Name | ast.Attribute | ast.Call)
    ):
        yield "boolean", ast.UnaryOp(ast.Not(), copy.deepcopy(node))


def _of_statement(node: ast.stmt) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(node, ast.Return) and node.value is not None and not isinstance(node.value, ast.Constant):
        yield "return", ast.Return(ast.Constant(None))
    targets = node.targets if isinstance(node, ast.Assign) else []
    is_state = any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call | ast.Await)
    if is_state or is_call or isinstance(node, ast.AugAssign | ast.Raise | ast.Continue | ast.Break | ast.Delete):
        is_logged = _only_tells(node) and ast.unparse(node).startswith("logg")
        if not is_logged:
            yield "statement", ast.Pass()
    if isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC and not isinstance(node.op, ast.BitOr):
        new = copy.deepcopy(node)
        new.op = _ARITHMETIC[type(node.op)]()
        yield "arithmetic", new


def _swapped(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """The call with its first two arguments swapped."""
    first, second = node.args[:2] if len(node.args) > 1 else (None, None)
    plain = ast.Name | ast.Attribute
    if isinstance(node.func, ast.Name) and node.func.id in ("min", "max", "isinstance", "zip"):
        return  # the order is the same to it, or an error at once
    if isinstance(first, plain) and isinstance(second, plain) and ast.dump(first) != ast.dump(second):
        new = copy.deepcopy(node)
        new.args[:2] = reversed(new.args[:2])
        yield "arguments", new


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr) or (isinstance(side, ast.Constant) and isinstance(side.value, str | bytes))
        for side in (node.left, node.right)
    )


# ------------------------------------------------------------------ compiled


def mutated(source: str, filename: str, number: int) -> CodeType:
    """Code of the module with its candidate ``number``."""
    tree = ast.parse(source)
    _edits(tree)[number].apply()
    return compile(tree, filename, "exec", dont_inherit=True)


def instrumented(source: str, filename: str, offset: int) -> CodeType:
    """Code of the module, each statement of whose functions first tells ``offset`` plus its line; see ``Recorder``."""
    tree = ast.parse(source)
    for _, function in _functions(tree):
        for node in list(ast.walk(function)):
            for value in [value for _, value in ast.iter_fields(node) if isinstance(value, list)]:
                if value and isinstance(value[0], ast.stmt):
                    value[:] = chain.from_iterable((_tell(statement, offset), statement) for statement in value)
    return compile(tree, filename, "exec", dont_inherit=True)


def _tell(statement: ast.stmt, offset: int) -> ast.stmt:
    call = ast.Call(ast.Name(HIT, ast.Load()), [ast.Constant(offset + statement.lineno)], [])
    return ast.fix_missing_locations(ast.copy_location(ast.Expr(call), statement))


class Recorder:
    """Remembers which statements ran since the last ``take``, in this process and in those that it starts.

    Args:
        file: what all of them append to.
    """

    def __init__(self, file: Path) -> None:
        self._file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._seen: set[int] = set()
        setattr(builtins, HIT, self._hit)

    def _hit(self, number: int) -> None:
        if number not in self._seen:
            self._seen.add(number)
            os.write(self._file, b"%d\n" % number)

    def take(self) -> set[int]:
        """The numbers told since the last call."""
        found = os.pread(self._file, os.fstat(self._file).st_size, 0).split()
        os.ftruncate(self._file, 0)
        self._seen.clear()
        return {int(number) for number in found}


class Loaded:
    """Functions of this process, by where they come from."""

    def __init__(self, filenames: Iterable[str]) -> None:
        wanted = set(filenames)
        self._functions: dict[tuple[str, str, int], list[FunctionType]] = defaultdict(list)
        for each in gc.get_objects():
            if type(each) is FunctionType and each.__code__.co_filename in wanted:
                code = each.__code__
                self._functions[code.co_filename, code.co_qualname, code.co_firstlineno].append(each)

    def put_into(self, module: CodeType, *, only: tuple[str, int] | None = None) -> int:
        """Give functions the code that they have in ``module``; returns how many were given it.

        Args:
            module: of the file, compiled anew under the same name and with the same lines.
            only: qualified name and first line of the one function that is meant; None for all.
        """
        number = 0
        for code in _codes(module):
            if only in (None, (code.co_qualname, code.co_firstlineno)):
                for function in self._functions.get((code.co_filename, code.co_qualname, code.co_firstlineno), ()):
                    function.__code__ = code
                    number += 1
        return number


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


# ------------------------------------------------------------------ processes that a test starts


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, compilers: dict[str, Callable[[str, str], CodeType]]) -> None:
        self._compilers = compilers

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> Any:
        if name not in self._compilers:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self._compilers[name])
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, compiler: Callable[[str, str], CodeType]) -> None:
        super().__init__(name, path)
        self._compiler = compiler

    def get_code(self, fullname: str) -> CodeType:
        return self._compiler(Path(self.path).read_text(encoding="utf-8"), self.path)


def install_from_environment() -> None:
    """Do to modules, while they are imported, what the variable asks for: a mutant, or to tell what runs."""
    asked = json.loads(os.environ.get(VARIABLE, "{}"))
    compilers: dict[str, Callable[[str, str], CodeType]] = {}
    if "number" in asked:
        compilers[asked["module"]] = lambda source, path: mutated(source, path, asked["number"])
    if "hits" in asked:
        Recorder(Path(asked["hits"]))
        for name, offset in asked["offsets"].items():
            compilers[name] = lambda source, path, offset=offset: instrumented(source, path, offset)
    if compilers:
        sys.meta_path.insert(0, _Finder(compilers))
