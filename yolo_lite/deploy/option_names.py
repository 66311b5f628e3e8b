"""Names under which other tools have the options of our commands: an unknown one is answered with ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from yolo_lite.utils.errors import UserError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser  # `load_model` needs the table, and no parser

# Of the options of predicting, in Python and on the command line.
ELSEWHERE = {
    "conf": "score",
    "conf_thres": "score",
    "confidence": "score",
    "threshold": "score",
    "iou_thres": "iou",
    "nms": "iou",
    "max_det": "max_detections",
    "batch": "batch_size",
    "rect": "rectangular",
}
# Of what several commands have besides.
OF_COMMANDS = {
    "model": "checkpoint",
    "weights": "checkpoint",
    "imgsz": "image_size",
    "img_size": "image_size",
    "batch_size": "batch",
    "project": "out",
}


def check_names(args: Sequence[str], parser: ArgumentParser, own: Mapping[str, str] | None = None) -> None:
    """Compare the names of options with those that a command has.

    Args:
        args: the command line.
        parser: of the command.
        own: by names as they are typed, what this command alone has instead.

    Raises:
        UserError: an option has its name from elsewhere, or dashes in it.
    """
    known = set(parser.get_defaults().keys())
    for arg in args:
        name = arg.partition("=")[0]
        if not name.startswith("--"):
            continue
        bare = name[2:].replace("-", "_")
        candidates = (bare, ELSEWHERE.get(bare), OF_COMMANDS.get(bare))
        meant = next((f"--{candidate}" for candidate in candidates if candidate in known), None)
        instead = own[name] if own and name in own else meant
        if instead not in (None, name):
            raise UserError(f"no option {name} here: give {instead}")
