"""Files that the text of a virtual raster names."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

from ununennium.data.scenes.remote import is_remote

_NAMES_A_FILE = ("SourceFilename", "SourceDataset", "IndexDataset")
_TEXT_BYTES = 2**24


def virtual_text(file: Path) -> str:
    """The text of a local virtual raster or tile index; empty for other files."""
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            if not stream.read(2**10).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
                return ""
            stream.seek(0)
            return stream.read(_TEXT_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def sources_of(text: str, folder: str | None = None) -> list[str]:
    """Files that the text of a virtual raster names.

    Args:
        text: XML; anything else names nothing.
        folder: folder or URL where relative names start; the working directory if not given.
    """
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return []
    names = []
    for node in root.iter():
        if node.tag in _NAMES_A_FILE and node.text and node.text.strip():
            relative = node.get("relativeToVRT") == "1" or root.tag == "GDALTileIndexDataset"
            names.append(seen_from(node.text.strip(), folder if relative else None))
    return list(dict.fromkeys(names))


def seen_from(name: str, folder: str | None) -> str:
    """A name as seen from the working directory, where it is relative to a folder or URL."""
    if folder is None or is_remote(name) or name.startswith(("/", "<")):
        return name
    part = re.fullmatch(r'([A-Za-z0-9_]+:"?)([^":]+)("?(:.*)?)', name)
    return f"{part[1]}{folder}/{part[2]}{part[3]}" if part else f"{folder}/{name}"
