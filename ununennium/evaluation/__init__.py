"""Is the new model better? Holdout metrics, the gate that decides, and pictures to look at."""
