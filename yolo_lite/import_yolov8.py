"""Make a checkpoint of one of the original YOLOv8 trainer: `python -m yolo_lite.import_yolov8 FILE --out ours.ckpt`.

Exit codes: 0 written, 2 something that you can mend (one line says what).
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import lightning as L
import torch
from jsonargparse import ArgumentParser

import yolo_lite
from yolo_lite.deploy.model_info import check_image_size
from yolo_lite.imports.yolov8 import read_yolov8
from yolo_lite.training.module import DetectionModule
from yolo_lite.utils.checkpoints import CHECKPOINT_FORMAT
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_new, check_target, replacing

log = logging.getLogger("yolo_lite.import_yolov8")  # as a command, __name__ is __main__

USUAL_SIZE = 640


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.import_yolov8",
        description="Make a checkpoint of one of the original YOLOv8 trainer.",
        exit_on_error=False,
    )
    parser.add_argument("file", type=str, metavar="FILE", help="a .pt file of a detector, n to x")
    parser.add_argument("--out", type=str, required=True, help="the checkpoint to write, *.ckpt")
    parser.add_argument("--image_size", type=int | None, default=None, help="pixels; default: as trained, else 640")
    parser.add_argument("--overwrite", type=bool, default=False, help="replace a file that is there")
    return parser


def import_file(source: Path, target: Path, image_size: int | None, overwrite: bool) -> None:
    """Read, convert, write.

    Raises:
        UserError: the file or the image size cannot be used, or the target is there or has no name of a checkpoint.
    """
    if target.suffix != ".ckpt":
        raise UserError(f"--out {target}: a checkpoint must be called *.ckpt, or it is not known again")
    check_new(target, overwrite)
    if image_size is not None:
        check_image_size(image_size)
    found = read_yolov8(source)
    size = image_size or found.image_size or USUAL_SIZE
    module = DetectionModule(found.variant, found.class_names, size)
    module.model.load_state_dict(found.model.state_dict())
    checkpoint = {
        "state_dict": module.state_dict(),
        "hyper_parameters": dict(module.hparams),
        "pytorch-lightning_version": L.__version__,
        "yolo_lite": {
            "format": CHECKPOINT_FORMAT,
            "version": yolo_lite.__version__,
            "class_names": found.class_names,
            "variant": found.variant,
            "image_size": size,
            "imported_from": source.name,
        },
    }
    with replacing(target) as file:
        torch.save(checkpoint, file)
    log.info("%s: %s, %d classes, %d px", target, found.variant, len(found.class_names), size)
    log.info("the weights keep the licence that %s came with; this program does not change it", source.name)


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def command() -> None:
        config = build_parser().parse_args(args)
        target = check_target("--out", config.out)
        assert target is not None
        import_file(Path(config.file), target, config.image_size, config.overwrite)

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
