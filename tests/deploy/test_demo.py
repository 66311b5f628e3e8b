"""The browser demo: the folder is whole or not there; the page finds what Python finds, and asks nobody else."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.ops import batched_nms

from yolo_lite import demo, load_model
from yolo_lite.deploy import demo_folder
from yolo_lite.deploy.demo_folder import RUNTIME_FILES, BrowserRuntime, find_runtime, readable_info, write_demo
from yolo_lite.deploy.formats import write_onnx
from yolo_lite.deploy.model_info import KEY, ModelInfo, Suppression
from yolo_lite.deploy.views import View, see
from yolo_lite.models import build_model
from yolo_lite.utils.errors import UserError

onnx = pytest.importorskip("onnx", reason="onnx is not installed (requirements-export.txt)")

SIZE, CELL, BOX = 96, 8, 60  # neighbouring boxes overlap by 0.76: suppression has something to do
INFO = ModelInfo("colours", ("red <b>", "green"), SIZE, (CELL,), 16, "decoded", "fp32", None, (SIZE, SIZE))


def write_colour_model(path: Path, info: ModelInfo = INFO) -> Path:
    """A graph with the outputs of an exported detector, made in no time: red and green cells of a grid are objects."""
    helper, proto, array = onnx.helper, onnx.TensorProto, onnx.numpy_helper.from_array
    rows, columns = np.mgrid[0:SIZE:CELL, 0:SIZE:CELL].reshape(2, -1) + CELL / 2
    boxes = np.stack([columns - BOX / 2, rows - BOX / 2, columns + BOX / 2, rows + BOX / 2], axis=1)[None]
    weight = np.array([[8, -4, -4], [-4, 8, -4]], np.float32)[..., None, None]
    constants = {
        "weight": weight,
        "bias": np.full(2, -2, np.float32),
        "anchors": boxes.astype(np.float32),
        "nothing": np.zeros(1, np.float32),
        "flat": np.array([0, 2, -1]),
        "last": np.array([2]),
        "count": np.array([20]),
    }
    nodes = [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Conv", ["cells", "weight", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["maps"]),
        helper.make_node("Reshape", ["maps", "flat"], ["by_class"]),
        helper.make_node("Transpose", ["by_class"], ["all_scores"], perm=[0, 2, 1]),
        helper.make_node("ReduceMax", ["all_scores", "last"], ["best"], keepdims=1),
        helper.make_node("Mul", ["best", "nothing"], ["zeros"]),
        helper.make_node("Add", ["anchors", "zeros"], ["all_boxes"]),
    ]
    if info.output == "nms":
        nodes += [
            helper.make_node("Squeeze", ["best", "last"], ["best_scores"]),
            helper.make_node("TopK", ["best_scores", "count"], ["scores", "places"]),
            helper.make_node("ArgMax", ["all_scores"], ["classes"], axis=2, keepdims=0),
            helper.make_node("GatherElements", ["classes", "places"], ["labels"], axis=1),
            helper.make_node("Unsqueeze", ["places", "last"], ["index"]),
            helper.make_node("GatherND", ["all_boxes", "index"], ["boxes_xyxy"], batch_dims=1),
        ]
        types = {"boxes_xyxy": proto.FLOAT, "scores": proto.FLOAT, "labels": proto.INT64}
    elif info.output == "raw":
        types = {"maps": proto.FLOAT}
    else:
        nodes += [
            helper.make_node("Identity", ["all_boxes"], ["boxes_xyxy"]),
            helper.make_node("Identity", ["all_scores"], ["scores"]),
        ]
        types = {"boxes_xyxy": proto.FLOAT, "scores": proto.FLOAT}
    images = helper.make_tensor_value_info("images", proto.FLOAT, [info.batch or "batch", 3, SIZE, SIZE])
    outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()]
    initializers = [array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "colours", [images], outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {KEY: info.to_json()})
    onnx.save(model, str(path))
    return path


def make_picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) uint8: patches of all colours that run into each other."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.float32)
    return cv2.resize(patches, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def encode(picture: np.ndarray | Image.Image, kind: str = "png", **options: Any) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_colour_model(tmp_path / "colours.onnx")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder as npm makes it, with files of the same names and nothing in them."""
    folder = tmp_path / "node_modules" / "onnxruntime-web"
    (folder / "dist").mkdir(parents=True)
    about = {"name": "onnxruntime-web", "version": "1.2.3", "license": "MIT"}
    (folder / "package.json").write_text(json.dumps(about))
    for name in (*RUNTIME_FILES, "ort.all.mjs"):
        (folder / "dist" / name).write_text(name)
    (folder / "LICENSE").write_text("licence of the package")
    return folder


