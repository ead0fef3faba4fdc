"""One self-contained HTML page from sections: a template, a style sheet, and pictures as data.

The page asks for nothing over a network and runs no script. Everything that comes from a user is escaped by the
template; charts, which escape what they contain, are the only markup that it takes as it is.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

Tone = str
"""``good``, ``bad``, ``quiet`` or nothing: how a value is meant, shown by colour, and said by the text itself."""


@dataclass(frozen=True)
class Cell:
    """A table's cell.

    Attributes:
        text: text of the cell.
        tone: how that is meant.
        share: 0 to 1: how strongly the cell is tinted; None for not at all.
        mark: a small picture beside the text.
    """

    text: str
    tone: Tone = ""
    share: float | None = None
    mark: Markup = field(default_factory=Markup)


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading.

    Attributes:
        caption: caption of the table.
        columns: headings.
        rows: as many cells as there are columns, each.
        numbers: whether all columns but the first are numbers, which stand right.
    """

    kind: ClassVar[str] = "table"
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    numbers: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """Every cell as one."""
        return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in self.rows]


@dataclass(frozen=True)
class Pairs:
    """Terms with what there is to say of each."""

    kind: ClassVar[str] = "pairs"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Charts:
    """Charts side by side: title, picture, and the names in its legend."""

    kind: ClassVar[str] = "charts"
    charts: Sequence[tuple[str, Markup, Sequence[str]]]


@dataclass(frozen=True)
class Picture:
    """A picture.

    Attributes:
        title: shown below it.
        alt: description for those who do not see the picture.
        uri: the picture as data.
    """

    title: str
    alt: str
    uri: str


@dataclass(frozen=True)
class Gallery:
    """Groups of pictures, each with a heading: a chip with its image, label, prediction and error.

    Attributes:
        groups: heading, note, pictures.
        legend: name and colour (red, green, blue) of what the pictures show.
        wide: whether pictures are large, such as maps.
    """

    kind: ClassVar[str] = "gallery"
    groups: Sequence[tuple[str, str, Sequence[Picture]]]
    legend: Sequence[tuple[str, Sequence[int]]] = ()
    wide: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Listing:
    """Text as it is, such as YAML or a traceback."""

    kind: ClassVar[str] = "listing"
    title: str
    text: str


@dataclass(frozen=True)
class Folded:
    """Part of a page that is shown when asked for."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Attributes:
        key: by which links find it.
        title: its heading.
        blocks: blocks of the section, in order.
    """

    key: str
    title: str
    blocks: Sequence[Any]


@dataclass(frozen=True)
class Page:
    """The page.

    Attributes:
        title: of the browser's tab.
        kicker: small line above the heading.
        heading: the one thing to know.
        tone: how it is meant.
        summary: the same in a sentence.
        tiles: label, figure and a remark, of a few figures that stand out.
        sections: the rest.
        footer: origin of the page.
    """

    title: str
    kicker: str
    heading: str
    tone: Tone
    summary: str
    tiles: Sequence[tuple[str, str, str]]
    sections: Sequence[Section]
    footer: str


def render(page: Page) -> str:
    """The page as HTML."""
    return _template().render(page=page, style=Markup(_style()))


def picture(file: Path, title: str, alt: str) -> Picture | None:
    """A PNG of a run; None if it is not there."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    return Picture(title, alt, f"data:image/png;base64,{base64.b64encode(content).decode('ascii')}")


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("ununennium", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template("page.html")


@cache
def _style() -> str:
    return files("ununennium.report").joinpath("page.css").read_text(encoding="utf-8")
