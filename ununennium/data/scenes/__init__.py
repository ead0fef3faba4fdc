"""Scenes: catalog, bands, georeference, alignment, and reading of rasters and vector files on any filesystem."""
