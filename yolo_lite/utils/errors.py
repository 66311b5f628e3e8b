"""The error that a user can mend, and the exit codes of the commands."""

from __future__ import annotations

import signal

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_NON_FINITE_LOSS = 3
EXIT_SIGNAL = 128  # plus the number of the signal, as shells do


class UserError(Exception):
    """Something that the user gave is wrong. The message is one line: the thing, its value and the way out."""

    exit_code = EXIT_USER_ERROR
    label = "error: "


class MissingPackageError(UserError):
    """What was asked for needs a package that is not installed."""


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; training stopped with a checkpoint."""

    exit_code = EXIT_NON_FINITE_LOSS


class FinishedError(UserError):
    """There is nothing left to do, which is no error where the same command is given again and again."""

    exit_code = EXIT_OK
    label = ""


class StoppedError(UserError):
    """A signal asked for an end; the state is saved.

    Args:
        message: when, and what was saved where.
        signal_number: the signal; None: another process got it, SIGTERM as good as certainly.
    """

    label = ""

    def __init__(self, message: str, signal_number: int | None = None) -> None:
        number = signal_number or signal.SIGTERM
        super().__init__(f"stopped by {signal.Signals(number).name} {message}")
        self.exit_code = EXIT_SIGNAL + number
