"""Train a detector. `python train.py --help` lists everything that can be set."""

from __future__ import annotations

import sys
from pathlib import Path

from yolo_lite.training.run import train
from yolo_lite.utils.console import run_command

DEFAULT_CONFIG = Path(__file__).parent / "configs" / "shapes.yaml"


def main(args: list[str] | None = None) -> int:
    """Train with command-line arguments (None: those of the process). Returns the exit code."""
    arguments = sys.argv[1:] if args is None else args
    return run_command(lambda: train(arguments or ["--config", str(DEFAULT_CONFIG)]))


if __name__ == "__main__":
    sys.exit(main())
