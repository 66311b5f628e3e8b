"""Score a checkpoint. `python eval.py --help` lists the arguments."""

from __future__ import annotations

import sys

from yolo_lite.evaluation.run import evaluate
from yolo_lite.utils.console import run_command


def main(args: list[str] | None = None) -> int:
    """Score with command-line arguments (None: those of the process). Returns the exit code."""
    return run_command(lambda: evaluate(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
