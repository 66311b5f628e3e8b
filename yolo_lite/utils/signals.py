"""The signals that ask a run to save and end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# SIGTERM is what schedulers and torchrun send, SIGUSR1 what SLURM sends on request before the time is up, SIGINT is
# Ctrl-C.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Terminated(KeyboardInterrupt):
    """SIGTERM, as what Ctrl-C is in Python: it goes past all that handles errors, and everything is cleaned up."""


@contextmanager
def raising_sigterm() -> Iterator[None]:
    """SIGTERM ends the block by `Terminated`; otherwise it would end the process and leave what is half-written.

    A handler that is there already stays, and so does everything in another thread than the main one.
    """
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one is not to end the cleaning up
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
