"""Scoring checkpoints, from arguments to tables, JSON and report."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from rich.markup import escape
from rich.table import Table

from yolo_lite.data.classes import check_classes
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.data.images import ImageFiles
from yolo_lite.data.index import DetectionIndex
from yolo_lite.evaluation.analysis import Analysis, analyse, to_json
from yolo_lite.evaluation.coco_json import write_detections
from yolo_lite.evaluation.coco_scores import format_score
from yolo_lite.evaluation.detections import DetectionTable
from yolo_lite.evaluation.report import ScoredModel, write_report
from yolo_lite.evaluation.stage_times import StageTimes
from yolo_lite.evaluation.styles import ERROR_STYLES
from yolo_lite.training.ema import RAW_WEIGHTS
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.stopping import explaining
from yolo_lite.training.trainer import SILENT, Trainer
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.console import table_console
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_folder, check_target, replacing
from yolo_lite.utils.profiling import count_gflops, count_parameters
from yolo_lite.utils.runs import RunFolder
from yolo_lite.utils.watchdog import follow_parent

log = logging.getLogger(__name__)

# Short names, as detection people write them; every other number keeps its name.
JSON_NAMES = {"map_50_95": "map"}
NO_REPORT = "none"


def build_parser() -> LightningArgumentParser:
    """The arguments of eval.py."""
    parser = LightningArgumentParser(
        prog="eval.py",
        description="Score checkpoints: COCO's 12 numbers, curves, confusion, errors, speed, and a report to look at.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--checkpoint",
        type=str,
        action="append",
        required=True,
        help="checkpoint written by train.py; several times to compare models side by side",
    )
    parser.add_argument("--split", type=Literal["train", "val", "test"], default="val", help="which images")
    parser.add_argument(
        "--weights",
        type=Literal["ema", "raw"],
        default="ema",
        help="the averaged weights, or those that training goes on with",
    )
    parser.add_argument("--json", type=str | None, default=None, help="write the numbers to this file")
    parser.add_argument(
        "--save-json",
        type=str | None,
        default=None,
        help="write the detections to this file, as pycocotools reads them",
    )
    parser.add_argument(
        "--report",
        type=str | None,
        default=None,
        help="folder for report.html and its figures; default: in the run's folder; none: no report",
    )
    parser.add_lightning_class_args(Trainer, "trainer", required=False)
    parser.set_defaults({f"trainer.{name}": value for name, value in SILENT.items()})
    skip = {"augment", "seed", "image_size"}
    parser.add_class_arguments(DetectionDataModule, "data", skip=skip, instantiate=False)
    parser.add_argument("--data.image_size", type=int | None, default=None, help="pixels; default: as trained")
    return parser


@dataclass(frozen=True)
class Scored:
    """A checkpoint and what scoring it found.

    Attributes:
        path: the checkpoint.
        name: short, to tell it from the others of this command.
        index: the ground truth.
        images: the files that were scored.
        table: the detections.
        analysis: what was found out about them.
        facts: what the numbers depend on besides, and what the model costs.
        milliseconds: per image and stage.
    """

    path: Path
    name: str
    index: DetectionIndex
    images: ImageFiles
    table: DetectionTable
    analysis: Analysis
    facts: dict[str, Any]
    milliseconds: dict[str, float]


def evaluate(args: list[str]) -> None:
    """Score as the arguments say.

    Raises:
        UserError: checkpoint or data are not what they should be.
    """
    follow_parent()
    parser = build_parser()
    config = parser.parse_args(args)
    paths = [Path(text) for text in config.checkpoint]
    if config.save_json and len(paths) > 1:
        raise UserError("--save-json holds the detections of one model: give one --checkpoint")
    numbers_file, detections_file = check_target("--json", config.json), check_target("--save-json", config.save_json)
    names = short_names(paths)
    folder = None
    if config.report != NO_REPORT:
        folder = Path(config.report) if config.report else report_folder(paths, config.split)
        check_folder("a report", folder, "give another folder with --report, or --report none")
    prepared: list[tuple[DetectionModule, DetectionDataModule]] = []
    for path in paths:  # whatever does not fit is said before anything is scored
        prepared.append(prepare(config, path, prepared[0][1] if prepared else None))
    results = []
    for path, name, (module, data) in zip(paths, names, prepared, strict=True):
        scored = score(parser, config, module, data, path, name)
        if scored is not None:  # on the main process
            results.append(scored)
    if not results:
        return
    if numbers_file is not None:
        write_json(numbers_file, results)
    if detections_file is not None:
        write_detections(detections_file, results[0].table, results[0].index)
    print_results(results, config.split)
    if folder is not None:
        models = [ScoredModel(r.name, r.analysis, r.table, r.index, shown_facts(r), r.images) for r in results]
        log.info("report: %s", write_report(folder, models))


def short_names(paths: list[Path]) -> list[str]:
    """The run of each checkpoint, with as much of its path as tells it from the others."""
    candidates = []
    for path in paths:
        run = RunFolder.around(path)
        short = run.name if run is not None else path.stem
        long = f"{run.name}/version_{run.version}" if run is not None else str(path)
        candidates.append((short, long, f"{long}/{path.stem}" if run is not None else str(path)))
    for names in zip(*candidates, strict=True):
        if len(set(names)) == len(paths):
            return list(names)
    raise UserError(f"--checkpoint {paths[0]} is given twice: give each model once")


def report_folder(paths: list[Path], split: str) -> Path:
    """Where a report goes: into the run's folder, or beside the checkpoint; of several models, beside their runs."""
    run = RunFolder.around(paths[0])
    if len(paths) > 1:
        return (run.root if run is not None else paths[0].parent) / "comparison" / split
    return (run.path if run is not None else paths[0].parent) / "evaluation" / split


