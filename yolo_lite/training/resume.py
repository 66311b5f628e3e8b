"""Going on with an interrupted run: which checkpoint, in which folder, and whether it is the same run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from yolo_lite.data.classes import check_classes
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.models.yolo import ModelSpec
from yolo_lite.training.freezing import part_names
from yolo_lite.utils.checkpoints import check_sums, read_checkpoint
from yolo_lite.utils.distributed import is_main_process
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.runs import BEST_NAME, CHECKPOINTS, LAST_NAME, NON_FINITE_NAME, RunFolder, run_folders

log = logging.getLogger(__name__)

LAST = "last"
# In the order in which they are preferred at equal age; what the guard against NaN saves is not among them.
NAMES = (LAST_NAME, BEST_NAME)
# Where Lightning keeps the state of the data module.
DATA_STATE = DetectionDataModule.__qualname__
# Settings of the model that decide which tensors it has and what it computes with them: all but one that is no setting
# and one of the first weights.
STRUCTURE = tuple(field.name for field in fields(ModelSpec) if field.name not in ("max_channels", "neck_init"))


@dataclass
class Resume:
    """A checkpoint to go on from.

    Attributes:
        path: its file.
        step: optimiser steps done.
        origin: the run folder that it lies in; None: in none.
        folder: the run folder to go on in; None: a new one, for going on from here in the old one would overwrite
            what came later, or there is no old one.
    """

    path: Path
    step: int
    origin: RunFolder | None
    folder: RunFolder | None

    @staticmethod
    def of(path: Path, checkpoint: dict[str, Any], home: Path | None) -> Resume:
        """Go on from this file, in its own run folder if it is the newest there.

        Args:
            path: the file.
            checkpoint: its contents.
            home: where the command wants its run folder; None: anywhere.
        """
        folder = origin = RunFolder.around(path)
        if folder is not None and home is not None and folder.path.parent.resolve() != home.resolve():
            folder = None
        step = int(checkpoint["global_step"])
        if folder is not None and (newer := newer_checkpoint(path, step)) is not None:
            if is_main_process():
                log.info("%s is newer than %s: the run goes on in a folder of its own", newer, path)
            folder = None
        return Resume(path, step, origin, folder)


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


def find_last(runs: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest readable checkpoint of a run's folders `runs/version_K`, with its contents; None if there is none yet.

    The newest version with one counts, and in it the checkpoint that is furthest. What is passed over is named.

    Raises:
        UserError: there are checkpoints, but none can be read: a new run would hide that.
    """
    say = log.warning if is_main_process() else log.debug
    damaged: list[Path] = []
    for folder in reversed(run_folders(runs)):
        found: list[tuple[int, int, Path, dict[str, Any]]] = []
        for preference, name in enumerate(reversed(NAMES)):
            path = folder / CHECKPOINTS / name
            if not path.exists():
                continue
            try:
                check_sums(path)
                checkpoint = read_checkpoint(path)
                found.append((int(checkpoint["global_step"]), preference, path, checkpoint))
            except UserError as error:
                damaged.append(path)
                say("skipped: %s", error)
        if found:
            _, _, path, checkpoint = max(found, key=lambda entry: entry[:2])
            return path, checkpoint
        say("skipped: no readable checkpoint in %s", folder)
    if damaged:
        raise UserError(f"none of the checkpoints in {runs} can be read: move them away to start a new run")
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
    # They decide which parameters the optimiser has. The file of the teacher may have moved.
    same_parts = set(part_names(given.get("freeze"))) == set(part_names(model.freeze))
    if not same_parts or bool(given.get("teacher")) != bool(model.teacher):
        before, now = ((s.get("freeze"), s.get("teacher")) for s in (given, model.as_dict()))
        raise UserError(
            f"{path} was trained with model.freeze={before[0]}, model.teacher={before[1]}, this command says {now[0]} "
            f"and {now[1]}: give --config with the config.yaml of its run folder, before --ckpt_path"
        )
    used = checkpoint["yolo_lite"]["optimizer"]
    if model.optimizer not in ("auto", used):
        raise UserError(f"{path} was trained with model.optimizer={used}, this command says {model.optimizer}")
    model.optimizer = used  # auto might choose another one for another number of steps


def check_position(path: Path, checkpoint: dict[str, Any]) -> None:
    """The run must have ended between two epochs, or been stopped between two steps.

    Raises:
        UserError: a limit cut an epoch short: the counters say that it is over, and its images say that it is not.
    """
    if path.name == NON_FINITE_NAME:
        raise UserError(f"{path} is in the middle of a step: go on with --ckpt_path last, or start with --weights")
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
    if checkpoint.get(DATA_STATE, {}).get("batches_done") and epochs["processed"] > epochs["completed"]:
        raise UserError(
            f"{path} was ended inside an epoch by --trainer.max_steps or max_time, which cannot be gone on with "
            f"exactly: start a new run with --weights {path}, or end runs with --trainer.max_epochs"
        )


def why_finished(
    checkpoint: dict[str, Any], max_epochs: int | None, max_steps: int, patience: int | None
) -> str | None:
    """What brought the run to its end and how to go on all the same; None if there is more to do.

    An epoch is counted once it is over: a stop inside one leaves it out.
    """
    epochs = int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    if max_epochs is not None and 0 <= max_epochs <= epochs:
        return f"has finished its {max_epochs} epochs: raise --trainer.max_epochs to go on"
    if 0 <= max_steps <= int(checkpoint["global_step"]):
        return f"has finished its {max_steps} steps: raise --trainer.max_steps to go on"
    early = [state for key, state in checkpoint["callbacks"].items() if key.startswith("EarlyStopping")]
    if patience is not None and early and early[0]["wait_count"] >= patience:
        return f"has stopped early after epoch {epochs}: raise --patience to go on"
    return None
