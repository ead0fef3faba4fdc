"""Tracking of metrics beside the run's own files."""

from __future__ import annotations

from ununennium.config.section import Location, Section


class TrackingConfig(Section):
    """Trackers that follow the training; none decides what comes out of it."""

    tensorboard: Location | None = None
    """Folder for TensorBoard's event files, in which each run gets a folder of its name; null for none."""
    mlflow: Location | None = None
    """MLflow's tracking URI, such as ``http://mlflow.example:5000`` or ``sqlite:///mlflow.db``; null for none."""
    mlflow_experiment: str | None = None
    """MLflow's experiment; the model's name if not given."""
