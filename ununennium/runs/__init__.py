"""Runs: their files, records, listing and heartbeat."""