def prepare(
    config: Namespace, path: Path, opened: DetectionDataModule | None
) -> tuple[DetectionModule, DetectionDataModule]:
    """A model and the data for it; the annotations are those of `opened`, if they have been read for another model.

    Raises:
        UserError: they do not fit.
    """
    module = load_module(path, config.weights)
    settings = config.data.as_dict()
    settings["image_size"] = settings["image_size"] or module.image_size
    data = DetectionDataModule(**settings)
    data.eval_split = config.split
    if opened is not None:
        data.share(opened)
    check_classes(module.class_names, data.eval_index.class_names)
    return module, data


def score(
    parser: LightningArgumentParser,
    config: Namespace,
    module: DetectionModule,
    data: DetectionDataModule,
    path: Path,
    name: str,
) -> Scored | None:
    """Run the model over the split; None on all processes but the main one.

    Raises:
        UserError: the settings of the trainer do not fit.
    """
    times = StageTimes()
    try:
        options = parser.instantiate_classes(config).trainer
        options.callbacks = [*(options.callbacks or []), times]
        trainer = Trainer(**options)
    except (MisconfigurationException, ValueError) as error:
        raise UserError(str(error)) from error
    if trainer.limit_val_batches == 0:
        raise UserError("trainer.limit_val_batches=0 leaves nothing to score: leave it out")
    with explaining(data, module):
        trainer.validate(module, datamodule=data, verbose=False)
    detections = module.detections
    if module.scores is None or detections is None:
        return None
    facts = {
        "checkpoint": str(path),
        "split": config.split,
        "weights": config.weights,
        "image_size": data.image_size,
        "data_root": str(data.root) if data.root else None,
        "variant": module.hparams["variant"],
        "parameters": count_parameters(module.model),
        "gflops": round(count_gflops(module.model, data.image_size), 3),
        "device": str(trainer.strategy.root_device),
    }
    index = data.eval_index
    analysis = analyse(detections, index, module.scores)
    return Scored(path, name, index, data.files(config.split), detections, analysis, facts, times.milliseconds())


def load_module(path: Path, weights: str) -> DetectionModule:
    """A trained module with the weights that are asked for.

    Raises:
        UserError: it cannot be read, or has no others than the averaged ones.
    """
    checkpoint = read_checkpoint(path)
    module = DetectionModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    if weights == "raw":
        if RAW_WEIGHTS not in checkpoint:
            raise UserError(f"{path} holds one set of weights only: leave out --weights raw")
        module.load_state_dict(checkpoint[RAW_WEIGHTS])
    return module


