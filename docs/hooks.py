"""Hooks of mkdocs: add CONTRIBUTING.md and pages that the navigation lacks, and drop links that leave docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
_MORE = "Guides"


def on_config(config: Any) -> Any:
    """Append each page that the navigation does not name to one of its sections, under its heading."""
    section = next(each[_MORE] for each in config.nav if _MORE in each)
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    section += [page.name for page in sorted(Path(config.docs_dir).glob("*.md")) if page.name not in named]
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the root's CONTRIBUTING.md as a page."""
    text = Path(config.docs_dir, "..", "CONTRIBUTING.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "contributing.md", content=text.replace("](docs/", "](")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links to files outside docs/, which are not on the site, by their text."""
    return _OUTSIDE.sub(r"\1", markdown.replace("](../CONTRIBUTING.md)", "](contributing.md)"))
