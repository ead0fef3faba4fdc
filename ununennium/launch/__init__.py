"""Launch training under torchrun: start, watch, restart, result. No torch here."""
