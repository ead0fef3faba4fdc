"""Ununennium: retrain Earth-observation models, promote them only when they are better, lose nothing.

The packages follow the path of the data: ``data`` -> ``training`` -> ``checkpoints`` -> ``evaluation`` ->
``inference``. ``flows`` (beside this package) chains them on Prefect; nothing in here imports Prefect.
"""

from ununennium import moved
from ununennium.version import __version__

__all__ = ["__version__"]

moved.install()
