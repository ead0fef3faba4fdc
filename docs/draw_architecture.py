"""Draw the packages and their imports: ``python docs/draw_architecture.py`` renews the diagram of architecture.md.

The diagram comes from the imports of the code, those inside functions and for annotations included. A package is one
row above the highest package that it imports. Left out are arrows that follow from other arrows, and arrows to the last
row, which all others may use.
"""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
LIBRARY, CALLERS = "ununennium", ("flows", "infra")
_BEGIN, _END = "<!-- imports: begin -->", "<!-- imports: end -->"
_IGNORED = {"__main__"}

_BOX, _HEIGHT, _GAP, _ROW, _MARGIN, _SWEEPS = 98, 30, 16, 62, 16, 8
_STYLE = (
    "text{font:13px ui-monospace,Menlo,Consolas,monospace;fill:#1f2937;text-anchor:middle}"
    "rect{fill:#e0f2f1;stroke:#00796b}.caller{fill:#fff3e0;stroke:#ef6c00}"
    "path{fill:none;stroke:#90a4ae;stroke-width:1.2}"
)

Imports = Mapping[str, set[str]]
Lines = list[tuple[str, str]]


def packages() -> dict[str, set[str]]:
    """Map each package to the packages that it imports; a module beside the packages counts as one."""
    graph = grimp.build_graph(LIBRARY, *CALLERS, cache_dir=None)
    found: dict[str, set[str]] = {name: set() for name in map(_package, graph.modules) if name is not None}
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            importer, imported = _package(module), _package(target)
            if importer and imported and importer != imported:
                found[importer].add(imported)
    return found


def _package(module: str) -> str | None:
    """Name the box of ``module``; None for the library's own ``__init__`` and ``__main__``."""
    top, *rest = module.split(".")
    if top in CALLERS:
        return top
    return rest[0] if rest and rest[0] not in _IGNORED else None


def rows(imports: Imports) -> list[list[str]]:
    """Sort packages into rows, the top one first.

    Raises:
        graphlib.CycleError: packages import each other.
    """
    level: dict[str, int] = {}
    for name in TopologicalSorter(imports).static_order():
        level[name] = 1 + max((level[each] for each in imports.get(name, ())), default=-1)
    return [sorted(name for name in level if level[name] == row) for row in range(max(level.values()), -1, -1)]


def arrows(imports: Imports) -> Lines:
    """List the imports that do not follow from others (the transitive reduction), sorted."""
    below: dict[str, set[str]] = {}
    for name in TopologicalSorter(imports).static_order():
        direct = imports.get(name, set())
        below[name] = set(direct).union(*(below[each] for each in direct))
    return sorted(
        (name, each)
        for name, direct in imports.items()
        for each in direct
        if not any(each in below[other] for other in direct)
    )


def picture(imports: Imports) -> str:
    """Draw the diagram as SVG: boxes in rows, and arrows that pass between the boxes of the rows on their way."""
    drawn = [(upper, lower) for upper, lower in arrows(imports) if imports.get(lower)]
    order, lines = _untangled(*_with_waypoints(rows(imports), drawn))
    width = max(sum(map(_room, row)) for row in order)
    height = 2 * _MARGIN + _ROW * (len(order) - 1) + _HEIGHT
    place = {}
    for number, row in enumerate(order):
        x = (width - sum(map(_room, row))) / 2
        for name in row:
            place[name] = (x + _room(name) / 2, _MARGIN + _ROW * number)
            x += _room(name)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" role="img">',
        f"<title>Packages and their imports</title><style>{_STYLE}</style>",
        f'<path d="M0 0H{width:g}V{height}H0Z" style="fill:#fff;stroke:none"/>',
        *(_line(lower, *place[upper], *place[lower]) for upper, lower in lines),
        *(_box(name, *place[name]) for row in order for name in row if not _is_waypoint(name)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _with_waypoints(order: list[list[str]], lines: Lines) -> tuple[list[list[str]], Lines]:
    """Split each arrow that passes rows, with a waypoint in each of them."""
    number = {name: row for row, names in enumerate(order) for name in names}
    order, split = [list(row) for row in order], list[tuple[str, str]]()
    for upper, lower in lines:
        stops = [f"{upper}>{lower}>{row}" for row in range(number[upper] + 1, number[lower])]
        for stop, row in zip(stops, order[number[upper] + 1 :], strict=False):
            row.append(stop)
        split += pairwise([upper, *stops, lower])
    return order, split


def _untangled(order: list[list[str]], lines: Lines) -> tuple[list[list[str]], Lines]:
    """Order each row by the mean position of its neighbours in the row above, then below, so that few arrows cross."""
    neighbours: dict[str, list[str]] = {}
    for upper, lower in lines:
        neighbours.setdefault(upper, []).append(lower)
        neighbours.setdefault(lower, []).append(upper)
    for sweep in range(_SWEEPS):
        where: dict[str, float] = {}
        for row in order if sweep % 2 == 0 else reversed(order):
            near = {name: [where[each] for each in neighbours.get(name, ()) if each in where] for name in row}
            mean = {name: sum(near[name]) / len(near[name]) if near[name] else 0.5 for name in row}
            row.sort(key=lambda name: (mean[name], name))
            where |= {name: (column + 0.5) / len(row) for column, name in enumerate(row)}
    return order, lines


def _is_waypoint(name: str) -> bool:
    return ">" in name


def _room(name: str) -> float:
    return _GAP if _is_waypoint(name) else _BOX + _GAP


def _box(name: str, x: float, y: float) -> str:
    kind = ' class="caller"' if name in CALLERS else ""
    return (
        f'<rect{kind} x="{x - _BOX / 2:g}" y="{y:g}" width="{_BOX}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x:g}" y="{y + 20:g}">{name}</text>'
    )


def _line(lower: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Draw one part of an arrow, from the bottom of a box to the top of another, or through a waypoint's whole row."""
    start, bend = y1 + _HEIGHT, (y2 - y1 - _HEIGHT) / 2
    through = f"V{y2 + _HEIGHT:g}" if _is_waypoint(lower) else ""
    return f'<path d="M{x1:g} {start:g}C{x1:g} {start + bend:g} {x2:g} {y2 - bend:g} {x2:g} {y2:g}{through}"/>'


def table(imports: Imports) -> str:
    """List the direct imports of each package as a Markdown table, in the order of the diagram."""
    lines = ["| package | imports |", "| --- | --- |"]
    order = [name for row in rows(imports) for name in row]
    for name in order:
        used = [each for each in order if each in imports.get(name, ())]
        lines.append(f"| `{name}` | {', '.join(f'`{each}`' for each in used) or 'no other package'} |")
    return "\n".join(lines)


def renewed(page: str, imports: Imports) -> str:
    """Return ``page`` with the table between its markers renewed.

    Raises:
        ValueError: a marker is missing.
    """
    before, rest = page.split(_BEGIN)
    _, after = rest.split(_END)
    return f"{before}{_BEGIN}\n{table(imports)}\n{_END}{after}"


def main() -> None:
    """Write the picture and the table."""
    imports = packages()
    PICTURE.write_text(picture(imports), encoding="utf-8")
    PAGE.write_text(renewed(PAGE.read_text(encoding="utf-8"), imports), encoding="utf-8")


if __name__ == "__main__":
    main()
