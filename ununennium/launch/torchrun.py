"""``torchrun`` that always ends: what the launcher starts instead of ``python -m torch.distributed.run``.

A second SIGTERM reaches torchrun while it ends its ranks for the first one (a scheduler sends it to every process, and
so does the death of the caller), and interrupts it before it has stopped the threads that repeat the ranks' output. The
interpreter would wait for those for ever. Nothing is lost by not waiting: the ranks write their own files.
"""

from __future__ import annotations

import os
import sys
import traceback

from torch.distributed import run


def main() -> int:
    """Exit status: 0 if all ranks ended well, 1 if not."""
    try:
        run.main()
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    status = 1
    try:
        status = main()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:  # also where whoever read the output is gone, and nothing can be said any more
        os._exit(status)
