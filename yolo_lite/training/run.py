"""A training run from arguments to the closing table."""

from __future__ import annotations

import logging
import shlex
import time
from contextlib import nullcontext
from pathlib import Path

import lightning as L
from jsonargparse import Namespace
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yolo_lite.cli import TrainCLI
from yolo_lite.evaluation.coco_scores import format_score
from yolo_lite.models.summary import costs_of
from yolo_lite.training.checkpoints import BestCheckpoint
from yolo_lite.training.loggers import tensorboards
from yolo_lite.training.module import DetectionModule
from yolo_lite.training.stopping import explaining
from yolo_lite.utils.console import clock
from yolo_lite.utils.runs import occupied
from yolo_lite.utils.watchdog import follow_parent

log = logging.getLogger(__name__)


def train(args: list[str]) -> None:
    """Train as the arguments say.

    Raises:
        UserError: something in the arguments or in the data is wrong.
    """
    follow_parent()
    cli = TrainCLI(args)
    run_folder = cli.trainer.log_dir  # asked for on every process: Lightning broadcasts it
    if cli.trainer.is_global_zero:
        introduce(cli.model, cli.trainer, run_folder)
    started = time.monotonic()
    folder_is_ours = occupied(Path(run_folder)) if cli.trainer.is_global_zero and run_folder else nullcontext()
    with folder_is_ours, explaining(cli.datamodule, cli.model):
        cli.trainer.fit(cli.model, datamodule=cli.datamodule, ckpt_path=cli.config.ckpt_path, weights_only=True)
    if cli.trainer.is_global_zero:
        report(cli, run_folder, time.monotonic() - started)


def introduce(module: DetectionModule, trainer: L.Trainer, run_folder: str | None) -> None:
    """One line on the model, one on the run folder."""
    size, classes = module.image_size, len(module.class_names)
    costs = costs_of(module.model.spec, classes, size).whole
    log.info(
        "%s, %d classes, %d px: %s parameters, %.2f GFLOPs, precision %s",
        module.hparams["variant"],
        classes,
        size,
        f"{costs.parameters:,}",
        costs.gflops,
        trainer.precision,
    )
    if module.frozen:
        parts = [module.model.get_submodule(name) for name in module.frozen]
        fixed = sum({p: p.numel() for part in parts for p in part.parameters()}.values())
        log.info("frozen: %s (%s parameters)", ", ".join(module.frozen), f"{fixed:,}")
    if module.distillation is not None:
        teacher, taught = module.distillation.teacher, module.distillation.taught
        log.info(
            "teacher: %s of %d px, %d of %d classes, levels of stride %s, weight %g",
            teacher.variant,
            teacher.image_size,
            taught,
            classes,
            ", ".join(map(str, module.distillation.strides)),
            module.distillation.weight,
        )
    if run_folder is not None:
        log.info("run folder %s", run_folder)


def report(cli: TrainCLI, run_folder: str | None, seconds: float) -> None:
    """What was reached, where it is, what to type next."""
    trainer = cli.trainer
    checkpoint = next((c for c in trainer.checkpoint_callbacks if isinstance(c, BestCheckpoint)), None)
    table = Table(title=escape(cli.config.name), show_header=False)
    table.add_row("epochs", f"{trainer.current_epoch} in {clock(seconds)}")
    best = checkpoint.best_model_path if checkpoint is not None else ""
    if checkpoint is not None and checkpoint.best_model_score is not None:
        table.add_row("best mAP50-95", format_score(float(checkpoint.best_model_score)))
    for key, label in (("val/map_50_95", "last mAP50-95"), ("val/map_50", "last mAP50")):
        if key in trainer.callback_metrics:
            table.add_row(label, format_score(float(trainer.callback_metrics[key])))
    table.add_row("run folder", escape(run_folder or "none"))
    console = Console(soft_wrap=True)
    console.print(table)
    if best:
        command = ["python", "eval.py", "--checkpoint", best, *data_arguments(cli.config.data), "--split", "val"]
        console.print(f"next: {shlex.join(command)}", markup=False, highlight=False)
    if tensorboards(trainer):
        console.print(
            f"      {shlex.join(['tensorboard', '--logdir', cli.config.runs_dir])}", markup=False, highlight=False
        )


def data_arguments(data: Namespace) -> list[str]:
    """The arguments that find the same validation images again."""
    names = ("root", "val_annotations", "val_images")
    return [part for name in names if data[name] is not None for part in (f"--data.{name}", str(data[name]))]
