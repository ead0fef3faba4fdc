"""Reports of a run: rows for a terminal, Markdown for Prefect, and one self-contained page; no numerics."""

from ununennium.report.rows import (
    MAX_PICTURE_BYTES,
    closing_rows,
    data_uri,
    gate_rows,
    markdown,
    metric_rows,
    number,
)

__all__ = ["MAX_PICTURE_BYTES", "closing_rows", "data_uri", "gate_rows", "markdown", "metric_rows", "number"]
