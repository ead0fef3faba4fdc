"""Ports of this machine that nobody listens on."""

from __future__ import annotations

import contextlib
import random
import socket

ABOVE = 10000
"""SeaweedFS takes a second port for gRPC, so far above each that it is given."""


def free_ports(count: int) -> list[int]:
    """Ports that are free now, and ``ABOVE`` above too.

    They are drawn, so that servers which start at once do not meet on the same ones.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(range(20000, 50000), 1000):
            try:
                for number in (port, port + ABOVE):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                break
    return found


def is_free(port: int) -> bool:
    """Whether nobody listens on ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port that was just left is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
