"""Maps from trained models: blended tiles, in memory that does not grow with the scene's height, written as COGs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ununennium.inference.predictor import Predictor

__all__ = ["Predictor"]


def __getattr__(name: str) -> Any:
    """``Predictor``, imported when it is asked for: parts of this package are needed where rasterio is not."""
    if name == "Predictor":
        from ununennium.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
