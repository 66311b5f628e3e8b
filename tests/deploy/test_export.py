"""Written models are the models that were trained, in every format; what cannot be written is one line."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from tests.deploy.lively import NAMES, lively
from yolo_lite import export, load_model
from yolo_lite.deploy import exporting
from yolo_lite.deploy.exporting import FORMATS, SUFFIXES, export_model, writing
from yolo_lite.deploy.formats import save_openvino
from yolo_lite.deploy.loading import open_runtime
from yolo_lite.deploy.model_info import KEY, ModelInfo, Suppression
from yolo_lite.deploy.runtimes import TorchRuntime
from yolo_lite.deploy.verification import TOLERANCES, compare, probe_images
from yolo_lite.utils.errors import UserError

LIMITS = Suppression(0.3, 0.6, 50)
STATIC = {"batch": 2, "input_size": (256, 384)}


def wanted(info: ModelInfo, output: str, **changes: Any) -> ModelInfo:
    """The description of what is to be written."""
    return replace(info, output=output, suppression=LIMITS if output == "nms" else None, **changes)  # type: ignore[arg-type]


def assert_same(exported: exporting.Exported) -> None:
    boxes, scores = TOLERANCES["fp32"]
    assert all(d.boxes <= boxes and d.scores <= scores for d in exported.differences)
    detections, unmatched = (sum(getattr(d, key) for d in exported.differences) for key in ("detections", "unmatched"))
    assert detections > 10
    assert unmatched <= 0.02 * detections  # of thousands of boxes, two are so nearly equal that either may stay


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        *(("torchscript", output) for output in ("raw", "decoded", "nms")),
        *(("onnx", "raw"), ("onnx", "nms"), ("openvino", "decoded"), ("torch_export", "nms")),
    ],
)
def test_every_format_is_the_model_and_says_so(kind: Any, output: str, tmp_path: Path) -> None:
    """Of one size and number of images; for any of them there is a test below, for all combinations a slow one."""
    model, info = lively()
    written = wanted(info, output, **STATIC)
    exported = export_model(model, written, kind, tmp_path / f"m{SUFFIXES[kind]}")
    assert_same(exported)
    assert [d.shape for d in exported.differences] == [(2, 3, 256, 384)]
    assert open_runtime(exported.path).info == written


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_any_size_and_number_of_images(kind: Any, tmp_path: Path) -> None:
    model, info = lively()
    exported = export_model(model, wanted(info, "decoded"), kind, tmp_path / f"m{SUFFIXES[kind]}")
    assert_same(exported)
    assert len({d.shape[0] for d in exported.differences}) == len({d.shape[2:] for d in exported.differences}) == 2
    runtime = open_runtime(exported.path)
    assert compare(TorchRuntime(model, info), runtime, probe_images((5, 3, 32, 224))).is_within("fp32")
    if kind == "onnx":
        check_onnx(exported.path)


def check_onnx(path: Path) -> None:
    """What others read in the file."""
    proto = onnx.load(path)
    assert [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim] == [
        *("batch", 3, "height", "width")
    ]
    said = json.loads({prop.key: prop.value for prop in proto.metadata_props}[KEY])
    assert said["class_names"] == NAMES
    assert (said["strides"], said["image_size"], said["fill"]) == ([8, 16, 32], 64, 114)
    assert [output.name for output in proto.graph.output] == ["boxes_xyxy", "scores"]
    content = path.read_bytes()
    assert b"site-packages" not in content and str(Path(exporting.__file__).parent).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("output", ["raw", "decoded", "nms"])
@pytest.mark.parametrize("kind", ["onnx", "openvino", "torchscript", "torch_export"])
@pytest.mark.parametrize("variant", ["yolov8n", "yolov8n-lite", "yolov8n-lite-adown", "yolov8n-edge"])
def test_every_variant_format_and_output_at_two_sizes_and_batches(
    variant: str, kind: Any, output: str, tmp_path: Path
) -> None:
    model, info = lively(variant)
    exported = export_model(model, wanted(info, output), kind, tmp_path / f"m{SUFFIXES[kind]}")
    assert_same(exported)
    assert len(exported.differences) == 4


@pytest.mark.parametrize("variant", ["yolov8n-lite", "yolov8n-lite-adown", "yolov8n-edge"])
def test_light_models_are_the_same_too(variant: str, tmp_path: Path) -> None:
    """Resizing layers of constant factors, the Haar transform as a convolution, nothing that depends on shapes."""
    model, info = lively(variant)
    assert_same(export_model(model, wanted(info, "decoded"), "torchscript", tmp_path / "m.torchscript"))
    if variant == "yolov8n-lite":
        assert_same(export_model(model, wanted(info, "raw", **STATIC), "onnx", tmp_path / "m.onnx"))


@pytest.mark.parametrize("kind", ["torchscript", "safetensors", pytest.param("onnx", marks=pytest.mark.slow)])
def test_half_precision_halves_the_file(kind: Any, tmp_path: Path) -> None:
    """What becomes of accuracy is measured with a trained model: random weights let rounding grow by the layer."""
    model, info = lively()
    small = {"output": "decoded", "batch": 1, "input_size": (64, 64)}
    settings = {"output": "raw"} if kind == "safetensors" else small
    exported = [
        export_model(
            model, replace(info, precision=precision, **settings), kind, tmp_path / f"{precision}{SUFFIXES[kind]}"
        )
        for precision in ("fp32", "fp16")
    ]
    assert exported[1].size < 0.6 * exported[0].size
    (difference,) = exported[1].differences[:1]
    assert 0 < difference.boxes < 0.5 and difference.scores < 0.5


def test_weights_alone_are_the_weights(tmp_path: Path) -> None:
    model, info = lively("yolov8n-lite", levels="P3-P5", neck_width=64)
    path = tmp_path / "m.safetensors"
    export_model(model, info, "safetensors", path)
    detector = load_model(path)
    assert detector.class_names == tuple(NAMES)
    assert detector.image_size == info.image_size
    assert compare(TorchRuntime(model, info), detector.runtime, probe_images((1, 3, 64, 64))).boxes == 0
    assert path.stat().st_mode & 0o044 == (0o666 & ~current_umask()) & 0o044


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_predictions_are_those_of_the_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((64, 64), (40, 90), (200, 120))]
    expected = load_model(checkpoint).predict(images)
    assert sum(map(len, expected)) > 5
    for arguments in (["--output", "nms"], ["--batch", "2", "--input_size", "[64, 64]"]):
        path = tmp_path / f"m{len(arguments)}.torchscript"
        command = ["--checkpoint", str(checkpoint), "--format", "torchscript", "--out", str(path), *arguments]
        assert export.main(command) == 0
        for one, other in zip(expected, load_model(path).predict(images), strict=True):
            assert one.labels.tolist() == other.labels.tolist()
            np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=1e-2)
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "safetensors", "--output", "decoded"], "safetensors holds weights and no graph"),
        (["--input_size", "[64, 65]"], "input_size=64x65: give multiples of 32"),
        (["--input_size", "[64]"], "--input_size [64]: give height and width, such as --input_size 320 640"),
        (["--input_size", "64", "wide"], "--input_size 64 wide: give height and width"),
        (["--input_size", "64", "65"], "input_size=64x65: give multiples of 32"),
        (["--score", "0.3"], "--score 0.3 is of suppression in the graph: give --output nms too"),
        (["--output", "raw", "--max_detections", "9"], "--max_detections 9 is of suppression"),
        (["--batch", "0"], "batch=0: give at least 1"),
        (["--image_size", "100"], "image_size=100: give a multiple of 32"),
        (["--image_size", "0"], "image_size=0: give a multiple of 32"),
        (["--output", "nms", "--score", "2"], "score"),
        (["--out", "nowhere/m.onnx"], "no folder"),
        (["--out", "m.pth"], "a file of onnx must be called *.onnx"),
    ],
)
def test_what_does_not_go_together_is_one_line(
    arguments: list[str], message: str, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint, tmp_path / "m.ckpt")
    assert export.main(["--checkpoint", "m.ckpt", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and "\n" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["m.ckpt"]


def test_nothing_is_overwritten_unless_asked(checkpoint: Path, tmp_path: Path, capsys: Any) -> None:
    shutil.copy(checkpoint, tmp_path / "m.ckpt")
    command = ["--checkpoint", str(tmp_path / "m.ckpt"), "--format", "torchscript", "--input_size", "[64, 64]"]
    target = tmp_path / "m.torchscript"
    target.write_text("precious")
    assert export.main(command) == 2
    assert "is there already: --overwrite true" in capsys.readouterr().err
    assert target.read_text() == "precious"
    assert export.main([*command, "--overwrite", "true"]) == 0
    assert len(load_model(target).class_names) == 3


def test_a_wrong_file_is_not_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_other(model: Any, info: ModelInfo, path: Path) -> None:
        other, _ = lively(seed=1)
        exporting.formats.write_torchscript(other, info, path)

    monkeypatch.setitem(exporting.WRITERS, "torchscript", write_other)
    model, info = lively()
    with pytest.raises(UserError, match=r"differs from PyTorch by .* nothing was written"):
        export_model(model, wanted(info, "raw", **STATIC), "torchscript", tmp_path / "m.torchscript")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [f for f in FORMATS if f != "openvino"])
def test_damaged_files_are_one_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{SUFFIXES[kind]}"
    for content in (b"", b"hello", os.urandom(2000)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path} is not a readable") as caught:
            open_runtime(path)
        assert "\n" not in str(caught.value)


def test_files_of_others_are_one_line(tmp_path: Path) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [onnx.helper.make_tensor_value_info("x", 1, [1])],
        [onnx.helper.make_tensor_value_info("y", 1, [1])],
    )
    model = onnx.helper.make_model(graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid("", 18)])
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(UserError, match="was not written by yolo-lite"):
        open_runtime(tmp_path / "m.onnx")
    torch.jit.save(torch.jit.script(torch.nn.Identity()), str(tmp_path / "m.torchscript"))
    with pytest.raises(UserError, match="was not written by yolo-lite"):
        open_runtime(tmp_path / "m.torchscript")
    (tmp_path / "m.pth").write_bytes(b"")
    with pytest.raises(UserError, match="no model that can be run"):
        open_runtime(tmp_path / "m.pth")


def test_without_safetensors_it_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="--format safetensors needs safetensors: pip install"):
        export_model(*lively(width=0.125), "safetensors", tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["torchscript", "safetensors"])
def test_a_full_disk_is_one_line(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_bytes(path: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    model, info = lively()
    path = tmp_path / f"m{SUFFIXES[kind]}"
    with pytest.raises(UserError, match=f"cannot write {path}: No space left"):
        export_model(model, wanted(info, "raw"), kind, path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk to write to is a thing of Linux")
def test_a_full_disk_under_openvino_is_one_line(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed (requirements-export.txt)")
    images = openvino.opset13.parameter([64], np.float32)
    total = openvino.opset13.add(images, np.arange(64, dtype=np.float32))
    (tmp_path / "m.bin").symlink_to("/dev/full")
    path = tmp_path / "m.xml"
    with pytest.raises(UserError, match=f"cannot write {path}: .*disk is full"), writing(path):
        save_openvino(openvino.Model([total], [images]), lively(width=0.125)[1], path)
