"""Maps from trained models: blended tiles, in memory that does not grow with the scene's height, written as COGs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ununennium.importing import lazy_names

if TYPE_CHECKING:
    from ununennium.inference.predictor import Predictor

__all__ = ["Predictor"]

__getattr__, __dir__ = lazy_names(__name__, {"Predictor": ".predictor"})
