"""Reading checkpoints: tensors and plain Python only, with errors that say what is wrong."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from yolo_lite.utils.errors import UserError


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint written by train.py. Nothing in the file can run code.

    Raises:
        UserError: it is missing, damaged, or not ours.
    """
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(f"{path} is not a yolo-lite checkpoint: it holds more than tensors and plain values") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a readable checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(checkpoint, dict) or not {"yolo_lite", "state_dict", "hyper_parameters"} <= checkpoint.keys():
        raise UserError(f"{path} is not a yolo-lite checkpoint: its keys are not those that train.py writes")
    return checkpoint


def transfer_weights(model: nn.Module, state: dict[str, Tensor]) -> tuple[int, list[str]]:
    """Copy every tensor of `state` that has the name and the shape of one of `model`'s.

    Returns:
        How many were copied, and the names of those that were not.

    Raises:
        UserError: none fits.
    """
    own = model.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise UserError("no tensor of the initial weights fits this model: another variant?")
    model.load_state_dict(fitting, strict=False)
    return len(fitting), [name for name in own if name not in fitting]
