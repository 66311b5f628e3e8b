"""Scoring a checkpoint, from arguments to table and JSON."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yolo_lite.data.classes import check_classes
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.evaluation.coco_scores import CocoScores, format_score
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.stopping import explaining
from yolo_lite.training.trainer import SILENT, Trainer
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.watchdog import follow_parent

log = logging.getLogger(__name__)

# Short names, as detection people write them; every other number keeps its name.
JSON_NAMES = {"map_50_95": "map"}


def build_parser() -> LightningArgumentParser:
    """The arguments of eval.py."""
    parser = LightningArgumentParser(
        prog="eval.py", description="Score a checkpoint with COCO's 12 numbers.", exit_on_error=False
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="checkpoint written by train.py")
    parser.add_argument("--split", type=Literal["train", "val", "test"], default="val", help="which images")
    parser.add_argument("--json", type=str | None, default=None, help="write the numbers to this file")
    parser.add_lightning_class_args(Trainer, "trainer", required=False)
    parser.set_defaults({f"trainer.{name}": value for name, value in SILENT.items()})
    skip = {"augment", "seed", "image_size"}
    parser.add_class_arguments(DetectionDataModule, "data", skip=skip, instantiate=False)
    parser.add_argument("--data.image_size", type=int | None, default=None, help="pixels; default: as trained")
    return parser


def evaluate(args: list[str]) -> None:
    """Score as the arguments say.

    Raises:
        UserError: checkpoint or data are not what they should be.
    """
    follow_parent()
    parser = build_parser()
    config = parser.parse_args(args)
    path = Path(config.checkpoint)
    read_checkpoint(path)
    target = Path(config.json) if config.json else None
    if target is not None and not target.resolve().parent.is_dir():
        raise UserError(f"no folder {target.resolve().parent} to write --json {target} to")
    if target is not None and target.is_dir():
        raise UserError(f"--json {target} is a folder: give the name of a file")
    module = DetectionModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    settings = config.data.as_dict()
    settings["image_size"] = settings["image_size"] or module.image_size
    data = DetectionDataModule(**settings)
    data.eval_split = config.split
    check_classes(module.class_names, data.eval_index.class_names)
    try:
        trainer = Trainer(**parser.instantiate_classes(config).trainer)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(str(error)) from error
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches=0 leaves nothing to score: leave it out")
    with explaining(data, module):
        trainer.validate(module, datamodule=data, verbose=False)
    assert module.scores is not None
    if trainer.is_global_zero:
        if target is not None:
            write_json(target, module.scores, {"checkpoint": str(path), "split": config.split, **image_settings(data)})
        print_scores(module.scores, f"{path} on {config.split}, {data.image_size} px")


def image_settings(data: DetectionDataModule) -> dict[str, Any]:
    """What the numbers depend on besides weights and data."""
    return {"image_size": data.image_size, "data_root": str(data.root) if data.root else None}


def print_scores(scores: CocoScores, title: str) -> None:
    """COCO's 12 numbers and per-class AP as a table."""
    table = Table(title=escape(title))
    table.add_column("number")
    table.add_column("value", justify="right")
    for name, value in scores.numbers.items():
        table.add_row(name, format_score(value))
    table.add_section()
    for name, value in scores.per_class.items():
        table.add_row(escape(f"AP {name}"), format_score(value))
    Console(soft_wrap=True).print(table)
    log.info("%d images, %d detections", scores.num_images, scores.num_detections)


def write_json(path: Path, scores: CocoScores, facts: dict[str, Any]) -> None:
    """All numbers, written at once or not at all."""
    numbers = {JSON_NAMES.get(name, name): value for name, value in scores.numbers.items()}
    content = {**numbers, "ap_per_class": scores.per_class, "num_images": scores.num_images, **facts}
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())
