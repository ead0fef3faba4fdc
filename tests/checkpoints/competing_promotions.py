"""Promotes until it has won so often. Usage: competing_promotions.py STORAGE VERSION WINS; prints its conflicts."""

from __future__ import annotations

import sys

from ununennium.checkpoints.registry import Registry
from ununennium.errors import PromotionConflict


def main(storage: str, version: str, wins: str) -> None:
    registry, won, conflicts = Registry(storage, "roofs"), 0, 0
    while won < int(wins):
        current = registry.current()
        generation = current.generation if current else 0
        gate = {"verdict": "promoted"}
        try:
            registry.promote(version, expected_generation=generation, gate=gate, actor="p", run_id="r")
            won += 1
        except PromotionConflict:
            conflicts += 1
    print(conflicts)


if __name__ == "__main__":
    main(*sys.argv[1:])
