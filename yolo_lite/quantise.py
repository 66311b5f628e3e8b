"""Write a trained model in int8: `python -m yolo_lite.quantise --checkpoint F --data.root DIR --format onnx`.

Exit codes: 0 written, with no more lost than allowed; 1 int8 loses more than --max_loss, or takes more than --max_size,
and nothing was written; 2 something that you can mend (one line says what); 130 Ctrl-C, 143 SIGTERM: nothing is left
behind.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from yolo_lite.data.datamodule import SHAPES_ROOT, DetectionDataModule
from yolo_lite.deploy.export_options import add_limits, requested_limits
from yolo_lite.deploy.exporting import SUFFIXES, check_path
from yolo_lite.deploy.loading import load_weights
from yolo_lite.deploy.model_info import ModelInfo, Output, Suppression
from yolo_lite.deploy.option_names import check_names
from yolo_lite.deploy.quantisation import Measured, Quantised, QuantiseOptions, Quantiser, quantise_model
from yolo_lite.evaluation.coco_scores import format_score
from yolo_lite.ops.postprocess import EVAL_IOU, EVAL_SCORE, MAX_DETECTIONS
from yolo_lite.utils.console import run_command, table_console
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_target, replacing
from yolo_lite.utils.signals import raising_sigterm

log = logging.getLogger("yolo_lite.quantise")  # as a command, __name__ is __main__

SHOWN_LAYERS = 12
USUAL_LIMITS = Suppression(EVAL_SCORE, EVAL_IOU, MAX_DETECTIONS)


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.quantise",
        description="Write a trained model in int8, calibrated on your data.",
        exit_on_error=False,
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="of train.py, or a .safetensors file")
    parser.add_argument("--format", type=Quantiser, default="onnx", help="of the file")
    parser.add_argument("--out", type=str | None, default=None, help="the file; default: CHECKPOINT-int8 beside it")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace a file that is there")
    parser.add_argument("--json", type=str | None, default=None, help="write the numbers to this file")
    parser.add_argument("--output", type=Output, default="decoded", help="raw maps, decoded boxes, or nms")
    parser.add_argument("--image_size", type=int | None, default=None, help="pixels; default: as trained")
    parser.add_argument("--batch", type=int | None, default=None, help="images at once; default: any number")
    add_limits(parser, USUAL_LIMITS)
    parser.add_class_arguments(QuantiseOptions)
    skip = {"augment", "seed", "image_size", "multi_scale", "rect_validation"}
    parser.add_class_arguments(DetectionDataModule, "data", skip=skip, instantiate=False)
    return parser


def describe(result: Quantised) -> None:
    """What it costs and what it brings."""
    before, after = result.before, result.after
    table = Table(title=f"{result.path.name}: float32 and int8")
    for name in ("", "float32", "int8", ""):
        table.add_column(name, justify="right" if name else "left")
    share = f"{after.size / before.size:.1%}"
    table.add_row("size, MB", f"{before.size / 1e6:.2f}", f"{after.size / 1e6:.2f}", share)
    for title, one, other in (
        ("latency, ms (median)", before.latency.median, after.latency.median),
        ("latency, ms (p90)", before.latency.p90, after.latency.p90),
    ):
        table.add_row(title, f"{1000 * one:.1f}", f"{1000 * other:.1f}", f"{one / other:.2f} x as fast")
    for title, key in (("mAP50-95", "map_50_95"), ("mAP50", "map_50")):
        one, other = before.scores[key], after.scores[key]
        table.add_row(title, format_score(one), format_score(other), f"{other - one:+.4f}")
    console = table_console()
    console.print(table)
    console.print(damage_table(result))
    log.info("in float32 besides: all behind the head's last convolutions (softmax over the bins, sigmoid, boxes)")
    log.info("%s: %d of %d convolutions in int8", result.path, *counts(result))


def counts(result: Quantised) -> tuple[int, int]:
    """Convolutions in int8, and all."""
    return len(result.damages) - len(result.kept), len(result.damages)


def damage_table(result: Quantised) -> Table:
    """The worst layers, and which of them stayed in float."""
    total = sum(damage.amount for damage in result.damages)
    table = Table(title="convolutions, each alone in int8: how boxes and scores move, the worst first")
    table.add_column("layer")
    for name in ("damage", "of all", "weights", "now"):
        table.add_column(name, justify="right")
    names = {damage.layer for damage in result.kept}
    for place, damage in enumerate(result.damages):
        if place < SHOWN_LAYERS or damage.layer in names:
            share, precision = damage.amount / total if total else 0.0, "float32" if damage.layer in names else "int8"
            table.add_row(damage.layer, f"{damage.amount:.4f}", f"{share:.1%}", f"{damage.weights:,}", precision)
    return table


def to_json(result: Quantised) -> dict[str, Any]:
    """The numbers of both files: bytes, milliseconds for one image, COCO's mAP."""

    def numbers(one: Measured) -> dict[str, float]:
        times = {"latency_ms": 1000 * one.latency.median, "latency_p90_ms": 1000 * one.latency.p90}
        return {"bytes": one.size, **times, **{name: one.scores[name] for name in ("map_50_95", "map_50")}}

    quantised, convolutions = counts(result)
    facts = {"file": result.path.name, "float32": numbers(result.before), "int8": numbers(result.after)}
    kept = [damage.layer for damage in result.kept]
    return {**facts, "convolutions": convolutions, "convolutions_in_int8": quantised, "in_float32": kept}


def requested(config: Namespace, info: ModelInfo) -> ModelInfo:
    """What the arguments ask for, of a model.

    Raises:
        UserError: a size that the model does not take, or limits of a suppression that there is not to be.
    """
    limits = requested_limits(config, config.output, USUAL_LIMITS)
    return replace(info.with_size(config.image_size), output=config.output, batch=config.batch, suppression=limits)


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    @raising_sigterm()
    def command() -> None:
        given, parser = sys.argv[1:] if args is None else args, build_parser()
        check_names(given, parser, {"--nms": "--output nms"})
        config = parser.parse_args(given)
        if config.data.root is None and None in (config.data.train_annotations, config.data.val_annotations):
            raise UserError(
                "int8 is calibrated and scored on the data of the training: name its folder with --data.root "
                f"({SHAPES_ROOT} for a model of the drawn shapes)"
            )
        source = Path(config.checkpoint)
        path = Path(config.out) if config.out else source.with_name(f"{source.stem}-int8{SUFFIXES[config.format]}")
        check_path(path, config.format, config.overwrite)
        numbers_file = check_target("--json", config.json)
        options = QuantiseOptions(**{name: config[name] for name in QuantiseOptions.__dataclass_fields__})
        model, trained = load_weights(source)
        info = requested(config, trained)
        data = DetectionDataModule(**config.data.as_dict(), image_size=info.image_size)
        result = quantise_model(model, info, config.format, path, data, options, config.overwrite)
        describe(result)
        if numbers_file is not None:
            with replacing(numbers_file) as file:
                file.write(f"{json.dumps(to_json(result), indent=1)}\n".encode())

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
