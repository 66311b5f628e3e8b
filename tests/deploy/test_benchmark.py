"""The benchmark's table, JSON and figure, and what it leaves out."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from yolo_lite.benchmark import main
from yolo_lite.deploy.contest import CHOICES, parse_formats, short_names
from yolo_lite.deploy.figures import Point, latency_figure
from yolo_lite.deploy.formats import write_torchscript
from yolo_lite.deploy.loading import open_runtime
from yolo_lite.utils.errors import UserError


@pytest.fixture
def run(trained_file: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command in two rounds; exit code, output and errors."""

    def command(*arguments: str, checkpoints: tuple[Path, ...] = (trained_file,)) -> tuple[int, str, str]:
        few = ["--rounds", "2", "--throughput_batch", "2", "--memory", "false"]
        code = main(["--checkpoint", *map(str, checkpoints), *few, *arguments])
        said = capsys.readouterr()
        return code, said.out, said.err.strip()

    return command


def test_a_checkpoint_in_two_formats_with_map(run: Any, trained: Any, tmp_path: Path) -> None:
    numbers, folder = tmp_path / "numbers.json", tmp_path / "figures"
    data = ["--data.root", str(trained.root), "--data.num_workers", "0"]
    code, said, _ = run("--formats", "torch,torchscript", *data, "--json", str(numbers), "--out", str(folder))
    assert code == 0 and "torchscript" in said
    rows = json.loads(numbers.read_text())
    assert [row["format"] for row in rows] == ["torch", "torchscript"]
    assert rows[0]["speed"] == 1 and rows[0]["map"] > 0
    assert abs(rows[0]["map"] - rows[1]["map"]) < 1e-3
    for row in rows:
        assert 0 < row["latency_ms"] <= row["latency_p90_ms"]
        assert row["parameters"] == sum(x.numel() for x in trained.model.parameters())
        assert row["bytes"] > 0 and row["images_per_second"] > 0 and len(row["seconds"]) == 2
    picture = cv2.imread(str(folder / "latency.png"))
    assert picture is not None and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10
    assert not list(tmp_path.glob("*.torchscript"))


