"""Options that have another name elsewhere are answered with ours, in every command."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from yolo_lite import benchmark, export, predict, quantise
from yolo_lite.deploy.option_names import ELSEWHERE, OF_COMMANDS


@pytest.mark.parametrize(
    ("main", "typed", "instead"),
    [
        (export.main, "--imgsz", "--image_size"),
        (export.main, "--weights=best.pt", "--checkpoint"),
        (export.main, "--batch-size", "--batch"),
        (export.main, "--conf", "--score"),
        (export.main, "--half", "--precision fp16"),
        (export.main, "--int8", "python -m yolo_lite.quantise the checkpoint"),
        (export.main, "--nms", "--output nms"),
        (quantise.main, "--imgsz", "--image_size"),
        (quantise.main, "--data.batch-size", "--data.batch_size"),
        (quantise.main, "--max-det", "--max_detections"),
        (benchmark.main, "--model", "--checkpoint"),
        (benchmark.main, "--img-size", "--image_size"),
        (benchmark.main, "--throughput-batch", "--throughput_batch"),
        (predict.main, "--batch", "--batch_size"),
        (predict.main, "--output", "--out"),
        (predict.main, "--source", "SOURCE without an option's name"),
        (predict.main, "--nms", "--iou"),
    ],
)
def test_a_foreign_name_is_answered_with_ours(
    main: Callable[[list[str]], int], typed: str, instead: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", "best.ckpt", typed, "1"]) == 2
    assert capsys.readouterr().err == f"error: no option {typed.partition('=')[0]} here: give {instead}\n"


@pytest.mark.parametrize("main", [export.main, quantise.main, benchmark.main, predict.main])
def test_our_own_names_are_left_to_the_parser(
    main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--checkpoint", "gone.ckpt", "--image_size", "64", "--nonsense", "1"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_every_name_means_an_option() -> None:
    known: set[str] = set()
    for module in (predict, export, quantise):
        known.update(module.build_parser().get_defaults().keys())
    assert {*ELSEWHERE.values(), *OF_COMMANDS.values()} <= known
