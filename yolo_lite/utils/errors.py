"""The error that a user can mend, and the exit codes of the commands."""

from __future__ import annotations

EXIT_OK = 0
EXIT_USER_ERROR = 2
EXIT_NON_FINITE_LOSS = 3


class UserError(Exception):
    """Something that the user gave is wrong. The message is one line: the thing, its value and the way out."""

    exit_code = EXIT_USER_ERROR


class NonFiniteLossError(UserError):
    """The loss became NaN or infinite; training stopped with a checkpoint."""

    exit_code = EXIT_NON_FINITE_LOSS
