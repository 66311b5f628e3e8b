"""Scripts of the repository in processes of their own, which a signal to the laboratory reaches."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import IO

from benchmarks.lab_results import REPOSITORY
from yolo_lite.utils.errors import EXIT_SIGNAL, StoppedError, UserError


class Children:
    """The processes that are at work now. Once stopped, no other one starts.

    Attributes:
        stopped_by: the signal that asked for an end.
    """

    def __init__(self) -> None:
        self.stopped_by: int | None = None
        self.at_work: list[subprocess.Popen[bytes]] = []
        self.lock = threading.Lock()  # none starts while the others are told to end, so that none is missed

    def start(self, program: Sequence[str], options: Sequence[str], output: IO[str] | None) -> subprocess.Popen[bytes]:
        """Start a script or a module of the repository.

        Args:
            program, options: see `call`.
            output: what takes what it prints; None: it is shown.

        Raises:
            StoppedError: a signal has asked for an end.
        """
        with self.lock:
            if self.stopped_by is not None:
                told = f"before {' '.join(program)}; the same command goes on from here"
                raise StoppedError(told, self.stopped_by)
            command = [sys.executable, *program, *options]
            process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output)
            self.at_work.append(process)
            return process

    def wait_for(self, process: subprocess.Popen[bytes]) -> int:
        """The exit code of a process, as a shell gives it."""
        try:
            code = process.wait()
        finally:
            self.at_work.remove(process)
        return code if code >= 0 else EXIT_SIGNAL - code  # killed by a signal, before it could answer it

    def stop(self, number: int) -> int:
        """Start none any more. The terminal sends Ctrl-C to what is at work as well; SIGTERM is passed on here.

        Returns:
            How many are at work.
        """
        with self.lock:
            self.stopped_by = number
            if number == signal.SIGTERM:
                for process in list(self.at_work):  # one that ends meanwhile leaves it
                    process.send_signal(number)
            return len(self.at_work)


def call(program: Sequence[str], options: Sequence[str], output: Path | None, children: Children) -> None:
    """Run a script or a module of the repository, as a user would.

    Args:
        program: file of the script, or -m and the module's name.
        options: its own.
        output: file that what it prints is added to; None: it is shown.
        children: has the process for as long as it runs.

    Raises:
        StoppedError: it was stopped by a signal.
        UserError: it failed; it has said why.
    """
    with open(output, "a") if output is not None else nullcontext() as file:
        code = children.wait_for(children.start(program, options, file))
    if code > EXIT_SIGNAL:
        raise StoppedError(f"in {' '.join(program)}; the same command goes on from here", code - EXIT_SIGNAL)
    if code:
        said = f"; {output} says why" if output is not None else ""
        raise UserError(f"{' '.join(program)} ended with {code}{said}: {shlex.join(options)}")
