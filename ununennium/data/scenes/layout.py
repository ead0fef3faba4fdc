"""Layout of a stack of dates for the model: dates as channels, or as an axis of their own."""

from __future__ import annotations

from ununennium.data.scenes.reader import FloatArray


def arrange(image: FloatArray, num_dates: int, layout: str) -> FloatArray:
    """An image as a model takes it.

    Args:
        image: (..., num_dates * bands, height, width), the bands of the first date first.
        num_dates: dates T.
        layout: ``channels`` or ``stack``.

    Returns:
        The image itself, or, for ``stack``, a view of shape (..., num_dates, bands, height, width).
    """
    return image if layout == "channels" else image.reshape(*image.shape[:-3], num_dates, -1, *image.shape[-2:])


def channels(num_bands: int, num_dates: int, layout: str) -> int:
    """Input channels of a model: all bands of all dates, or, for ``stack``, those of one date."""
    return num_bands * num_dates if layout == "channels" else num_bands
