"""The arguments that export and quantise share."""

from __future__ import annotations

import pytest

from yolo_lite import export, quantise
from yolo_lite.deploy.export_options import parse_input_size, requested_limits
from yolo_lite.deploy.model_info import Suppression
from yolo_lite.utils.errors import UserError


@pytest.mark.parametrize("typed", [["320", "256"], ["[320, 256]"], ["[320,", "256]"], ["320,256"], ["320x256"]])
def test_a_size_as_it_is_typed(typed: list[str]) -> None:
    config = export.build_parser().parse_args(["--checkpoint", "m.ckpt", "--input_size", *typed, "--batch", "2"])
    assert parse_input_size(config.input_size) == (320, 256)


@pytest.mark.parametrize("typed", [["320"], ["1", "2", "3"], ["a", "b"], [""], ["32.0", "32"], ["-32,32"], ["0", "32"]])
def test_what_is_no_size(typed: list[str]) -> None:
    with pytest.raises(UserError, match="input_size"):
        parse_input_size(typed)


@pytest.mark.parametrize("command", [export, quantise])
def test_limits_are_of_suppression_alone(command: object) -> None:
    """Without it they would be left out of the file without a word."""
    parser, usual = command.build_parser(), command.USUAL_LIMITS  # type: ignore[attr-defined]

    def limits(*args: str) -> Suppression | None:
        config = parser.parse_args(["--checkpoint", "m.ckpt", *args])
        return requested_limits(config, config.output or "decoded", usual)

    assert limits() is None
    assert limits("--output", "nms") == usual
    assert limits("--output", "nms", "--score", "0.4", "--max_detections", "7") == Suppression(0.4, usual.iou, 7)
    with pytest.raises(UserError, match=r"--iou 0\.5 is of suppression in the graph: give --output nms"):
        limits("--iou", "0.5")
