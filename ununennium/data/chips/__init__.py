"""Chips: index, statistics, datasets, samplers, transforms and loaders."""
