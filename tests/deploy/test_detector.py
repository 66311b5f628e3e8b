"""Predicting from Python: right boxes in the right order, by the protocol of eval.py, and nothing in a file runs."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from yolo_lite import load_model
from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.deploy.detector import Detector, PredictOptions
from yolo_lite.deploy.model_info import KEY, ModelInfo
from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.runtimes import OpenVinoRuntime
from yolo_lite.deploy.sources import Frame
from yolo_lite.ops.postprocess import MAX_DETECTIONS, PREDICT_IOU, PREDICT_SCORE, detect, to_original
from yolo_lite.training.module import DetectionModule
from yolo_lite.utils.checkpoints import read_checkpoint
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.signals import signal_stack

Make = Callable[..., Detector]
Draw = Callable[..., np.ndarray]
Save = Callable[[Path, np.ndarray], Path]


def boxes_of(prediction: Prediction) -> list[list[float]]:
    return sorted(prediction.boxes_xyxy.tolist())


def assert_near(found: Prediction, expected: list[list[int]], tolerance: float) -> None:
    got = boxes_of(found)
    assert len(got) == len(expected), got
    np.testing.assert_allclose(got, sorted(expected), atol=tolerance)


def test_boxes_are_in_pixels_of_the_image(colour_detector: Make, draw_rectangles: Draw) -> None:
    boxes = [[10, 20, 60, 70], [100, 30, 180, 120]]
    (found,) = colour_detector().predict(draw_rectangles((160, 200), boxes, [0, 2]))
    assert_near(found, boxes, 2)
    assert found.size == (160, 200)
    assert set(found.names) == {"red", "blue"}
    assert found.boxes_xyxy.dtype == found.scores.dtype == np.float32
    assert found.labels.dtype == np.int64


def test_an_image_turned_by_exif(colour_detector: Make, draw_rectangles: Draw, tmp_path: Path) -> None:
    upright = draw_rectangles((200, 100), [[10, 20, 50, 60]])
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path / "turned.jpg", exif=exif, quality=95, subsampling=0)
    (found,) = colour_detector().predict(tmp_path / "turned.jpg")
    assert found.size == (200, 100)
    assert_near(found, [[10, 20, 50, 60]], 3)


@pytest.mark.parametrize("rectangular", [False, True])
@pytest.mark.parametrize("tile", [None, 96])
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_results_come_in_the_order_of_sources(
    batch_size: int,
    tile: int | None,
    rectangular: bool,
    colour_detector: Make,
    draw_rectangles: Draw,
    save_image: Save,
    tmp_path: Path,
) -> None:
    rng = np.random.default_rng(batch_size)
    expected, sources = [], []
    for i in range(14):
        if i % 5 == 2:
            (tmp_path / f"{i:02d}.jpg").write_text("damaged")
            sources.append(tmp_path / f"{i:02d}.jpg")
            continue
        height, width = (int(side) for side in rng.integers(60, 260, 2))
        box = [5 + i, 5, 30 + i, 40]
        expected.append((f"{i:02d}.png", (height, width), box))
        sources.append(save_image(tmp_path / f"{i:02d}.png", draw_rectangles((height, width), [box])))
    detector, problems = colour_detector(), []
    options = {"batch_size": batch_size, "tile": tile, "rectangular": rectangular}
    found = list(detector.stream(sources, problems.append, **options))
    assert [Path(one.source).name for one in found] == [name for name, _, _ in expected]
    for one, (_, size, box) in zip(found, expected, strict=True):
        assert one.size == size
        assert_near(one, [box], 5)
        assert one.image is None
    assert [str(error).partition(".jpg")[0][-2:] for error in problems] == ["02", "07", "12"]
    runtime: Any = detector.runtime
    assert max(shape[0] for shape in runtime.batches) <= batch_size
    with pytest.raises(UserError, match=r"02\.jpg"):
        colour_detector().predict(sources, **options)


def test_tiles_find_what_is_small(colour_detector: Make, draw_rectangles: Draw) -> None:
    """4 pixels of 700 are less than a pixel of the whole image at 128."""
    small = [[100 + 50 * k, 30 + 40 * k, 104 + 50 * k, 34 + 40 * k] for k in range(10)]
    large = [20, 450, 600, 650]
    picture = draw_rectangles((700, 700), [*small, large], [0] * 10 + [1])
    detector = colour_detector()
    (whole,) = detector.predict(picture)
    assert_near(whole, [large], 12)
    (tiled,) = detector.predict(picture, tile=128)
    assert_near(tiled, [*small, large], 12)
    (thorough,) = detector.predict(picture, tile=128, augment=True, iou=0.3)  # a smaller look is off by a pixel of 4
    assert len(thorough) == 11


def test_augmentation_finds_each_object_once(colour_detector: Make, draw_rectangles: Draw) -> None:
    boxes = [[10, 20, 60, 70], [100, 30, 180, 120]]
    (found,) = colour_detector().predict(draw_rectangles((160, 200), boxes), augment=True)
    assert_near(found, boxes, 3)


def test_few_views_are_in_memory_at_once(colour_detector: Make) -> None:
    """A large image has hundreds of tiles; they go through the network as they are cut."""
    detector = colour_detector(64)
    detector.predict(np.zeros((1000, 1000, 3), np.uint8), tile=64, batch_size=4)
    runtime: Any = detector.runtime
    assert {shape[0] for shape in runtime.batches[:-1]} == {4}
    assert sum(shape[0] for shape in runtime.batches) > 300


def test_a_camera_does_not_wait_for_more(colour_detector: Make, draw_rectangles: Draw) -> None:
    taken = 0

    def frames() -> Any:
        nonlocal taken
        for number in range(3):
            taken += 1
            yield Frame("camera 0", (64, 64), draw_rectangles((64, 64), []), number, is_live=True)

    for seen, _ in enumerate(colour_detector().look_at(frames(), PredictOptions()), start=1):
        assert taken == seen


def test_a_video(colour_detector: Make, draw_rectangles: Draw, save_video: Callable[..., Path], tmp_path: Path) -> None:
    pictures = [draw_rectangles((96, 128), [[10 + 8 * i, 20, 42 + 8 * i, 60]]) for i in range(6)]
    found = colour_detector().predict(save_video(tmp_path / "film.mp4", pictures, rate=12.0), batch_size=4)
    assert [one.frame for one in found] == list(range(6))
    for i, one in enumerate(found):
        assert_near(one, [[10 + 8 * i, 20, 42 + 8 * i, 60]], 3)
        assert one.rate == 12.0
        assert one.image is not None


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
def test_the_smallest_images(size: tuple[int, int], checkpoint: Path) -> None:
    (found,) = load_model(checkpoint).predict(np.zeros((*size, 3), np.uint8), score=0.001)
    height, width = size
    assert (found.boxes_xyxy >= 0).all()
    assert (found.boxes_xyxy <= [width, height, width, height]).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_large_images(
    suffix: str, colour_detector: Make, draw_rectangles: Draw, save_image: Save, tmp_path: Path
) -> None:
    box = [2000, 1000, 4000, 5000]
    path = save_image(tmp_path / f"large{suffix}", draw_rectangles((9000, 12000), [box]))
    (found,) = colour_detector().predict(path)
    assert found.size == (9000, 12000)
    assert_near(found, [box], 200)


def assert_same(found: Prediction, boxes_xyxy: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor) -> None:
    """The same set, up to what folding BatchNorm changes: of two nearly equal scores either may come first."""
    assert len(found) == len(scores)
    rows = np.column_stack([found.boxes_xyxy, 100 * found.scores, 100 * found.labels])
    expected = np.column_stack([boxes_xyxy, 100 * scores, 100 * labels])
    distance = np.abs(rows[:, None] - expected).max(axis=2)
    assert distance.min(axis=1).max() < 0.05
    assert distance.min(axis=0).max() < 0.05


def eval_batches(root: Path, image_size: int) -> Any:
    data = DetectionDataModule(root, image_size=image_size, batch_size=3, num_workers=0, cache="none")
    return data.val_dataloader()


def test_results_are_those_of_eval(one_class_checkpoint: Path, tiny_coco: Callable[..., Path]) -> None:
    """The boxes that scoring sees, from the prediction threshold up."""
    root = tiny_coco(num_val=5, size=(90, 70), suffix=".jpg")
    module = DetectionModule.load_from_checkpoint(one_class_checkpoint, map_location="cpu").eval()
    detector = load_model(one_class_checkpoint, device="cpu")
    found = detector.predict(root / "images" / "val", batch_size=2)
    with torch.inference_mode():
        expected = [one for batch in eval_batches(root, 64) for one in module.detect_batch(batch)[1]]
    assert len(found) == len(expected) == 5
    assert sum(map(len, found)) > 20
    for one, detections in zip(found, expected, strict=True):
        keep = detections.scores > PREDICT_SCORE
        assert_same(one, *(x[keep] for x in (detections.boxes_xyxy, detections.scores, detections.labels)))


def test_a_box_has_its_best_class_only(checkpoint: Path, tiny_coco: Callable[..., Path]) -> None:
    """With several classes, where scoring may list a box once for each."""
    root = tiny_coco(num_val=4, size=(90, 120))
    module = DetectionModule.load_from_checkpoint(checkpoint, map_location="cpu").eval()
    found = load_model(checkpoint, device="cpu").predict(root / "images" / "val")
    expected = []
    with torch.inference_mode():
        for batch in eval_batches(root, 64):
            limits = (PREDICT_SCORE, PREDICT_IOU, MAX_DETECTIONS, False)
            boxes = detect(module(batch.images), module.model.strides, module.reg_max, *limits)
            sizes = batch.original_sizes.tolist()
            expected += [to_original(d, b, s) for d, b, s in zip(boxes, batch.letterboxes, sizes, strict=True)]
    for one, detections in zip(found, expected, strict=True):
        assert len(one) > 0
        assert_same(one, detections.boxes_xyxy, detections.scores, detections.labels)


def test_another_size(checkpoint: Path) -> None:
    assert load_model(checkpoint).image_size == 64
    assert load_model(checkpoint, image_size=96).image_size == 96
    with pytest.raises(UserError, match="image_size=100: give a multiple of 32"):
        load_model(checkpoint, image_size=100)


@pytest.mark.parametrize(
    "options", [{"score": 1.5}, {"iou": -0.1}, {"max_detections": 0}, {"batch_size": 0}, {"tile": 10}, {"overlap": 1.0}]
)
def test_options_out_of_range(options: dict[str, Any], colour_detector: Make) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        colour_detector().predict(np.zeros((8, 8, 3), np.uint8), **options)


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["top", "hyper_parameters", "state_dict"])
def test_nothing_in_a_checkpoint_runs(place: str, checkpoint: Path, tmp_path: Path) -> None:
    content: Any = read_checkpoint(checkpoint)
    bomb = Bomb(tmp_path / "ran")
    content = bomb if place == "top" else {**content, place: {**content[place], "extra": bomb}}
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"bad\.ckpt"):
        load_model(tmp_path / "bad.ckpt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "bad.ckpt", weights_only=False)
    assert (tmp_path / "ran").exists()  # it would have


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("yolo_lite", {}),
        ("yolo_lite", 5),
        ("yolo_lite", {"format": 1}),
        ("hyper_parameters", {}),
        ("hyper_parameters", {"variant": "yolov8n", "image_size": "big"}),
        ("state_dict", 3),
    ],
)
def test_a_damaged_checkpoint_is_one_line(part: str, change: Any, checkpoint: Path, tmp_path: Path) -> None:
    torch.save({**read_checkpoint(checkpoint), part: change}, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=r"bad\.ckpt is damaged"):
        load_model(tmp_path / "bad.ckpt")


def test_a_file_of_a_size_that_cannot_be_is_one_line(checkpoint: Path, tmp_path: Path) -> None:
    """It would end in an error of PyTorch in the middle of the network."""
    content = read_checkpoint(checkpoint)
    content["hyper_parameters"]["image_size"] = 100
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(UserError, match=r"odd\.ckpt says that it takes images of 100 pixels, .*multiple of 32"):
        load_model(tmp_path / "odd.ckpt")
    said = ModelInfo("yolov8n", ("a",), -32, (8, 16, 32), 16).to_json()
    with pytest.raises(UserError, match=r"m\.onnx says that it takes images of -32 pixels"):
        ModelInfo.from_json(said, "m.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": None}, r"load_model\(None\): give the name of a file"),
        ({"image_size": "320"}, "image_size='320': give a whole number"),
        ({"threads": "2"}, "threads='2': give a whole number"),
    ],
)
def test_arguments_of_another_type_are_told(arguments: dict[str, Any], message: str, checkpoint: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_model(**{"path": checkpoint, **arguments})


def test_an_ending_in_capitals(trained_file: Path, tmp_path: Path) -> None:
    path = shutil.copy(trained_file, tmp_path / "M.SAFETENSORS")
    assert load_model(path, device="cpu", image_size=np.int64(96)).image_size == 96  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"score": "0.3"}, {"batch_size": 2.5}, {"tile": 100.5}, {"overlap": None}])
def test_options_of_another_type_are_told(options: dict[str, Any], colour_detector: Make) -> None:
    with pytest.raises(UserError, match=f"{next(iter(options))}=.*: give a"):
        colour_detector().predict([], **options)


def test_results_do_not_depend_on_the_speed_of_the_machine(
    colour_detector: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock on which every look takes an hour changes nothing: no step has a time limit."""
    import time

    rng = np.random.default_rng(0)
    picture = rng.integers(0, 2, (128, 128, 3), dtype=np.uint8) * 255  # pure colours everywhere: hundreds of patches
    (usual,) = colour_detector().predict(picture)
    now = 0.0

    def slow() -> float:
        nonlocal now
        now += 3600
        return now

    for name in ("time", "perf_counter", "monotonic"):
        monkeypatch.setattr(time, name, slow)
    (late,) = colour_detector().predict(picture)
    assert len(usual) == MAX_DETECTIONS
    np.testing.assert_array_equal(usual.boxes_xyxy, late.boxes_xyxy)
    np.testing.assert_array_equal(usual.labels, late.labels)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("conf", "did you mean score?"),
        ("max_detection", "did you mean max_detections?"),
        ("imgsz", "give image_size to load_model"),
        ("zzz", "there are score, iou, max_detections"),
    ],
)
def test_an_unknown_option_is_named(colour_detector: Make, draw_rectangles: Draw, name: str, meant: str) -> None:
    with pytest.raises(UserError, match=rf"no option {name} here: .*{re.escape(meant)}"):
        colour_detector().predict(draw_rectangles((64, 64), [], []), **{name: 0.3})


