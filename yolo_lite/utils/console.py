"""How the commands speak: one log format, one line for an error, an exit code."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Callable

from jsonargparse import ArgumentError
from rich.console import Console

from yolo_lite.utils.distributed import is_main_process
from yolo_lite.utils.errors import EXIT_OK, EXIT_SIGNAL, EXIT_USER_ERROR, StoppedError, UserError
from yolo_lite.utils.signals import Terminated

PAPER_WIDTH = 160  # columns of a table that nobody looks at on a terminal


def set_up_logging() -> None:
    """Our messages in full, those of the libraries from warnings up, without the ones that ask for nothing."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    ours = logging.getLogger("yolo_lite")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO)
    ours.propagate = False
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for pattern in (
        ".*does not have many workers.*",
        ".*Trying to infer the `batch_size`.*",
        ".*The number of training batches.*",
        ".*LightningCLI's args parameter is intended.*",
        ".*LeafSpec.* is deprecated.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*lr_scheduler.step.*before.*optimizer.step.*",
        ".*It is recommended to use `self.log.*sync_dist.*",  # what we log is equal on all processes, or rank 0's own
        ".*in eval mode at the start of training.*",  # what is frozen
        ".*could not find the monitored key.*",  # before the first validation
        ".*your dataloader is not resumable.*",  # the data module keeps its position
    ):
        warnings.filterwarnings("ignore", pattern)


def run_command(command: Callable[[], None]) -> int:
    """Run a command; what a user can mend becomes one line on stderr. Returns the exit code."""
    set_up_logging()
    try:
        command()
    except StoppedError as error:
        # The same on every process. The launcher kills the rest of a run in which a process ends with anything but 0.
        if not is_main_process():
            return EXIT_OK
        print(one_line(str(error)), file=sys.stderr)
        return error.exit_code
    except UserError as error:
        print(f"{error.label}{one_line(original_message(error))}", file=sys.stderr)
        return error.exit_code
    except Terminated:
        print("stopped by SIGTERM", file=sys.stderr)
        return EXIT_SIGNAL + signal.SIGTERM
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_SIGNAL + signal.SIGINT
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning's answer to one in its loops
            print("interrupted; nothing was saved since the last checkpoint", file=sys.stderr)
            return EXIT_SIGNAL + signal.SIGINT
        raise
    except UnicodeDecodeError as error:
        print(f"error: a configuration file is not UTF-8: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except ArgumentError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def original_message(error: UserError) -> str:
    """What was said where the error arose: a loader process hands its errors on with its traceback around them."""
    message = str(error)
    if "Original Traceback" not in message:
        return message
    return message.rstrip().splitlines()[-1].partition(": ")[2]


def one_line(message: str) -> str:
    """The lines of a message, joined: a parser's, or one that quotes a name with a line break."""
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def table_console() -> Console:
    """Where tables go: as wide as the terminal; elsewhere wide enough, for rich would cut tables to 80 columns."""
    console = Console(soft_wrap=True)
    if not console.is_terminal:
        console.width = PAPER_WIDTH
    return console


def counted(number: int, noun: str) -> str:
    """`1 image`, `2 images`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def clock(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
