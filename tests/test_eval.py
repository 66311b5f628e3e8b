"""eval.py as a user types it: numbers, detections, report, several models."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import eval as eval_script
import train as train_script
from yolo_lite.data.catalog import open_split
from yolo_lite.evaluation.run import format_gain

FAST = [
    *("--data.image_size", "64", "--data.batch_size", "4", "--data.num_workers", "0", "--data.cache", "none"),
    *("--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--model.variant", "yolov8n"),
]
LIGHT = ["--data.num_workers", "0", "--report", "none"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, make_coco: Callable[..., Path]) -> tuple[Path, list[Path]]:
    """A data folder and the checkpoints of two runs of a few steps."""
    folder = tmp_path_factory.mktemp("eval")
    root = make_coco(folder / "data", category_ids=[3, 7])
    checkpoints = []
    for name, seed in (("first", "0"), ("second", "1")):
        arguments = ["--data.root", str(root), "--runs_dir", str(folder / "runs"), "--name", name]
        arguments += ["--trainer.max_epochs", "2", "--model.nominal_batch", "4", "--seed_everything", seed]
        arguments += ["--ema.decay", "0.5"]  # that of so few steps is the raw weights
        assert train_script.main([*arguments, *FAST]) == 0
        checkpoints.append(folder / "runs" / name / "version_0" / "checkpoints" / "last.ckpt")
    return root, checkpoints


def test_numbers_detections_and_report_agree(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    root, (checkpoint, _) = models
    numbers, detections, report = tmp_path / "numbers.json", tmp_path / "detections.json", tmp_path / "report"
    arguments = ["--checkpoint", str(checkpoint), "--data.root", str(root), "--data.num_workers", "0"]
    arguments += ["--json", str(numbers), "--save-json", str(detections), "--report", str(report)]
    assert eval_script.main(arguments) == 0
    written = json.loads(numbers.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(root / "annotations" / "val.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(detections)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[0] == pytest.approx(written["map"], abs=1e-6)
    assert evaluation.stats[1] == pytest.approx(written["map_50"], abs=1e-6)
    assert evaluation.stats[8] == pytest.approx(written["mar_100"], abs=1e-6)
    assert {"load", "forward", "nms"} == written["milliseconds_per_image"].keys()
    assert all(value > 0 for value in written["milliseconds_per_image"].values())
    assert written["parameters"] == 3_011_238
    assert (report / "report.html").is_file()
    assert list((report / "figures").glob("*.png"))


def test_several_models_side_by_side(
    models: tuple[Path, list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, checkpoints = models
    opened: list[str] = []

    def counted(*arguments: Any, **options: Any) -> Any:
        opened.append(arguments[1])
        return open_split(*arguments, **options)

    monkeypatch.setattr("yolo_lite.data.datamodule.open_split", counted)
    target = tmp_path / "both.json"
    arguments = [part for path in checkpoints for part in ("--checkpoint", str(path))]
    assert eval_script.main([*arguments, "--data.root", str(root), "--json", str(target), *LIGHT]) == 0
    both = json.loads(target.read_text())
    assert [one["name"] for one in both] == ["first", "second"]
    assert [one["checkpoint"] for one in both] == [str(path) for path in checkpoints]
    shown = capsys.readouterr().out
    assert shown.count("first") > 1
    assert shown.count("map_50_95") == 1
    assert opened == ["val"]  # annotations are read once for all models


def test_raw_weights_are_scored_on_request(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    """With the raw weights in the place of the averaged ones, the default scores what --weights raw scores."""
    root, (checkpoint, _) = models
    content = torch.load(checkpoint, weights_only=True)
    assert not all(torch.equal(content["state_dict"][k], v) for k, v in content["raw_state_dict"].items())
    content["state_dict"] = content.pop("raw_state_dict")
    swapped = tmp_path / "swapped.ckpt"
    torch.save(content, swapped)
    boxes = {}
    for name, arguments in {
        "raw": ["--checkpoint", str(checkpoint), "--weights", "raw"],
        "ema": ["--checkpoint", str(checkpoint)],
        "swapped": ["--checkpoint", str(swapped)],
    }.items():
        target = tmp_path / f"{name}.json"
        assert eval_script.main([*arguments, "--data.root", str(root), "--save-json", str(target), *LIGHT]) == 0
        boxes[name] = target.read_text()
    assert boxes["raw"] == boxes["swapped"] != boxes["ema"]
    assert eval_script.main(["--checkpoint", str(swapped), "--weights", "raw", "--data.root", str(root), *LIGHT]) == 2


@pytest.mark.slow
def test_two_processes_find_the_same_and_write_one_report(models: tuple[Path, list[Path]], tmp_path: Path) -> None:
    root, (checkpoint, _) = models
    written = []
    for devices in ("1", "2"):
        folder = tmp_path / devices
        folder.mkdir()
        arguments = ["--checkpoint", str(checkpoint), "--data.root", str(root), "--data.num_workers", "0"]
        arguments += ["--json", "numbers.json", "--save-json", "detections.json", "--report", "report"]
        arguments += ["--trainer.accelerator", "cpu", "--trainer.devices", devices, "--data.batch_size", "1"]
        arguments += ["--trainer.strategy", "ddp"] if devices == "2" else []
        command = [sys.executable, str(eval_script.__file__), *arguments]
        result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-2000:]
        assert result.stdout.count("map_50_95") == 1
        assert sorted(path.name for path in (folder / "report").iterdir()) == ["figures", "report.html"]
        numbers = json.loads((folder / "numbers.json").read_text())
        del numbers["milliseconds_per_image"]
        found = json.loads((folder / "detections.json").read_text())
        written.append((numbers, sorted(found, key=lambda one: (one["image_id"], -one["score"], one["bbox"]))))
    assert written[0] == written[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--save-json", "x.json"], "one --checkpoint"),
        (["--json", "no/folder/x.json"], "no folder"),
        (["--report", __file__], "is a file, give a folder"),
        (["--report", f"{__file__}/deeper"], "is a file, give a folder"),
    ],
)
def test_what_cannot_be_written_is_said_first(
    models: tuple[Path, list[Path]], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root, checkpoints = models
    several = [part for path in checkpoints for part in ("--checkpoint", str(path))]
    assert eval_script.main([*several, "--data.root", str(root), *LIGHT, *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "map_50_95" not in captured.out


def test_a_read_only_folder_is_said_first(
    models: tuple[Path, list[Path]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, (checkpoint, _) = models
    monkeypatch.setattr("yolo_lite.utils.files.os.access", lambda path, mode: False)  # root may write everywhere
    assert eval_script.main(["--checkpoint", str(checkpoint), "--data.root", str(root), "--data.num_workers", "0"]) == 2
    captured = capsys.readouterr()
    assert "is read-only, give another folder with --report, or --report none" in captured.err
    assert "map_50_95" not in captured.out


def test_one_model_twice(models: tuple[Path, list[Path]], capsys: pytest.CaptureFixture[str]) -> None:
    root, (checkpoint, _) = models
    assert eval_script.main([*["--checkpoint", str(checkpoint)] * 2, "--data.root", str(root), *LIGHT]) == 2
    assert "given twice" in capsys.readouterr().err


def test_a_model_of_other_classes_is_refused_before_anything_is_scored(
    models: tuple[Path, list[Path]], tmp_path: Path, make_coco: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root, (checkpoint, _) = models
    content = torch.load(checkpoint, weights_only=True)
    content["hyper_parameters"]["class_names"] = ["cat", "dog"]
    content["yolo_lite"]["class_names"] = ["cat", "dog"]
    other = tmp_path / "other.ckpt"
    torch.save(content, other)
    arguments = ["--checkpoint", str(checkpoint), "--checkpoint", str(other), "--data.root", str(root), *LIGHT]
    assert eval_script.main(arguments) == 2
    captured = capsys.readouterr()
    assert "cat" in captured.err
    assert "map_50_95" not in captured.out


def test_a_gain_that_cannot_be_told_is_a_dash() -> None:
    assert format_gain(float("nan")) == "-"
    assert format_gain(0.25) == "+0.2500"
