"""What mkdocs does beside mkdocs.yml: pages that the navigation does not name, and links that leave docs/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")
_MORE = "Explanation"


def on_config(config: Any) -> Any:
    """A page that nobody has put into the navigation is at the end of a section of it, by its heading."""
    section = next(each[_MORE] for each in config.nav if _MORE in each)
    named = set(re.findall(r"[\w/-]+\.md", str(config.nav)))
    section += [page.name for page in sorted(Path(config.docs_dir).glob("*.md")) if page.name not in named]
    return config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What lies outside docs/ is not on the site: its name stays, without a link."""
    return _OUTSIDE.sub(r"\1", markdown)
