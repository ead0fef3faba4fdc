"""Secrets kept out of what people and programs read: messages, logs, records of errors.

Two things are known to be secret: passwords, tokens and signatures in URLs, in GDAL's ``/vsi`` paths and in headers,
wherever they come from; and the values of environment variables that are named like a secret, such as
``AWS_SECRET_ACCESS_KEY``, as they are or encoded (percent, JSON, HTML, base64).
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "***"
_PORT = r"(?!\d{0,5}(?:[/?#'\",;)\]}\s]|$))"
_USERINFO = re.compile(
    rf"""(?<=://)(?:
        [^/\s'"]*:[^/\s'"]*(?=@)                                 # user:password
        |[^/\s'"@:]*:{_PORT}[^\s"<>@]*(?:@[^/\s'"@]*)*?(?=@)     # with a slash or quote in the password
        |(?:(?<=http://)|(?<=https://))[^/\s'"]+(?=@)            # a token before the host
    )""",
    re.VERBOSE,
)
"""Not every name before an ``@`` is one: ``abfs://container@account.dfs.core.windows.net`` holds no secret."""

_NAMES = (
    *("signature", "x-amz-signature", "x-amz-security-token", "x-goog-signature", "sig", "token", "access_token"),
    *("id_token", "refresh_token", "auth_token", "sas_token", "api_key", "apikey", "api-key", "x-api-key"),
    *("subscription-key", "jwt", "password", "passwd", "pwd", "secret", "client_secret", "auth", "authorization"),
    *("userpwd", "proxyuserpwd", "accountkey", "sharedaccesssignature", "sharedaccesskey"),
)
"""Parameters of URLs whose value is a secret, in any case."""
_ANY_NAME = "|".join(re.escape(name).replace("_", "[_-]") for name in sorted(_NAMES, key=len, reverse=True))
_PREFIX = r"(?:header\.(?:[\w-]+-)?|[\w-]+[_.-])?"
_BEFORE = r"(?:[?&;#](?:amp;)?|\\u0026|%(?:25)*(?:3F|26|3B))"
_EQUALS = r"(?:=|%(?:25)*3D)"
_VALUE = r"(?:(?!%(?:25)*(?:26|3B)|\\u0026)[^&;\s'\"<>])+"
_SECRET_PARAMETER = rf"{_PREFIX}(?:{_ANY_NAME}|secret_access_key|account_key)|header\.cookie"
_PARAMETER = re.compile(rf"({_BEFORE}(?:{_SECRET_PARAMETER}|key){_EQUALS})(?!\*\*\*){_VALUE}", re.IGNORECASE)
_REFUSED = re.compile(
    rf"{_BEFORE}(?:{_SECRET_PARAMETER}){_EQUALS}{_VALUE}|{_BEFORE}key{_EQUALS}[\w-]{{16,}}(?=$|[&;\s'\"<>])",
    re.IGNORECASE,
)
"""The same where a setting is refused; ``key`` is often the path of an object, and then no secret."""
_ASSIGNED = re.compile(r"((?:^|[\s:])(?:password|passwd|pwd)\s?=\s?['\"]?)(?!\*\*\*)[^\s'\",)]+", re.IGNORECASE)
"""A password in a connection string of GDAL's database drivers: ``PG:host=h user=u password=p``."""
_HEADER = re.compile(r"\b((?:Bearer|Basic)(?:\s+|%20|\+))(?=[\w.~+/%-]*\d)[\w.~+/%-]{12,}=*", re.IGNORECASE)
_AUTHORIZATION = re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?(?:Bearer|Basic|Token)\s+)[^\s'\",]+", re.IGNORECASE)

_SECRET_NAME = re.compile(
    r"SECRET|PASSW(OR)?D|PASSPHRASE|USERPWD|TOKEN|API_?KEY|PRIVATE_KEY|AUTH_STRING|API_AUTH|ACCOUNT_KEY|ACCESS_KEY$"
    r"|CONNECTION_STRING|HTTP_HEADERS|BEARER|(^|_)(PASS|PWD|PAT|SAS|JWT|AUTH|AUTHORIZATION)$|CREDENTIALS?$|SSH_KEY"
    r"|SIGNING_KEY|ENCRYPTION_KEY|STORAGE_KEY",
    re.IGNORECASE,
)
_NO_SECRET_NAME = re.compile(r"_(FILE|PATH|DIR|ID|URL|URI|SOCK)$|^TOKENIZERS_|^(OLD)?PWD$", re.IGNORECASE)
_SHORTEST = 8
"""Shorter values would be found in words that have nothing to do with them."""
_SHORTEST_LINE = 16


def _in_any_case(name: str) -> str:
    """``name`` as a pattern of JSON Schema, which has no flag for it."""
    return "".join(f"[{each.lower()}{each.upper()}]" if each.isalpha() else re.escape(each) for each in name)


CREDENTIALS_PATTERN = r"://[^/\s]*:[^/\s]*@|[?&;]([Hh]eader\.|[\w-]+[_.-])?(" + (
    "|".join(_in_any_case(name) for name in _NAMES) + r")=[^&;\s]"
)
"""Pattern that a JSON schema refuses in a URL, so that no server keeps it; ``holds_credentials`` sees more."""


def redact(text: str) -> str:
    """``text`` without the credentials of its URLs and headers, and without the secrets of this process's environment.

    Secrets of the environment are also found percent-encoded, as in JSON, HTML and Python's ``repr``, and in base64.
    """
    forms, cores = _forms(_secrets_of_environment())
    for form in forms:
        if form in text:
            text = text.replace(form, HIDDEN)
    for core, whole in cores:
        if core in text:
            text = whole.sub(HIDDEN, text)
    if "://" in text:
        text = _USERINFO.sub(HIDDEN, text)
    if "=" in text or "3d" in text.lower():
        text = _ASSIGNED.sub(rf"\g<1>{HIDDEN}", _PARAMETER.sub(rf"\g<1>{HIDDEN}", text))
    if "%" in text:
        text = _ENCODED_USERINFO.sub(HIDDEN, text)
    return _HEADER.sub(rf"\g<1>{HIDDEN}", _AUTHORIZATION.sub(rf"\g<1>{HIDDEN}", text))


_ENCODED_USERINFO = re.compile(
    r"(?:(?<=%2F%2F)|(?<=252F))(?:(?!%(?:25)*2F)[^/\s'\"&])*?%(?:25)*3A[^/\s'\"&]*?(?=%(?:25)*40|@)", re.IGNORECASE
)


def holds_credentials(text: str) -> bool:
    """Tell whether ``text`` is or has a URL, or a ``/vsi`` path, with a password, token or signature in it.

    Parts that are percent-encoded, also twice, are looked at decoded.
    """
    for _ in range(3):
        if any(pattern.search(text) for pattern in (_USERINFO, _REFUSED, _ASSIGNED, _HEADER)):
            return True
        decoded = unquote(text)
        if decoded == text:
            return False
        text = decoded
    return False


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


def _secrets_of_environment() -> tuple[str, ...]:
    """Values of variables that are named like a secret."""
    return tuple(
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST and (_is_secret(name) or ("://" in value and _USERINFO.search(value)))
    )


@lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    """Tell whether a variable of that name holds a secret, and not the place of one."""
    return bool(_SECRET_NAME.search(name)) and not _NO_SECRET_NAME.search(name)


@lru_cache(maxsize=64)
def _forms(values: tuple[str, ...]) -> tuple[list[str], list[tuple[str, re.Pattern[str]]]]:
    """The texts that stand for secrets, the longest first, and base64 parts with what to hide around them."""
    secrets = {
        secret
        for value in values
        for secret in _parts(value)
        if len(secret) >= _SHORTEST and not (secret.startswith(("/", "~")) and os.path.exists(secret))
    }
    forms = {form for secret in secrets for form in _encoded(secret) if len(form) >= _SHORTEST}
    cores = {core for secret in secrets for core in _in_base64(secret)}
    alphabet = "[A-Za-z0-9+/_-]*"
    patterns = [(core, re.compile(f"{alphabet}{re.escape(core)}{alphabet}={{0,2}}")) for core in sorted(cores)]
    return sorted(forms, key=lambda form: (-len(form), form)), patterns


def _parts(value: str) -> Iterator[str]:
    """The secret, and the secrets in it: of ``user:password``, headers, connection strings, URLs and several lines."""
    if "://" in value:
        for userinfo in _USERINFO.findall(value):
            yield userinfo.partition(":")[2] or userinfo
        if value.lower().startswith(("http", "postgres", "redis", "amqp", "mysql", "s3")):
            return  # the rest of the URL is no secret
    yield value
    if re.fullmatch(r"[\w.@-]+:[^\s:]+", value):
        yield value.partition(":")[2]
    for header in re.split(r"[\r\n,]+", value):
        name, colon, content = header.partition(":")
        if colon and re.fullmatch(r"\s*[\w-]+", name) and content.startswith(" "):
            yield content.strip()
            yield content.strip().rpartition(" ")[2]
    for field in re.split(r"[;\n]", value):
        name, equals, content = field.partition("=")
        if equals and re.search(r"key|signature|password|pwd|secret|token", name, re.IGNORECASE):
            yield content
    for line in value.splitlines():
        if len(line) >= _SHORTEST_LINE and not line.startswith("-----"):
            yield line.strip()


def _encoded(secret: str) -> Iterable[str]:
    """The secret as it stands in plain text, URLs, JSON, HTML and Python."""
    percent = {quote(secret, safe=""), quote(secret), quote_plus(secret), quote(secret, safe="/:@!$&'()*+,;=")}
    percent |= {re.sub(r"%[0-9A-F]{2}", lambda match: match[0].lower(), each) for each in percent}
    percent |= {quote(each, safe="") for each in percent}
    escaped = html.escape(secret)
    in_html = {escaped, html.escape(secret, quote=False), escaped.replace("&#x27;", "&#39;")}
    quoted = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    quoted |= {each.replace("/", "\\/") for each in quoted}
    return {secret, *percent, *in_html, *quoted}


def _in_base64(secret: str) -> Iterator[str]:
    """The characters that base64 has for the secret wherever it stands, such as behind ``user:`` in a header."""
    content = secret.encode()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + content).decode()
        first = -(-shift * 8 // 6)
        last = (shift + len(content)) * 8 // 6
        core = encoded[first:last]
        if len(core) >= _SHORTEST:
            yield core
            yield core.replace("+", "-").replace("/", "_")
