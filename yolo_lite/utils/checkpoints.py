"""Reading checkpoints: tensors and plain Python only, with errors that say what is wrong."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolo_lite.utils.errors import UserError

# Raised whenever a checkpoint's contents change so that an earlier version would misread them.
CHECKPOINT_FORMAT = 1
# Where the network is in a checkpoint's state dict.
MODEL_PREFIX = "model."
# The head's last layers, one row per class.
CLASS_LAYER = re.compile(r"head\.classes\.\d+\.2\.(weight|bias)$")
# Between any two variants a few layers of the head have the same shape; that is no start.
MIN_TRANSFER = 0.25


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
        raise UserError(f"{path} is not a yolo-lite checkpoint: it holds more than tensors and plain values") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
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
    """Compare every part of a checkpoint with the checksum that it was written with, which torch does not do.

    Raises:
        UserError: they differ.
    """
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable checkpoint: {error}") from None
    if damaged is not None:
        raise UserError(f"{path} is damaged in {damaged}")


def transfer_weights(
    model: nn.Module, state: dict[str, Tensor], classes: Sequence[str], source_classes: Sequence[str]
) -> tuple[int, list[str]]:
    """Copy every tensor of `state` that has the name and the shape of one of `model`'s; of the last layers, the rows of
    the classes that both know.

    Args:
        model: takes the weights; a detector of this package.
        state: the weights of another detector.
        classes: the model's classes.
        source_classes: those of `state`.

    Returns:
        How many tensors were copied, and the names of those that were not, or not entirely.

    Raises:
        UserError: next to nothing fits.
    """
    own = model.state_dict()
    moved = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    common = [name for name in classes if name in source_classes]
    if list(classes) != list(source_classes):
        rows, source_rows = [classes.index(c) for c in common], [source_classes.index(c) for c in common]
        for name in own:
            if CLASS_LAYER.match(name) and name in state and state[name].shape[1:] == own[name].shape[1:]:
                moved[name] = own[name].clone()
                moved[name][rows] = state[name][source_rows]
    weights = [name for name, value in own.items() if value.ndim == 4]
    fitting = sum(name in moved for name in weights)
    if fitting < MIN_TRANSFER * len(weights):
        raise UserError(
            f"only {fitting} of {len(weights)} layers of the initial weights fit this model: choose their variant"
        )
    model.load_state_dict(moved, strict=False)
    partial = {name for name in moved if CLASS_LAYER.match(name) and len(common) < len(classes)}
    missing = [name for name in own if name not in moved or name in partial]
    return len(own) - len(missing), missing
