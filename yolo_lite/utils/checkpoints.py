"""Reading checkpoints: tensors and plain Python only, with errors that say what is wrong."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from yolo_lite.utils.errors import UserError

# Raised whenever a checkpoint's contents change so that an earlier version would misread them.
CHECKPOINT_FORMAT = 1
# Where the network is in a checkpoint's state dict.
MODEL_PREFIX = "model."


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint written by train.py. Nothing in the file can run code.

    Raises:
        UserError: it is missing, damaged, or not ours.
    """
    if path.is_dir():
        raise UserError(f"checkpoint {path} is a folder: give the file, such as checkpoints/best.ckpt of a run")
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path} is not a yolo-lite checkpoint: it holds more than tensors and plain values; those of the original "
            "YOLOv8 trainer are for python -m yolo_lite.import_yolov8"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if isinstance(error, KeyError):  # of a byte that pickle does not know
            reason = "PyTorch did not write it"
        raise UserError(f"{path} is not a readable checkpoint: {reason}") from None
    if not isinstance(checkpoint, dict) or not {"yolo_lite", "state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise UserError(f"{path} is not a yolo-lite checkpoint: its keys are not those that train.py writes")
    identity = checkpoint["yolo_lite"]
    found = identity.get("format") if isinstance(identity, dict) else None
    if not isinstance(found, int):
        raise UserError(f"{path} is damaged: it does not say its format")
    if found > CHECKPOINT_FORMAT:
        raise UserError(f"{path} has format {found}, this version reads up to {CHECKPOINT_FORMAT}: update yolo-lite")
    return checkpoint


def check_sums(path: Path) -> None:
    """Compare every part of an archive of torch with the checksum that it was written with, which torch does not do.

    Raises:
        UserError: they differ.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if damaged is not None:
        raise UserError(f"{path} is damaged in {damaged}")