def shown_facts(result: Scored) -> dict[str, str]:
    """The facts of a model as a reader wants them."""
    facts = result.facts
    shown = {
        "checkpoint": facts["checkpoint"],
        "variant": facts["variant"],
        "parameters": f"{facts['parameters']:,}",
        "GFLOPs": f"{facts['gflops']:.2f}",
        "images": f"{result.analysis.coco.num_images} of {facts['split']}, {facts['image_size']} px",
        "weights": facts["weights"],
    }
    if result.milliseconds:
        stages = ", ".join(f"{stage} {value:.1f}" for stage, value in result.milliseconds.items())
        shown["ms per image"] = f"{stages} ({facts['device']})"
    return shown


def print_results(results: list[Scored], split: str) -> None:
    """All numbers as tables, a column for each model."""
    console = table_console()
    names = [escape(result.name) for result in results]
    title = f"{split}, {results[0].analysis.coco.num_images} images"
    table = Table(title=title if len(results) > 1 else escape(f"{results[0].path} on {title}"))
    table.add_column("number")
    for name in names if len(results) > 1 else ["value"]:
        table.add_column(name, justify="right")
    for key in results[0].analysis.coco.numbers:
        table.add_row(key, *(format_score(result.analysis.coco.numbers[key]) for result in results))
    table.add_section()
    for label, attribute in (("best F1", "f1"), ("  its precision", "precision"), ("  its recall", "recall")):
        table.add_row(label, *(format_score(getattr(result.analysis.best, attribute)) for result in results))
    table.add_row("  its score threshold", *(format_score(result.analysis.best.score) for result in results))
    table.add_row("calibration error", *(format_score(result.analysis.calibration.error) for result in results))
    table.add_section()
    for key in results[0].analysis.errors.gains:
        cells = [f"{r.analysis.errors.counts[key]}  {format_gain(r.analysis.errors.gains[key])}" for r in results]
        table.add_row(f"{ERROR_STYLES[key].title} errors, AP50 without them", *cells)
    table.add_section()
    table.add_row("parameters", *(f"{result.facts['parameters']:,}" for result in results))
    table.add_row("GFLOPs", *(f"{result.facts['gflops']:.2f}" for result in results))
    for stage in results[0].milliseconds:
        table.add_row(f"{stage}, ms per image", *(f"{result.milliseconds.get(stage, 0):.1f}" for result in results))
    console.print(table)
    for result in results:
        console.print(class_table(result, escape(f"{result.name}: classes")))
    log.info("%d images, %d detections", results[0].analysis.coco.num_images, results[0].analysis.coco.num_detections)


def format_gain(gain: float) -> str:
    """Four digits with the sign, or a dash where there is no ground truth."""
    return "-" if math.isnan(gain) else f"{gain:+.4f}"


def class_table(result: Scored, title: str) -> Table:
    """One row for each class."""
    table = Table(title=title)
    table.add_column("class")
    for name in ("objects", "images", "AP", "AP50", "AR", "best F1", "precision", "recall", "threshold"):
        table.add_column(name, justify="right")
    for row in result.analysis.classes:
        scores = (row.ap, row.ap_50, row.ar, row.best.f1, row.best.precision, row.best.recall, row.best.score)
        cells = [format_score(value) for value in scores]
        table.add_row(escape(row.name), str(row.num_objects), str(row.num_images), *cells)
    return table


def write_json(path: Path, results: list[Scored]) -> None:
    """All numbers, written at once or not at all; of several models, a list of what is written for one."""
    contents = []
    for result in results:
        coco = result.analysis.coco
        numbers = {JSON_NAMES.get(name, name): value for name, value in coco.numbers.items()}
        per_class = {row.name: row.ap for row in result.analysis.classes}
        contents.append(
            {
                "name": result.name,
                **numbers,
                "ap_per_class": per_class,
                "num_images": coco.num_images,
                **result.facts,
                "milliseconds_per_image": result.milliseconds,
                **to_json(result.analysis),
            }
        )
    objects = [
        "{\n" + ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items()) + "\n}"
        for content in contents  # a line for each key: a curve with a line for each value would hide the numbers
    ]
    with replacing(path) as file:
        file.write((objects[0] if len(objects) == 1 else "[\n" + ",\n".join(objects) + "\n]").encode() + b"\n")
