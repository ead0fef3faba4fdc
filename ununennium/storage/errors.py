"""Errors of storage, told apart by the server's answer and not by the exception that a client made of it.

Clients raise what they like: botocore's connection errors are no ``OSError``, and the same refused condition comes
as one exception from one server and as another from the next. The HTTP status is the same everywhere.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from ununennium.errors import CredentialsError, StorageError, StorageUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_BROKEN_ON_THE_WAY = {"BadDigest", "IncompleteBody", "RequestTimeout", "SlowDown", "XAmzContentSHA256Mismatch"}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError"}
_NO_ANSWER = {"ConnectionError", "HTTPClientError", "IncompleteReadError", "TimeoutError"}  # Python's and botocore's
_NO_ANSWER |= {"ClientConnectionError", "ClientPayloadError"}  # aiohttp's


class DiskFull(StorageError):
    """No space, or no quota, is left on a local disk."""


@contextlib.contextmanager
def translated_full_disk(location: str) -> Iterator[None]:
    """Turn the errors of a full disk at ``location`` into a ``DiskFull`` that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(
                f"no space left to write {location} ({error.strerror}): free some or choose another place; "
                "everything saved before is intact"
            ) from error
        raise


@contextlib.contextmanager
def translated_errors(verb: str, url: str) -> Iterator[None]:
    """Let ``FileExistsError`` and ``FileNotFoundError`` through; make all else a ``StorageError`` naming ``url``."""
    try:
        with translated_full_disk(url):
            yield
    except StorageError:
        raise
    except Exception as error:
        status, code = _answer(error)
        if code != "NoSuchBucket" and (isinstance(error, FileNotFoundError) or status == 404):
            raise FileNotFoundError(errno.ENOENT, "no such object", url) from error
        raise _translated(error, status, code, verb, url) from error


def _translated(error: Exception, status: int, code: str, verb: str, url: str) -> Exception:
    what = f"{url} could not be {verb}"
    detail = f"{type(error).__name__}: {error}"
    kinds = {kind.__name__ for seen in _causes(error) for kind in type(seen).__mro__}
    if isinstance(error, FileExistsError) or status in (409, 412):
        return FileExistsError(errno.EEXIST, "exists already", url)
    if code == "NoSuchBucket":
        return StorageError(f"{what}: there is no such bucket; create it, or correct the URL or the endpoint")
    if status in (401, 403) or kinds & _NO_CREDENTIALS:
        return CredentialsError(
            f"{what}: the server refused ({code or type(error).__name__}: {error}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to credentials that may read, write, list and delete there, and "
            "AWS_ENDPOINT_URL_S3 to their server if it is not AWS"
        )
    if status == 429 or status >= 500 or code in _BROKEN_ON_THE_WAY or (not status and kinds & _NO_ANSWER):
        return StorageUnavailable(f"{what}, for now: {detail}")
    return StorageError(f"{what}: {detail}")


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _answer(error: BaseException) -> tuple[int, str]:
    """HTTP status and error code of the answer behind ``error``; 0 and nothing if there was none."""
    for seen in _causes(error):
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            code = str(response.get("Error", {}).get("Code", ""))
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return int(status or (code if code.isdigit() else 0)), code
    return 0, ""
