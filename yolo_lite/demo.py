"""A page that shows what a model finds: `python -m yolo_lite.demo --model best.onnx`, then `python -m http.server`.

Exit codes: 0 written, 2 something that you can mend (one line says what); 130 Ctrl-C, 143 SIGTERM: nothing is left
behind.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from yolo_lite.deploy.demo_folder import find_runtime, readable_info, write_demo
from yolo_lite.utils.console import run_command
from yolo_lite.utils.signals import raising_sigterm

log = logging.getLogger("yolo_lite.demo")  # as a command, __name__ is __main__


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.demo",
        description="Write a folder with a page that runs a model in the browser.",
        exit_on_error=False,
    )
    parser.add_argument("--model", type=str, required=True, help="an .onnx file with decoded or nms outputs")
    parser.add_argument("--out", type=str, default="demo", help="the folder; it must not be there, or be empty")
    parser.add_argument(
        "--runtime",
        type=str | None,
        default=None,
        help="the npm package onnxruntime-web; default: in node_modules here, or in a folder above",
    )
    return parser


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    @raising_sigterm()
    def command() -> None:
        config = build_parser().parse_args(args)
        model, folder = Path(config.model), Path(config.out)
        info = readable_info(model)  # before the runtime: nobody should install one for a model that does not go
        runtime = find_runtime(Path(config.runtime) if config.runtime is not None else None, Path.cwd())
        size = write_demo(model, info, runtime, folder)
        log.info("%s: %.1f MB, nothing of it is fetched from elsewhere", folder, size / 1e6)
        log.info("python -m http.server --directory %s    and open http://localhost:8000", folder)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
