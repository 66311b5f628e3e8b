"""Parts of a detector that keep their weights: no gradient, no optimiser state, BatchNorm statistics as they are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from yolo_lite.models.yolo import YOLO
from yolo_lite.utils.errors import UserError

Freeze = list[str] | int | str
# From the image on, for a depth: `freeze=3` keeps the first three.
PARTS = (*(f"backbone.{name}" for name in ("stem", "stage2", "stage3", "stage4", "stage5", "pool")), "neck", "head")


def part_names(freeze: Freeze | None) -> list[str]:
    """What a setting names, each once: two settings with the same names mean the same."""
    if freeze is None:
        return []
    names = PARTS[:freeze] if isinstance(freeze, int) else [freeze] if isinstance(freeze, str) else freeze
    return list(dict.fromkeys(names))


def frozen_names(model: YOLO, freeze: Freeze | None) -> list[str]:
    """The names of the modules that a setting means.

    Args:
        model: the detector.
        freeze: a name such as `backbone` or `backbone.stage2`, several, or how many of `PARTS`; None: nothing.

    Raises:
        UserError: there is no such module, or nothing would be left to train.
    """
    if isinstance(freeze, bool) or (isinstance(freeze, int) and not 0 <= freeze < len(PARTS)):
        raise UserError(
            f"model.freeze={freeze}: give names of modules, or a depth from 0 to {len(PARTS) - 1} of {', '.join(PARTS)}"
        )
    names = part_names(freeze)
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules:
            near = difflib.get_close_matches(name, modules, n=2)
            meant = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(PARTS)} or parts of them"
            raise UserError(f"model.freeze={name}: the model has no such part; {meant}")
    return names


def freeze_parts(model: YOLO, names: Sequence[str]) -> None:
    """Take the gradients from the parameters of these modules and put them into eval mode, see `keep_statistics`.

    Raises:
        UserError: nothing is left to train.
    """
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    keep_statistics(model, names)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(f"model.freeze={list(names)} leaves nothing to train: freeze less")


def keep_statistics(model: YOLO, names: Sequence[str]) -> None:
    """Put these modules into eval mode, for the sake of BatchNorm; to be called after every `train()`.

    By name: the conversion to SyncBatchNorm puts others into their places.
    """
    for name in names:
        model.get_submodule(name).eval()


def not_given(names: Sequence[str], new: Sequence[str]) -> list[str]:
    """Of the tensors that initial weights did not bring, those in frozen modules: they would stay random."""
    return [name for name in new if any(name.startswith(f"{part}.") for part in names)]
