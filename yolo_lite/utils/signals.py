"""The signals that ask a run to save and end."""

from __future__ import annotations

import ctypes
import signal
import sys
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
        # A second one is not to end the cleaning up. Not SIG_IGN, which a process that is just being started inherits.
        signal.signal(number, lambda *_: None)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def signal_stack(content: Any = None) -> Any:
    """The stack that this thread's signal handlers run on, as the system notes it (`stack_t`, which differs between
    systems); None: another system than Linux.

    Args:
        content: a stack to set; None: only look.
    """
    if sys.platform != "linux":
        return None
    found = (ctypes.c_uint64 * 8)()  # stack_t takes three
    ctypes.CDLL(None).sigaltstack(content, found)
    return found


@contextmanager
def keeping_signal_stack() -> Iterator[None]:
    """Afterwards, signals are handled on the same stack as before.

    Each `openvino.Core` that compiles for the CPU sets a stack of its own for the signals of the thread, and when it is
    freed, it puts back the one that it found. Of two such cores the first is freed, then the second: its stack is the
    first one's, which is gone, and the next signal, Ctrl-C too, is a segmentation fault (sigaltstack in OpenVINO's
    intel_cpu plugin, as of 2026.4). A core whose stack is not the current one puts nothing back.
    """
    before = signal_stack()
    try:
        yield
    finally:
        signal_stack(before)
