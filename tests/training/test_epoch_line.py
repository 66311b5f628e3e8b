"""The line per epoch: scores of that epoch alone, and the time that is left."""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest

import train as train_script
from yolo_lite.training import callbacks

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
    *("--model.nominal_batch", "4", "--trainer.logger", "false", "--name", "run"),
]


def epoch_lines(text: str) -> list[str]:
    return re.findall(r"^epoch \d+/\d+ .*left$", text, re.MULTILINE)


def test_an_epoch_that_is_not_scored_shows_no_score(tmp_path: Path, tiny_coco: Any, capsys: Any) -> None:
    """Lightning keeps the scores of an earlier one; and that nothing scores the end is said before it begins."""
    given = ["--data.root", str(tiny_coco()), "--runs_dir", str(tmp_path), *FAST]
    assert train_script.main([*given, "--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2"]) == 0
    output = capsys.readouterr()
    text = output.out + output.err
    assert ["mAP50-95" in line for line in epoch_lines(text)] == [False, True, False]
    assert "the last 1 of 3 epochs are not scored" in text


def test_a_run_that_goes_on_judges_the_time_by_its_own_epochs(
    tmp_path: Path, tiny_coco: Any, with_callback: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    epochs_of_1000_seconds = [0]

    class Passing(L.Callback):
        def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            epochs_of_1000_seconds[0] += 1

    with_callback(Passing())
    shifted = SimpleNamespace(**vars(time))
    shifted.monotonic = lambda: time.monotonic() + 1000 * epochs_of_1000_seconds[0]
    monkeypatch.setattr(callbacks, "time", shifted)
    given = ["--data.root", str(tiny_coco()), "--runs_dir", str(tmp_path), *FAST, "--ckpt_path", "last"]
    assert train_script.main([*given, "--trainer.max_epochs", "2"]) == 0
    assert train_script.main([*given, "--trainer.max_epochs", "4"]) == 0
    output = capsys.readouterr()
    assert re.search(r"epoch 3/4 .* 1[67]:\d\d left", output.out + output.err)


@pytest.mark.parametrize(
    ("settings", "warning"),
    [
        (
            ("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "3"),
            "the last 2 of 2 epochs are not scored",
        ),
        (("--trainer.max_epochs", "2", "--trainer.check_val_every_n_epoch", "2"), ""),
        (("--trainer.max_epochs", "9", "--trainer.check_val_every_n_epoch", "2", "--trainer.max_steps", "1"), ""),
        (
            ("--trainer.max_epochs", "3", "--trainer.check_val_every_n_epoch", "2", "--trainer.limit_val_batches", "0"),
            "",
        ),
    ],
)
def test_what_is_never_scored_is_said(
    settings: tuple[str, ...], warning: str, tmp_path: Path, tiny_coco: Any, capsys: Any
) -> None:
    assert train_script.main(["--data.root", str(tiny_coco()), "--runs_dir", str(tmp_path), *FAST, *settings]) == 0
    output = capsys.readouterr()
    assert ("not scored" in output.out + output.err) == bool(warning)
    assert warning in output.out + output.err


@pytest.mark.parametrize(("max_epochs", "every", "is_refused"), [("-1", "3", False), ("2", "3", True)])
def test_patience_needs_an_epoch_that_is_scored(
    max_epochs: str, every: str, is_refused: bool, tmp_path: Path, tiny_coco: Any, capsys: Any
) -> None:
    given = ["--data.root", str(tiny_coco()), "--runs_dir", str(tmp_path), *FAST, "--patience", "3"]
    given += ["--trainer.max_epochs", max_epochs, "--trainer.check_val_every_n_epoch", every]
    given += ["--trainer.max_steps", "1"]
    assert (train_script.main(given) == 2) == is_refused
    assert ("patience=3 needs validation" in capsys.readouterr().err) == is_refused
