"""The signals that ask a run to save and end."""

from __future__ import annotations

import signal

# SIGTERM is what schedulers and torchrun send, SIGUSR1 what SLURM sends on request before the time is up, SIGINT is
# Ctrl-C.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
