"""Targets: what a model is to predict, from label rasters, shapes, classes of scenes, or values."""
