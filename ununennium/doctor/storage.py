"""The storage of runs and registry: can it be written, and does it keep two writers apart?"""

from __future__ import annotations

import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

from ununennium.doctor.clock import look_at_clock
from ununennium.doctor.finding import Finding
from ununennium.errors import ConfigError, CredentialsError, StorageUnavailable, UnunenniumError
from ununennium.storage.open import check_exclusive, check_writable, open_storage, resolve_storage

_TIMEOUT_S = 10


def look_at_storage(url: str) -> Iterator[Finding]:
    """Write, create exclusively, and remove; and compare clocks with the server of an object store."""
    root = resolve_storage(url)
    try:
        storage = open_storage(root)
        check_writable(storage, patience_s=0.0)
    except (UnunenniumError, OSError) as error:
        yield Finding("storage", "problem", str(error), _remedy(error))
    else:
        try:
            check_exclusive(storage, unsafe_single_writer=False, patience_s=0.0)
            yield Finding("storage", "ok", f"{root} can be written, and of two writers only one succeeds")
        except (UnunenniumError, OSError) as error:
            remedy = "take a store with conditional writes (If-None-Match), or a local folder"
            yield Finding("storage", "problem", str(error), remedy)
    if root.startswith(("s3://", "s3a://")):
        yield from _clock_of_s3()


def _remedy(error: Exception) -> str:
    if isinstance(error, CredentialsError):
        return "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    if isinstance(error, StorageUnavailable):
        return "see whether its server runs, and whether AWS_ENDPOINT_URL_S3 is its address"
    if isinstance(error, ConfigError):
        return error.remedy
    return "correct --storage (UNUNENNIUM_STORAGE), or the rights of the folder or bucket"


def _clock_of_s3() -> Iterator[Finding]:
    """Any answer says what time it is there, a refusal, too."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = endpoint or f"https://s3.{region}.amazonaws.com"
    asked = time.time()
    try:
        with urllib.request.urlopen(endpoint, timeout=_TIMEOUT_S) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as refusal:
        date = refusal.headers.get("Date")
    except (urllib.error.URLError, OSError, ValueError):
        return  # that it does not answer has been said
    yield from look_at_clock(f"the object store ({endpoint})", date, asked)
