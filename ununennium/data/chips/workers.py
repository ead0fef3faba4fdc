"""The processes that load chips: forked from a server that has nothing to break, and never in the way of a stop."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import signal
import threading

_STOPS = {signal.SIGTERM, signal.SIGINT}


def start_worker_server() -> None:
    """Start the process from which loader workers are forked, unless it runs already.

    A fork of the training process would copy the locks of GDAL and CUDA in whatever state they are; this server has
    imported what workers need and done nothing with it, so a worker starts in milliseconds. SIGTERM and SIGINT stay
    blocked in it and in the workers: they go to the whole process group when a run is asked to stop, and it is the
    training process that must finish its step, write a checkpoint and then end its workers.
    """
    multiprocessing.resource_tracker.ensure_running()  # its start unblocks both signals, so it comes first
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        multiprocessing.get_context("forkserver").set_forkserver_preload(["__main__", "ununennium.data.chips.dataset"])
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def obey_parent(worker: int) -> None:
    """In loader worker number ``worker``: end when the training process ends it or is gone, even if that was killed.

    PyTorch's workers look whether their parent process lives; theirs here is the server they are forked from, which in
    turn lives as long as they do. SIGTERM is blocked in them, so the one that counts is looked at for its sender.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def end_with_it() -> None:
        parent.join()
        os._exit(1)

    def end_for_it() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
            pass
        os._exit(1)

    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    for what in (end_with_it, end_for_it):
        threading.Thread(target=what, name=f"{what.__name__} {worker}", daemon=True).start()
