"""Arguments that the commands which write models share: limits of suppression, a size of the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from yolo_lite.deploy.exporting import check_input_size
from yolo_lite.deploy.model_info import Output, Suppression
from yolo_lite.utils.errors import UserError

# Of the fields of `Suppression`; None: the usual value, which nobody has to have asked for.
LIMITS: dict[str, tuple[Any, str]] = {
    "score": (float | None, "detections score higher"),
    "iou": (float | None, "boxes that overlap more are one"),
    "max_detections": (int | None, "of an image"),
}


def add_limits(parser: ArgumentParser, usual: Suppression) -> None:
    """Add the limits of suppression in the graph."""
    for name, (kind, text) in LIMITS.items():
        default = getattr(usual, name)
        parser.add_argument(f"--{name}", type=kind, default=None, help=f"of nms: {text}; default: {default}")


def requested_limits(config: Namespace, output: Output, usual: Suppression) -> Suppression | None:
    """The limits of suppression in the graph, where there is to be any: those that are given, otherwise the usual ones.

    Raises:
        UserError: a limit is given and there is to be no suppression.
    """
    given = {name: config[name] for name in LIMITS if config[name] is not None}
    if output == "nms":
        return replace(usual, **given)
    for name, value in given.items():
        raise UserError(f"--{name} {value} is of suppression in the graph: give --output nms too, or leave it out")
    return None


def parse_input_size(words: Sequence[str]) -> tuple[int, int]:
    """Height and width, however they are typed: `320 640`, `[320, 640]`, `320x640`.

    Raises:
        UserError: these are not two numbers, or not such as the network takes.
    """
    text = " ".join(words)
    sides = text.strip("[]() ").replace(",", " ").replace("x", " ").split()
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise UserError(f"--input_size {text}: give height and width, such as --input_size 320 640")
    size = (int(sides[0]), int(sides[1]))
    check_input_size(size)
    return size
