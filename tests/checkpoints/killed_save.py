"""Saves checkpoint 2 beside checkpoint 1 and deletes 1, killed at a chosen I/O call. Used by test_store.py.

Usage: killed_save.py FOLDER 0          counts the calls, prints their number
       killed_save.py FOLDER "each N"   for each of N calls: a child is killed there, then the folder is looked at
"""

from __future__ import annotations

import builtins
import json
import os
import sys

import torch

from tests.checkpoints.stored import look
from ununennium.checkpoints.store import CheckpointStore


def state(number: int) -> dict:
    return {"model": torch.full((8, 8), float(number)), "number": number}


def count_calls(kill_at: int) -> list[int]:
    """Wrap the system calls that change files; end the process, as a power cut would, at call ``kill_at``."""
    made = [0]

    def wrap(owner, name):
        real = getattr(owner, name)

        def called(*args, **kwargs):
            if name == "open" and not (set(kwargs.get("mode", args[1] if len(args) > 1 else "r")) & set("wxa")):
                return real(*args, **kwargs)
            made[0] += 1
            if made[0] == kill_at:
                os._exit(9)
            return real(*args, **kwargs)

        setattr(owner, name, called)

    for name in ("fsync", "replace", "link", "unlink", "makedirs"):
        wrap(os, name)
    wrap(builtins, "open")
    return made


def save_and_delete(folder: str, kill_at: int) -> int:
    """Returns the number of calls."""
    store = CheckpointStore(folder)
    old = store.latest()
    calls = count_calls(kill_at)
    store.save(state(2), epoch=2, step=2)
    store.delete(old)
    return calls[0]


def main(folder: str, what: str) -> None:
    if what == "0":
        CheckpointStore(folder).save(state(1), epoch=1, step=1)
        print(save_and_delete(folder, -1))
        return
    outcomes = []
    for call in range(1, int(what.split()[1]) + 1):
        place = os.path.join(folder, f"call{call}")
        CheckpointStore(place).save(state(1), epoch=1, step=1)
        child = os.fork()
        if child == 0:
            save_and_delete(place, call)
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        outcome = {"call": call, "killed": status == 9, **look(place)}
        store = CheckpointStore(place)  # the restart
        new = store.save(state(2), epoch=2, step=2)
        for old in store.manifests():
            if old != new:
                store.delete(old)
        outcomes.append({**outcome, "after_restart": look(place)["complete"]})
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
