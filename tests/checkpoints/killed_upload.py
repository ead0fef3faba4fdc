"""Saves checkpoint 2 beside checkpoint 1 on S3 and deletes 1, killed at a chosen request. Used by test_killed_on_s3.py.

Usage: killed_upload.py URL SPOOL VALUES background|direct 0       counts the requests, prints their number
       killed_upload.py URL SPOOL VALUES background|direct "each N"  for each of N requests, a child is killed before
       the request is sent, another one after its answer (not of a large state); then the folder is looked
       at, and a restart repairs it
"""

from __future__ import annotations

import json
import os
import signal
import sys

import torch

from tests.checkpoints.stored import look
from ununennium.checkpoints.manifest import SavePoint
from ununennium.checkpoints.savers import BackgroundSaver, DirectSaver, upload_left
from ununennium.checkpoints.store import CheckpointStore

FLUSH_S = 60.0


def state(number: int, values: int) -> dict:
    return {"model": torch.full((values,), float(number)), "number": number}


def kill_at(count: int, *, answered: bool) -> list[int]:
    """Wrap s3fs's one way to the server; die, as by ``kill -9``, at the request ``count``."""
    import s3fs

    real, made = s3fs.S3FileSystem._call_s3, [0]

    async def called(self, *arguments, **options):
        made[0] += 1
        mine = made[0]
        if mine == count and not answered:
            os.kill(os.getpid(), signal.SIGKILL)
        result = await real(self, *arguments, **options)
        if mine == count and answered:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    s3fs.S3FileSystem._call_s3 = called
    return made


def save_both(url: str, values: int, way: str, count: int, *, answered: bool = False) -> int:
    """Save 1, then 2, which deletes 1; returns the number of requests of the second save."""
    store = CheckpointStore(url)
    kind = DirectSaver if way == "direct" else BackgroundSaver
    saver = kind(store, 1, [], set())
    saver.save(state(1, values), SavePoint(epoch=1, step=1, score=1.0))
    saver.flush(FLUSH_S)
    made = kill_at(count, answered=answered)
    saver.save(state(2, values), SavePoint(epoch=2, step=2, score=0.5))
    saver.flush(FLUSH_S)
    saver.close()
    return made[0]


def restart(url: str, values: int, way: str) -> None:
    """What the next process does: upload what is left, and save again where it went on from."""
    upload_left(url)
    if 2 not in look(url)["complete"]:
        saver = DirectSaver(CheckpointStore(url), 1, [], set())
        saver.save(state(2, values), SavePoint(epoch=2, step=2, score=0.5))


def main(url: str, spool: str, values: str, way: str, what: str) -> None:
    os.environ["UNUNENNIUM_SPOOL"] = spool
    if what == "0":
        print(save_both(url, int(values), way, -1))
        return
    outcomes = []
    for call in range(1, int(what.split()[1]) + 1):
        for answered in (False, True) if int(values) < 1000 else (False,):
            place = f"{url}/call{call}-{answered}"
            child = os.fork()
            if child == 0:
                save_both(place, int(values), way, call, answered=answered)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            outcome = {"call": call, "answered": answered, "killed": status == -9, **look(place)}
            restart(place, int(values), way)
            after = look(place)
            outcomes.append({**outcome, "after_restart": after["complete"], "dangling_after": after["dangling"]})
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(*sys.argv[1:])
