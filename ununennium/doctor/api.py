"""Prefect's server over plain HTTP: its address, and what it answers."""

from __future__ import annotations

import base64
import json
import os
import tomllib
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

_TIMEOUT_S = 15


class NoAnswer(Exception):
    """The server cannot be reached, or refuses.

    Args:
        says: description of what happened.
        remedy: advice for mending it.
    """

    def __init__(self, says: str, remedy: str) -> None:
        super().__init__(says)
        self.remedy = remedy


class Api:
    """Prefect's API; credentials come from the same variables that Prefect's own clients read.

    Args:
        url: such as ``http://127.0.0.1:4200/api``.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    @classmethod
    def of_environment(cls) -> Api | None:
        """API of ``PREFECT_API_URL``, else of the active profile; None if neither names one."""
        url = os.environ.get("PREFECT_API_URL") or _profile().get("PREFECT_API_URL")
        return cls(str(url)) if url else None

    def get(self, path: str) -> Any:
        """Answer to a request without a body.

        Raises:
            NoAnswer: it does not answer, or refuses.
        """
        return self._ask(path, None)[0]

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Answer to a request with a body.

        Raises:
            NoAnswer: it does not answer, or refuses.
        """
        return self._ask(path, json.dumps(body).encode())[0]

    def headers(self, path: str) -> Message:
        """The headers of its answer.

        Raises:
            NoAnswer: it does not answer, or refuses.
        """
        return self._ask(path, None)[1]

    def _ask(self, path: str, body: bytes | None) -> tuple[Any, Message]:
        headers = {"Content-Type": "application/json", **_authorization()}
        try:
            request = urllib.request.Request(f"{self.url}{path}", body, headers)
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return json.load(answer), answer.headers
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                remedy = "set PREFECT_API_AUTH_STRING to user:password of the server, or PREFECT_API_KEY"
                raise NoAnswer(f"{self.url} refuses these credentials ({error.code})", remedy) from error
            remedy = "PREFECT_API_URL has to end in /api, and what listens there has to be Prefect's server"
            raise NoAnswer(f"{self.url}{path} answers {error.code} {error.reason}", remedy) from error
        except (urllib.error.URLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            remedy = "start it (make stack, or prefect server start), or correct PREFECT_API_URL"
            raise NoAnswer(f"{self.url} does not answer: {reason}", remedy) from error


def _authorization() -> dict[str, str]:
    profile = _profile()
    user = os.environ.get("PREFECT_API_AUTH_STRING") or profile.get("PREFECT_API_AUTH_STRING")
    key = os.environ.get("PREFECT_API_KEY") or profile.get("PREFECT_API_KEY")
    if user:
        return {"Authorization": f"Basic {base64.b64encode(str(user).encode()).decode()}"}
    return {"Authorization": f"Bearer {key}"} if key else {}


def _profile() -> dict[str, Any]:
    """The settings of Prefect's active profile."""
    home = Path(os.environ.get("PREFECT_HOME") or "~/.prefect").expanduser()
    try:
        content = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    active = os.environ.get("PREFECT_PROFILE") or content.get("active")
    found: dict[str, Any] = content.get("profiles", {}).get(active, {})
    return found
