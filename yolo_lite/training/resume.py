"""Going on with an interrupted run: which checkpoint, in which folder, and whether it is the same run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from yolo_lite.training.callbacks import check_classes
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.runs import RunFolder, run_folders

log = logging.getLogger(__name__)

LAST = "last"
# In the order in which they are preferred at equal age; what the guard against NaN saves is not among them.
NAMES = ("last.ckpt", "best.ckpt")
# Settings of the model that decide which tensors it has.
STRUCTURE = ("block", "downsample", "neck", "levels", "neck_divisor", "neck_width", "reg_max")


@dataclass
class Resume:
    """A checkpoint to go on from.

    Attributes:
        path: its file.
        step: optimiser steps done.
        folder: the run folder to go on in; None: a new one, for going on from here in the old one would overwrite
            what came later, or the file lies outside of any run folder.
        metrics: the metrics file of the run it comes from.
    """

    path: Path
    step: int
    folder: RunFolder | None
    metrics: Path

    @staticmethod
    def of(path: Path, checkpoint: dict[str, Any], home: Path | None) -> Resume:
        """Go on from this file, in its own run folder if it is the newest there.

        Args:
            path: the file.
            checkpoint: its contents.
            home: where the command wants its run folder; None: anywhere.
        """
        folder = RunFolder.around(path)
        if folder is not None and home is not None and folder.path.parent.resolve() != home.resolve():
            folder = None
        step = int(checkpoint["global_step"])
        metrics = path.resolve().parent.parent / "metrics.csv"
        if folder is not None and (newer := newer_checkpoint(path, step)) is not None:
            log.info("%s is newer than %s: the run goes on in a folder of its own", newer, path)
            folder = None
        return Resume(path, step, folder, metrics)


def newer_checkpoint(path: Path, step: int) -> Path | None:
    """Another checkpoint in the folder of `path` that is further than `step`."""
    for name in NAMES:
        other = path.with_name(name)
        if other.is_file() and other.resolve() != path.resolve():
            try:
                if int(read_checkpoint(other)["global_step"]) > step:
                    return other
            except UserError:
                continue
    return None


def find_last(runs: Path, main_process: bool) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run's folders `runs/version_K`, with its contents.

    The newest version with one counts, and in it the checkpoint that is furthest. What is passed over is named.

    Args:
        runs: folder of the versions.
        main_process: this process is the one that talks.
    """
    for folder in reversed(run_folders(runs)):
        found: list[tuple[int, int, Path, dict[str, Any]]] = []
        for preference, name in enumerate(reversed(NAMES)):
            path = folder / "checkpoints" / name
            if not path.exists():
                continue
            try:
                checkpoint = read_checkpoint(path)
                found.append((int(checkpoint["global_step"]), preference, path, checkpoint))
            except UserError as error:
                if main_process:
                    log.warning("skipped: %s", error)
        if found:
            _, _, path, checkpoint = max(found, key=lambda entry: entry[:2])
            return path, checkpoint
        if main_process:
            log.info("skipped: no checkpoint in %s", folder)
    return None


def check_same_run(path: Path, checkpoint: dict[str, Any], model: Namespace, names: list[str]) -> None:
    """The run that goes on must be the one that was interrupted: same classes, structure and optimiser.

    Raises:
        UserError: it is not.
    """
    check_classes(checkpoint["yolo_lite"]["class_names"], names)
    given = checkpoint["hyper_parameters"]
    for key in ("variant", *STRUCTURE):
        if given.get(key) != model[key]:
            raise UserError(
                f"{path} was trained with model.{key}={given.get(key)}, this command says "
                f"{model[key]}: give --config with the config.yaml of its run folder, before --ckpt_path"
            )
    used = checkpoint["yolo_lite"]["optimizer"]
    if model.optimizer not in ("auto", used):
        raise UserError(f"{path} was trained with model.optimizer={used}, this command says {model.optimizer}")
    model.optimizer = used  # auto might choose another one for another number of steps


def is_finished(checkpoint: dict[str, Any], max_epochs: int | None, max_steps: int) -> bool:
    """The run reached its end. An epoch is counted once it is over: a stop inside one leaves it out."""
    epochs = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    all_epochs = max_epochs is not None and 0 <= max_epochs <= epochs
    return all_epochs or 0 <= max_steps <= int(checkpoint["global_step"])
