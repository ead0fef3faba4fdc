"""Secrets kept out of what people and programs read: messages, logs, records of errors.

Two things are known to be secret: the user and password, or the signature, in a URL, wherever it comes from; and the
values of environment variables that are named like a secret, such as ``AWS_SECRET_ACCESS_KEY``.
"""

from __future__ import annotations

import logging
import os
import re
from typing import Any

HIDDEN = "***"
_USERINFO = re.compile(r"(?<=://)[^/\s'\"]*:[^/\s'\"]*(?=@)|(?:(?<=http://)|(?<=https://))[^/\s'\"]+(?=@)")
"""Not every name before an ``@`` is one: ``abfs://container@account.dfs.core.windows.net`` holds no secret."""
_SIGNATURE = re.compile(
    r"([?&](?:x-amz-signature|x-amz-security-token|signature|sig|token|access_token|api_key|key)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_SECRET_NAME = re.compile(r"SECRET|PASSW(OR)?D|USERPWD|TOKEN|API_KEY|PRIVATE_KEY|AUTH_STRING|API_AUTH", re.IGNORECASE)
_SHORTEST = 8
"""Shorter values would be found in words that have nothing to do with them."""


def redact(text: str) -> str:
    """``text`` without the credentials of its URLs and without the secrets of this process's environment."""
    for secret in _secrets_of_environment():
        text = text.replace(secret, HIDDEN)
    if "://" in text:
        text = _SIGNATURE.sub(rf"\g<1>{HIDDEN}", _USERINFO.sub(HIDDEN, text))
    return text


def holds_credentials(text: str) -> bool:
    """Whether ``text`` is or has a URL with a user and password in it."""
    return _USERINFO.search(text) is not None


def redact_logs() -> None:
    """From here on, no log record of this process holds what ``redact`` hides, whoever handles it; tracebacks too."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*arguments: Any, **options: Any) -> logging.LogRecord:
        record = make(*arguments, **options)
        try:
            said = record.getMessage()
        except (TypeError, ValueError):  # the handlers say that the arguments do not fit
            return record
        redacted = redact(said)
        if redacted != said:
            record.msg, record.args = redacted, ()
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redact(_FORMATTER.formatException(record.exc_info))  # what every formatter takes
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_redacted)


_FORMATTER = logging.Formatter()


def _secrets_of_environment() -> list[str]:
    """Values of variables that are named like a secret; the longest first, as one may be part of another."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and _SECRET_NAME.search(name) and not name.upper().endswith("_FILE")
    }
    return sorted(found, key=len, reverse=True)
