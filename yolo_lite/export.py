"""Write a trained model for other runtimes: `python -m yolo_lite.export --checkpoint F --format onnx`.

Exit codes: 0 written and checked, 2 something that you can mend (one line says what); 130 Ctrl-C, 143 SIGTERM:
nothing is left behind.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.table import Table

from yolo_lite.deploy.export_options import add_limits, parse_input_size, requested_limits
from yolo_lite.deploy.exporting import SUFFIXES, Exported, Format, check_path, export_model
from yolo_lite.deploy.loading import load_weights
from yolo_lite.deploy.model_info import ModelInfo, Output, Suppression
from yolo_lite.deploy.option_names import check_names
from yolo_lite.ops.postprocess import MAX_DETECTIONS, PREDICT_IOU, PREDICT_SCORE
from yolo_lite.utils.console import run_command
from yolo_lite.utils.signals import raising_sigterm

log = logging.getLogger("yolo_lite.export")  # as a command, __name__ is __main__

USUAL_LIMITS = Suppression(PREDICT_SCORE, PREDICT_IOU, MAX_DETECTIONS)
# Names under which other tools have what this command alone has; the others are in option_names.py.
ELSEWHERE = {
    "--include": "--format",
    "--half": "--precision fp16",
    "--int8": "python -m yolo_lite.quantise the checkpoint",
    "--nms": "--output nms",
}


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.export",
        description="Write a trained model for other runtimes.",
        exit_on_error=False,
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="of train.py, or a .safetensors file")
    parser.add_argument("--format", type=Format, default="onnx", help="of the file")
    parser.add_argument("--out", type=str | None, default=None, help="the file; default: beside the checkpoint")
    parser.add_argument(
        "--output",
        type=Output | None,
        default=None,
        help="raw maps; decoded boxes and scores (default); or nms: what is left after suppression",
    )
    parser.add_argument("--precision", type=str, default="fp32", choices=("fp32", "fp16"), help="of the weights")
    parser.add_argument("--image_size", type=int | None, default=None, help="pixels; default: as trained")
    parser.add_argument(
        "--input_size",
        type=str,
        nargs="+",
        metavar="SIDE",
        default=None,
        help="height and width of an input of one size; default: any multiples of 32",
    )
    parser.add_argument("--batch", type=int | None, default=None, help="images at once; default: any number")
    add_limits(parser, USUAL_LIMITS)
    parser.add_argument("--overwrite", type=bool, default=False, help="replace a file that is there")
    return parser


def requested(config: Namespace, info: ModelInfo) -> ModelInfo:
    """What the arguments ask for, of a model.

    Raises:
        UserError: a size that the model does not take, or limits of a suppression that there is not to be.
    """
    output: Output = config.output or ("raw" if config.format == "safetensors" else "decoded")
    size = None if config.input_size is None else parse_input_size(config.input_size)
    image_size = max(size) if config.image_size is None and size is not None else config.image_size
    return replace(
        info.with_size(image_size),
        output=output,
        precision=config.precision,
        batch=config.batch,
        input_size=size,
        suppression=requested_limits(config, output, USUAL_LIMITS),
    )


def describe(exported: Exported, info: ModelInfo) -> None:
    """What was compared, and what was written."""
    table = Table(title=f"largest differences from PyTorch, {info.precision}")
    table.add_column("input")
    for name in ("boxes / image size", "scores", "detections", "unmatched"):
        table.add_column(name, justify="right")
    for d in exported.differences:
        shape = "x".join(map(str, d.shape))
        table.add_row(shape, f"{d.boxes:.1e}", f"{d.scores:.1e}", str(d.detections), str(d.unmatched))
    Console(soft_wrap=True).print(table)
    log.info(
        "%s: %.1f MB, %d classes, %d px", exported.path, exported.size / 1e6, len(info.class_names), info.image_size
    )


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    @raising_sigterm()
    def command() -> None:
        given, parser = sys.argv[1:] if args is None else args, build_parser()
        check_names(given, parser, ELSEWHERE)
        config = parser.parse_args(given)
        source = Path(config.checkpoint)
        path = Path(config.out) if config.out else source.with_suffix(SUFFIXES[config.format])
        check_path(path, config.format, config.overwrite)
        model, trained = load_weights(source)
        info = requested(config, trained)
        describe(export_model(model, info, config.format, path, config.overwrite), info)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
