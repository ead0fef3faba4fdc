"""Predict a scene strip by strip: windows, tiles, the forward pass, blending, and writing rasters."""
