"""Random numbers of the data side: each kind of decision has a stream of its own."""

from __future__ import annotations

import numpy as np

_STREAMS = ("order", "borders", "class", "rank", "balance", "chip")


def generator(stream: str, seed: int, epoch: int, number: int = 0) -> np.random.Generator:
    """The generator of one stream, a function of its arguments alone.

    Args:
        stream: ``order`` of chips, ``borders`` of regions; ``balance``, ``class`` and ``rank`` of all chips' places
            (the i-th number is chip i's); ``chip`` for what else is decided for chip ``number``.
        seed: of the run.
        epoch: counted from 0.
        number: of the chip.
    """
    return np.random.default_rng([_STREAMS.index(stream) + 1, seed, epoch, number])