def test_what_is_no_xml_of_openvino_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (requirements-export.txt)")
    path = tmp_path / "m.xml"
    for content, words in ((bytes(5000), "does not begin as XML"), (b'<?xml version="1.0"?>', "no file .*m.bin")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=words):
            load_model(path)
    assert capfd.readouterr().err == ""


def test_ctrl_c_after_models_of_openvino(colour_detector: Make, tmp_path: Path) -> None:
    """OpenVINO leaves a stack for signals that is gone, which would end this process, and so is looked at first."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed (requirements-export.txt)")
    images = openvino.opset13.parameter([1, 3, 64, 64], np.float32)
    model = openvino.Model([openvino.opset13.relu(images)], [images])
    raw = {"output": "raw", "strides": (8,), "reg_max": 0, "batch": 1, "input_size": (64, 64)}
    model.set_rt_info(replace(colour_detector().info, **raw).to_json(), [KEY])
    openvino.save_model(model, str(tmp_path / "m.xml"))
    before = list(signal_stack() or [])
    loaded = [OpenVinoRuntime(tmp_path / "m.xml") for _ in range(2)]
    while loaded:
        del loaded[0]
        assert list(signal_stack() or []) == before
    former = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, former)


@pytest.mark.parametrize("name", ["m.ckpt", "m.safetensors", "m.onnx", "m.torchscript", "m.pt2", "m.xml", "w.bin"])
def test_a_file_without_permission_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Libraries said that it is not there, or damaged. (Root may read everything, so that chmod shows nothing.)"""
    path = tmp_path / name
    path.touch()
    if path.suffix == ".bin":
        pytest.importorskip("openvino", reason="openvino is not installed (requirements-export.txt)")
        path.with_suffix(".xml").write_text('<?xml version="1.0"?>')
    monkeypatch.setattr(os, "access", lambda place, mode: Path(place) != path)
    with pytest.raises(UserError, match=rf"{name} may not be read by you: permission denied"):
        load_model(path.with_suffix(".xml") if path.suffix == ".bin" else path)
