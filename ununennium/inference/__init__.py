"""Maps from trained models: blended tiles, in memory that does not grow with the scene's height, written as COGs."""