def test_without_data_there_is_no_map(run: Any, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    assert run("--formats", "torch", "--json", str(numbers), "--out", str(tmp_path))[0] == 0
    assert json.loads(numbers.read_text())[0]["map"] is None
    assert (tmp_path / "latency.png").is_file()


def test_memory_is_measured_on_images_that_the_models_take(
    run: Any, trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, asked = tmp_path / "m.torchscript", []
    write_torchscript(trained.model, replace(trained.info, output="decoded", input_size=(64, 96)), path)

    def note(place: Path, size: tuple[int, int], *_: Any) -> int:
        asked.append((place, size))
        return 2**20

    monkeypatch.setattr("yolo_lite.deploy.contest.added_memory", note)
    assert run("--memory", "true", checkpoints=(path,))[0] == 0
    assert asked == [(path, (64, 96))]


@pytest.fixture(scope="module")
def exported(trained: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained detector for images of any size."""
    path = tmp_path_factory.mktemp("exported") / "m.torchscript"
    write_torchscript(trained.model, replace(trained.info, output="decoded"), path)
    return path


def test_a_size_is_that_of_all_models(run: Any, trained_file: Path, exported: Path, tmp_path: Path) -> None:
    """Of exported files of any size too, which were measured at the size of the training."""
    code, said, error = run("--formats", "torch", "--image_size", "96", checkpoints=(trained_file, exported))
    assert code == 0 and "96x96 px" in said and not error


def test_a_size_that_a_file_does_not_take_is_told_with_its_name(run: Any, trained: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.torchscript"
    write_torchscript(trained.model, replace(trained.info, output="decoded", input_size=(64, 64)), path)
    code, _, said = run("--image_size", "96", checkpoints=(path,))
    assert code == 2 and said == f"error: {path}: image_size=96: this model takes 64x64 pixels only; leave it out"


def test_a_device_that_is_chosen_here(
    run: Any, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is the CPU where there is no GPU, with its memory."""
    monkeypatch.setattr("yolo_lite.deploy.contest.added_memory", lambda *_: 2**20)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    numbers = tmp_path / "numbers.json"
    arguments = ["--device", "auto", "--memory", "true", "--json", str(numbers)]
    code, said, _ = run(*arguments, checkpoints=(exported,))
    assert code == 0 and "64x64 px, cpu, " in said
    assert json.loads(numbers.read_text())[0]["added_bytes"] == 2**20


def test_endings_in_capitals(run: Any, trained_file: Path, tmp_path: Path) -> None:
    path = shutil.copy(trained_file, tmp_path / "M.SAFETENSORS")
    code, said, _ = run("--formats", "torch", checkpoints=(path,))
    assert code == 0 and "torch" in said


def test_a_folder_of_several_models_is_told_with_their_names(run: Any, tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / f"{name}.xml").touch()
    message = f"{tmp_path} is a folder of 4 models, a.xml, b.xml, c.xml, ...: give one of them"
    code, _, said = run(checkpoints=(tmp_path,))
    assert code == 2 and said == f"error: {message}"
    with pytest.raises(UserError, match=re.escape(message)):
        open_runtime(tmp_path)


def test_the_help_lists_the_formats(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "".join(f"of {', '.join(CHOICES)}".split()) in "".join(capsys.readouterr().out.split())


def test_what_cannot_be_had_is_one_line_and_left_out(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    code, said, _ = run("--formats", "torch,openvino,onnx-int8")
    assert code == 0
    skipped = [line for line in said.splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2
    assert skipped[0].startswith("skipped openvino: ") and "pip install" in skipped[0]
    assert skipped[1] == "skipped onnx-int8: int8 is calibrated on data: give --data.root"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formats", "tflite"], "--formats tflite: choose of torch"),
        (["--rounds", "0"], "--rounds 0: give at least 1"),
        (["--data.root", "none"], "none"),
        (["--device", "tpu"], "device 'tpu'"),
    ],
)
def test_errors_are_one_line(run: Any, arguments: list[str], message: str) -> None:
    code, _, said = run(*arguments)
    assert code == 2 and message in said and "\n" not in said


def test_a_missing_file_is_one_line(run: Any, tmp_path: Path) -> None:
    code, _, said = run(checkpoints=(tmp_path / "none.ckpt",))
    assert code == 2 and "none.ckpt" in said and "\n" not in said


def test_a_read_only_folder_is_said_before_anything_is_measured(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != tmp_path)
    code, shown, said = run("--formats", "torch", "--json", str(tmp_path / "n.json"))
    assert code == 2 and said.endswith("n.json: its folder is read-only") and not shown


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("none.onnx", None, "no file "), ("m.onnx", bytes(99), "not a readable ONNX file"), ("m.zip", b"", "no model")],
    ids=["missing", "damaged", "unknown"],
)
def test_an_exported_file_that_cannot_be_read(
    run: Any, trained_file: Path, tmp_path: Path, name: str, content: bytes | None, words: str
) -> None:
    """It was named, and is not left out as what cannot be exported is."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    code, shown, said = run("--formats", "torch", checkpoints=(trained_file, path))
    assert code == 2 and words in said and name in said and "\n" not in said and not shown


def test_an_exported_file_whose_package_is_missing_is_left_out(
    run: Any, trained_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path = tmp_path / "m.onnx"
    path.touch()
    code, said, _ = run("--formats", "torch", checkpoints=(trained_file, path))
    assert code == 0 and said.startswith(f"skipped {path}: ") and "pip install" in said


def test_a_file_is_measured_once(run: Any, trained_file: Path) -> None:
    other = trained_file.parent / ".." / trained_file.parent.name / trained_file.name
    code, shown, said = run(checkpoints=(trained_file, other))
    assert code == 2 and said.endswith(f"--checkpoint names {other} twice: give each file once") and not shown


def test_formats_and_names() -> None:
    assert parse_formats("torch, onnx,torch") == ["torch", "onnx"]
    assert {"torch", "onnx-int8", "openvino-int8", "onnx-fp16", "torch_export"} <= set(CHOICES)
    assert short_names([Path("a/best.ckpt"), Path("b/best.ckpt")]) == ["a/best.ckpt", "b/best.ckpt"]


def test_a_figure_of_one_model_and_of_equal_ones() -> None:
    point = Point("a $model$", "onnx", "fp32", 10.0, 0.6)
    assert latency_figure([point], True, "title").startswith(b"\x89PNG")
    assert latency_figure([point, point], False, "title").startswith(b"\x89PNG")