def test_folder_has_everything_and_no_more(model: Path, package: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    out = tmp_path / "new" / "demo"
    assert demo.main(["--model", str(model), "--out", str(out), "--runtime", str(package)]) == 0
    assert "python -m http.server" in capsys.readouterr().out
    assert (out / "model.onnx").read_bytes() == model.read_bytes()
    assert {path.name for path in (out / "runtime").iterdir()} == {*RUNTIME_FILES, "LICENSE"}
    assert "1.2.3" in (out / "licences.txt").read_text()
    info = json.loads((out / "model.json").read_text())
    assert info["classNames"] == list(INFO.class_names) and info["inputSize"] == [SIZE, SIZE] and info["fill"] == 114
    page = "".join(path.read_text() for path in out.glob("*") if path.suffix in (".html", ".css", ".js"))
    for name in re.findall(r'(?:src|href)="([\w./]+)"|from "\./([\w./]+)"|new Worker\("([\w.]+)"', page):
        assert (out / "".join(name)).is_file(), name
    assert re.findall(r"https?://(?!localhost)\w+", page) == []
    assert sorted(path.name for path in out.parent.iterdir()) == ["demo"]


def test_runtime_is_found_in_folders_above(package: Path, tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert find_runtime(None, inner) == BrowserRuntime(package, "1.2.3", "MIT")


def test_missing_runtime_is_one_line(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    assert demo.main(["--model", str(model)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "npm install onnxruntime-web" in error
    assert not (tmp_path / "demo").exists()


def test_other_packages_and_old_ones_are_refused(package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        find_runtime(tmp_path / "nowhere", tmp_path)
    with pytest.raises(UserError, match="is not the package"):
        find_runtime(tmp_path, tmp_path)
    (package / "dist" / RUNTIME_FILES[0]).unlink()
    with pytest.raises(UserError, match=r"version 1\.2\.3.*@latest"):
        find_runtime(package, tmp_path)


def test_nothing_is_written_over_or_by_halves(
    model: Path, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = find_runtime(package, tmp_path)
    out = tmp_path / "demo"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        write_demo(model, readable_info(model), runtime, out)
    (out / "mine.txt").unlink()
    before = sorted(tmp_path.iterdir())

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="No space left"):
        patch.setattr(demo_folder.shutil, "copyfile", full_disk)
        write_demo(model, readable_info(model), runtime, out)
    assert sorted(tmp_path.iterdir()) == before and not any(out.iterdir())
    write_demo(model, readable_info(model), runtime, out)
    assert (out / "index.html").is_file()


def test_models_that_a_page_cannot_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    """Said before the runtime is looked for, which is not there either."""
    monkeypatch.chdir(tmp_path)
    raw = write_colour_model(tmp_path / "raw.onnx", replace(INFO, output="raw", reg_max=0))
    for model, words in ((raw, "--output decoded"), ("best.ckpt", "runs .onnx"), ("missing.onnx", "no file")):
        assert demo.main(["--model", str(model)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("args", [["--out", "x"], ["--model", "m.onnx", "--nonsense", "1"]])
def test_a_wrong_argument_is_one_line(args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(args) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which `python -m http.server` offers a folder."""
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1", "--directory", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            match = re.search(r"port (\d+)", server.stdout.readline())
            assert match is not None
            yield f"http://127.0.0.1:{match[1]}/"
        finally:
            server.terminate()


@pytest.fixture
def open_demo(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Serve a folder and open its page; at the end, nothing was complained of and nobody else was asked."""
    complaints: list[str] = []
    requests: list[str] = []
    closers: list[Callable[[], Any]] = []
    addresses: list[str] = []

    def open_folder(folder: Path, name: str = "", **options: Any) -> Any:
        server = served(folder)
        addresses.append(server.__enter__())
        context = chromium.new_context(**options)
        closers.extend([lambda: server.__exit__(None, None, None), context.close])
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(addresses[-1] + name)
        return page

    yield open_folder
    for close in reversed(closers):
        close()
    assert complaints == []
    ours = tuple(prefix + address for address in addresses for prefix in ("", "blob:"))
    assert [url for url in requests if not url.startswith((*ours, "data:"))] == []


@pytest.fixture
def page_files(tmp_path: Path) -> Path:
    """The page's own files and an empty page to use them from."""
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in demo_folder.SCRIPTS:
        shutil.copy(Path(demo_folder.__file__).parent / "demo" / name, folder / name)
    (folder / "empty.html").write_text('<!doctype html><link rel="icon" href="data:,">')
    return folder


SEEN = """async ([address, width, height]) => {
  const { seen } = await import("/resize.js");
  const blob = await (await fetch(address)).blob();
  const bitmap = await createImageBitmap(blob);
  const { values, placed } = seen(bitmap, width, height, 114);
  return [Array.from(values, (value) => Math.round(value * 255)), placed];
}"""
# (width, height) of images: equal, shrunk by whole and broken factors, grown, one pixel, thin, in several strips.
SHAPES = [(96, 64), (192, 128), (250, 187), (131, 300), (40, 31), (1, 1), (300, 2), (2100, 1010)]


def test_page_resizes_as_python(page_files: Path, open_demo: Callable[..., Any]) -> None:
    """To the last grey value where it shrinks; OpenCV's bilinear arithmetic has 11 bits, where it grows."""
    page = open_demo(page_files, "empty.html")
    for seed, (width, height) in enumerate(SHAPES):
        picture = make_picture(width, height, seed)
        (page_files / "picture.png").write_bytes(encode(picture, compress_level=1))
        values, placed = page.evaluate(SEEN, [f"/picture.png?{seed}", 96, 64])
        expected, box = see(picture, View(0, 0, width, height), (64, 96))
        found = np.array(values).reshape(3, 64, 96).transpose(1, 2, 0)
        assert np.abs(found - expected.astype(int)).max() <= 1, (width, height)
        assert (placed["left"], placed["top"]) == (box.pad_x, box.pad_y)
        assert placed["width"] == pytest.approx(box.scale_x * width)


def test_page_suppresses_as_python(page_files: Path, open_demo: Callable[..., Any]) -> None:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 60, (200, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(20, 40, (200, 2))], axis=1).astype(np.float32)
    scores, labels = np.sort(rng.random(200).astype(np.float32))[::-1], rng.integers(0, 3, 200)
    found = [{"box": b, "label": c, "score": s} for b, c, s in zip(*map(list_of, (boxes, labels, scores)), strict=True)]
    page = open_demo(page_files, "empty.html")
    for iou in (0.3, 0.7):
        script = "async ([f, iou, count]) => (await import('/postprocess.js')).survivors(f, iou, count)"
        kept = [one["score"] for one in page.evaluate(script, [found, iou, 150])]
        expected = batched_nms(*map(torch.tensor, (boxes, scores.copy(), labels)), iou)[:150]
        assert kept == scores[expected.numpy()].tolist()


def list_of(values: np.ndarray) -> list[Any]:
    """Plain numbers."""
    return list(values.tolist())


@pytest.fixture(scope="module")
def browser_runtime() -> BrowserRuntime:
    """ONNX Runtime Web; the test is skipped where it is not at hand."""
    given = os.environ.get("YOLO_LITE_ORT_WEB")
    try:
        return find_runtime(Path(given) if given else None, Path(__file__).parent)
    except UserError as error:
        pytest.skip(f"{error} (YOLO_LITE_ORT_WEB)")


def choose(page: Any, content: bytes, kind: str = "png") -> list[tuple[str, float, list[float]]]:
    """Give the page a file; what its list then says."""
    page.set_input_files("#file", {"name": f"a.{kind}", "mimeType": f"image/{kind}", "buffer": content})
    page.locator("#status", has_text="pixels").wait_for()
    page.locator("#list summary").click()
    rows = [line.split("\t") for line in page.locator("#rows tr").all_inner_texts()]
    page.locator("#list summary").click()
    return [(name, float(score), list(map(float, box.split(", ")))) for name, score, box in rows]


def check_equal(found: list[tuple[str, float, list[float]]], model: Path, picture: np.ndarray, **options: Any) -> None:
    """The page found what `load_model(...).predict` finds, best first."""
    (expected,) = load_model(model).predict(picture, **options)
    assert len(found) == len(expected.scores) > 3
    assert [name for name, _, _ in found] == [expected.class_names[label] for label in expected.labels]
    np.testing.assert_allclose([score for _, score, _ in found], expected.scores, atol=0.01)
    np.testing.assert_allclose([box for _, _, box in found], expected.boxes_xyxy, atol=0.5)


@pytest.mark.parametrize(
    "options",
    [{}, {"batch": 2}, {"output": "nms", "suppression": Suppression(0.3, 0.6, 20)}],
    ids=["decoded", "batch of 2", "nms"],
)
def test_page_finds_what_python_finds(
    options: dict[str, Any], browser_runtime: BrowserRuntime, tmp_path: Path, open_demo: Callable[..., Any]
) -> None:
    model = write_colour_model(tmp_path / "model.onnx", replace(INFO, **options))
    write_demo(model, readable_info(model), browser_runtime, tmp_path / "demo")
    page = open_demo(tmp_path / "demo")
    page.locator("#choose:enabled").wait_for()
    picture = make_picture(96, 72)
    limits = {"score": 0.3, "iou": 0.6} if options.get("output") == "nms" else {}
    check_equal(choose(page, encode(picture)), model, picture, **limits)
    assert page.locator(".box").count() == page.locator("#rows tr").count()
    assert page.locator("#classes .name").all_inner_texts() == list(INFO.class_names)


def test_page_in_use(
    model: Path, browser_runtime: BrowserRuntime, tmp_path: Path, open_demo: Callable[..., Any]
) -> None:
    """Turned photos, the threshold, classes, files that are no images, the camera, on a phone in the dark."""
    write_demo(model, readable_info(model), browser_runtime, tmp_path / "demo")
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "permissions": ["camera"]}
    page = open_demo(tmp_path / "demo", **phone)
    page.locator("#choose:enabled").wait_for()

    turned = Image.fromarray(make_picture(300, 170))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = encode(turned, "jpeg", quality=95, exif=exif)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(photo))))
    found = choose(page, photo, "jpeg")
    assert upright.shape == (300, 170, 3)
    check_equal(found, model, upright)
    frame = page.locator("#boxes").bounding_box()
    assert frame["height"] / frame["width"] == pytest.approx(300 / 170, rel=0.02)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390

    page.locator("#score").fill("0.6")
    assert page.locator(".box").count() == sum(score > 0.6 for _, score, _ in found)
    reds = page.locator("#classes button").first
    reds.press("Enter")
    assert reds.get_attribute("aria-pressed") == "false"
    assert page.locator(".box").count() == sum(score > 0.6 and name == "green" for name, score, _ in found)

    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image"})
    page.locator("#status.failed", has_text='"notes.txt" is not an image').wait_for()
    assert page.locator(".box").count() == 0 and page.locator("#hint").is_visible()

    page.locator("#camera").press("Enter")
    page.locator("#status", has_text=re.compile("640 . 480 pixels")).wait_for()
    assert page.locator("#camera").inner_text() == "Stop camera" and page.locator("#video").is_visible()
    page.locator("#camera").press("Enter")
    assert page.locator("#video").is_hidden() and page.locator("#status").inner_text() == "Ready."


def test_page_says_what_is_wrong(
    model: Path, browser_runtime: BrowserRuntime, tmp_path: Path, chromium: Any, open_demo: Callable[..., Any]
) -> None:
    write_demo(model, readable_info(model), browser_runtime, tmp_path / "demo")
    page = open_demo(tmp_path / "demo")  # without the permission to use a camera
    page.locator("#camera:enabled").click()
    page.locator("#status.failed", has_text="not allowed").wait_for()
    assert page.locator("#camera").inner_text() == "Open camera"

    (tmp_path / "demo" / "model.onnx").write_bytes(b"no model")
    page.reload()
    page.locator("#status.failed", has_text="The model cannot be loaded").wait_for()
    assert page.locator("#choose").is_disabled()

    context = chromium.new_context()
    from_disk = context.new_page()
    from_disk.goto((tmp_path / "demo" / "index.html").as_uri())
    from_disk.locator("#status.failed", has_text="python -m http.server").wait_for()
    context.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "output", "precision"),
    [("yolov8n", "decoded", "fp32"), ("yolov8n-lite", "nms", "fp32"), ("yolov8n-lite-adown", "decoded", "fp16")],
)
def test_page_runs_exported_detectors(
    variant: str,
    output: Any,
    precision: Any,
    browser_runtime: BrowserRuntime,
    tmp_path: Path,
    open_demo: Callable[..., Any],
) -> None:
    torch.manual_seed(0)
    detector = build_model(variant, 2)
    picture = make_picture(96, 72)
    images = torch.zeros(2, 3, 96, 96)
    images[:, :, 12:84] = torch.from_numpy(picture).permute(2, 0, 1) / 255
    with torch.no_grad():
        for _ in range(60):  # the statistics of BatchNorm, without which nothing depends on the image
            detector.train()(images + 0.1 * torch.rand_like(images))
        spread_scores(detector.eval(), images[:1])
    limits = Suppression(0.3, 0.6, 50) if output == "nms" else None
    info = ModelInfo.of(detector, variant, ["a", "b"], 96)
    info = replace(info, output=output, precision=precision, input_size=(96, 96), suppression=limits)
    model = tmp_path / "detector.onnx"
    write_onnx(detector, info, model)
    write_demo(model, readable_info(model), browser_runtime, tmp_path / "demo")
    page = open_demo(tmp_path / "demo")
    page.locator("#choose:enabled").wait_for()
    check_equal(choose(page, encode(picture)), model, picture, **({"score": 0.3, "iou": 0.6} if limits else {}))


def spread_scores(detector: Any, image: torch.Tensor) -> None:
    """Change the last layers so that logits of an untrained detector have a mean of -2 and a spread of 2."""
    for classes, maps in zip(detector.head.classes, detector(image), strict=True):
        logits = maps[:, -detector.head.num_classes :]
        factor = 2 / max(float(logits.std()), 1e-6)
        classes[-1].weight *= factor
        classes[-1].bias -= classes[-1].bias + factor * (logits.mean() - classes[-1].bias) + 2
