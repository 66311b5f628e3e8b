"""A process that does not outlive its launcher."""

from __future__ import annotations

import os
import threading
import time

WATCH_SECONDS = 2.0


def follow_parent() -> None:
    """End this process soon after the launcher that started it has died.

    Whoever loses its neighbours may wait in a collective for as long as the backend's timeout, half an hour with NCCL.
    Does nothing in a process that no launcher started.
    """
    if "LOCAL_RANK" not in os.environ and "SLURM_PROCID" not in os.environ:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
