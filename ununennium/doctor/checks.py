"""All looks, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

from ununennium.doctor.api import Api
from ununennium.doctor.finding import Finding
from ununennium.doctor.machine import look_at_disks, look_at_gpu, look_at_spools
from ununennium.doctor.packages import look_at_bytecode, look_at_packages
from ununennium.doctor.server import look_at_server
from ununennium.doctor.storage import look_at_storage


def run_checks(storage: str, *, api_url: str | None = None, least_free_gb: float = 2.0) -> Iterator[Finding]:
    """Look at packages, machine, storage and server; a finding each, as they come.

    Args:
        storage: folder or URL that holds runs and the registry.
        api_url: Prefect's API; that of the environment if not given.
        least_free_gb: less than so much room on a disk is a problem.
    """
    yield from look_at_packages()
    yield from look_at_bytecode()
    yield from look_at_gpu()
    yield from look_at_disks(storage, least_free_gb)
    yield from look_at_storage(storage)
    yield from look_at_spools()
    yield from look_at_server(Api(api_url) if api_url else Api.of_environment())
