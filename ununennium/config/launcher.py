"""Launcher: start of the training processes."""

from __future__ import annotations

from pydantic import Field

from ununennium.config.section import Section


class LauncherConfig(Section):
    """Start, supervision and end of the training processes."""

    nproc_per_node: int = Field(default=1, ge=1, le=1024)
    """Processes on each machine, one per GPU."""
    timeout_s: float | None = Field(default=None, gt=0.0)
    """Stop the training, with a checkpoint, after so many seconds."""
    grace_s: float = Field(default=25.0, gt=0.0)
    """Seconds to write a checkpoint after being asked to stop, before being killed."""
    stall_timeout_s: float | None = Field(default=1800.0, gt=0.0)
    """End the training, and say where each process stands, if no batch was done for so long; null to wait for ever."""
    max_restarts: int = Field(default=2, ge=0)
    """Times that a process that was killed, or lost its connection, is started again from the newest checkpoint."""
