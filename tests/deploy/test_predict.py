"""The command as a user types it: results, skipped images, exit codes, interruption."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from yolo_lite import load_model, predict
from yolo_lite.deploy import writers

Save = Callable[[Path, np.ndarray], Path]


@pytest.fixture
def photos(tmp_path: Path, save_image: Save, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures in two folders, in the current one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("photos/a.jpg", "photos/b.png", "photos/x/a.jpg", "photos/x/deep/c.jpg"):
        save_image(Path(name), rng.integers(0, 255, (50, 70, 3), dtype=np.uint8))
    return Path("photos")


@pytest.fixture
def command(checkpoint: Path) -> Callable[..., int]:
    """Run with the checkpoint of three classes."""

    def run(*args: object) -> int:
        return predict.main(["--checkpoint", str(checkpoint), "--device", "cpu", *map(str, args)])

    return run


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_annotated_images_by_default(
    photos: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(photos) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.startswith("4 images, ")
    assert "images per second, in predictions/1" in shown.out
    assert files_in(Path("predictions/1")) == ["a.jpg", "b.png", "x/a.jpg", "x/deep/c.jpg"]
    original, drawn = cv2.imread("photos/b.png"), cv2.imread("predictions/1/b.png")
    assert drawn.shape == original.shape
    assert (drawn != original).any()
    assert command(photos / "a.jpg") == 0
    assert files_in(Path("predictions/2")) == ["a.jpg"]
    assert len(files_in(Path("predictions/1"))) == 4


def test_all_formats_say_what_python_says(photos: Path, command: Callable[..., int], checkpoint: Path) -> None:
    assert command(photos, "--save", "coco,csv,yolo", "--out", "new/results", "--score", "0.3") == 0
    out = Path("new/results")
    labels = ["labels/a.txt", "labels/b.txt", "labels/x/a.txt", "labels/x/deep/c.txt"]
    assert files_in(out) == ["detections.csv", "detections.json", *labels]
    found = load_model(checkpoint, device="cpu").predict(photos, score=0.3)
    content = json.loads((out / "detections.json").read_text())
    with open(out / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [image["file_name"] for image in content["images"]] == [one.source for one in found]
    for number, (one, name) in enumerate(zip(found, labels, strict=True), start=1):
        assert len(one) > 0
        annotations = [a for a in content["annotations"] if a["image_id"] == number]
        np.testing.assert_allclose([a["score"] for a in annotations], one.scores, atol=1e-5)
        np.testing.assert_allclose([a["bbox"][:2] for a in annotations], one.boxes_xyxy[:, :2], atol=1e-3)
        assert [row["class"] for row in rows if row["source"] == one.source] == one.names
        shares = np.loadtxt(out / name, ndmin=2)
        np.testing.assert_allclose(shares[:, 5], one.scores, atol=1e-5)
        height, width = one.size
        middle = (one.boxes_xyxy[:, :2] + one.boxes_xyxy[:, 2:]) / 2 / [width, height]
        np.testing.assert_allclose(shares[:, 1:3], middle, atol=1e-5)


def test_a_folder_with_junk(
    photos: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str], save_image: Save
) -> None:
    junk = Path("junk")
    whole = save_image(junk / "cut.jpg", np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:2000])
    (junk / "text.jpg").write_text("not a picture")
    save_image(junk / "one.png", np.zeros((1, 1, 3), np.uint8))
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(junk / "grey.png")
    Image.fromarray(np.zeros((40, 50, 4), np.uint8)).save(junk / "rgba.png")
    exif = Image.Exif()
    exif[274] = 8
    Image.fromarray(np.zeros((40, 90, 3), np.uint8)).save(junk / "turned.jpg", exif=exif)
    (junk / "notes.txt").write_text("not looked at")
    Path("empty").mkdir()
    assert command(junk, "empty", "--save", "images,coco") == predict.EXIT_SKIPPED
    shown = capsys.readouterr()
    lines = shown.err.splitlines()
    assert [line.startswith("skipped: ") for line in lines] == [True, True, True, False]
    for line, words in zip(
        lines, ["cut.jpg", "text.jpg", "no images or videos in empty", "3 of 7 images were skipped"], strict=True
    ):
        assert words in line
    assert shown.out.startswith("4 images, ")
    out = Path("predictions/1")
    kept = ["grey.png", "one.png", "rgba.png", "turned.jpg"]
    assert files_in(out) == ["detections.json", *(f"junk/{name}" for name in kept)]
    sizes = {
        i["file_name"]: (i["height"], i["width"]) for i in json.loads((out / "detections.json").read_text())["images"]
    }
    assert sizes == {
        "junk/grey.png": (40, 50),
        "junk/one.png": (1, 1),
        "junk/rgba.png": (40, 50),
        "junk/turned.jpg": (90, 40),
    }
    assert cv2.imread(str(out / "junk" / "turned.jpg")).shape == (90, 40, 3)


@pytest.mark.parametrize("source", ["gone.jpg", "empty", "*.bmp", "text.mp4"])
def test_nothing_could_be_read(
    source: str, command: Callable[..., int], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.mp4").write_text("no film")
    assert command(source) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert source in lines[0]
    assert lines[1].startswith("error: none of the images could be read")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "text.mp4"]


def test_folders_that_nothing_was_written_to_do_not_stay(
    photos: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine/empty").mkdir(parents=True)
    assert command("gone.jpg", "--out", "new/a/b") == 2
    assert command("gone.jpg", "--out", "mine/a/b") == 2
    assert command("gone.jpg", "--out", "mine/empty") == 2
    assert not Path("new").exists()
    assert [path.name for path in Path("mine").iterdir()] == ["empty"]
    capsys.readouterr()
    assert command(photos / "a.jpg", "--save", "csv") == 0
    assert capsys.readouterr().out.startswith("1 image, ")
    assert command("gone.jpg", "--save", "images") == 2
    assert [path.name for path in Path("predictions").iterdir()] == ["1"]


def test_a_camera_that_is_not_there_is_one_line(
    photos: Path, command: Callable[..., int], capfd: pytest.CaptureFixture[str]
) -> None:
    assert command("97") == 2
    skipped, error = capfd.readouterr().err.splitlines()
    assert skipped == "skipped: camera 97: not there, or in use"
    assert error.startswith("error: none of the images could be read")


def test_an_image_that_is_too_large_for_jpeg_ends_nothing(
    photos: Path, command: Callable[..., int], save_image: Save
) -> None:
    """Its drawing is a PNG, and those of the others are there."""
    wide = save_image(photos / "0.bmp", np.full((4, 66_000, 3), 90, np.uint8))
    assert command(wide, photos / "a.jpg", "--save", "images,csv") == 0
    assert files_in(Path("predictions/1")) == ["0.png", "a.jpg", "detections.csv"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "no SOURCE"),
        (["photos", "--save", "pictures"], "--save pictures: give some of images,video,coco,csv,yolo"),
        (["photos", "--save", ""], "--save"),
        (["photos", "--save", "none,csv"], "--save none,csv"),
        (["photos", "--out", "photos"], "--out photos is not empty"),
        (["photos", "--out", "photos/a.jpg"], "is a file"),
        (["photos", "--conf", "0.3"], "no option --conf here: give --score"),
        (["photos", "--batch-size", "4"], "no option --batch-size here: give --batch_size"),
        (["photos", "--imgsz=640"], "no option --imgsz here: give --image_size"),
        (["photos", "--score", "2"], "score=2.0"),
        (["photos", "--save", "[images, csv]"], "--save [images, csv]: give some of"),
        (["photos", "--tile", "8"], "tile=8"),
        (["photos", "--image_size", "100"], "image_size=100"),
        (["photos", "--device", "abacus"], "abacus"),
        (["photos", "--checkpoint", "gone.ckpt"], "gone.ckpt"),
        (["photos", "--nonsense", "1"], "nonsense"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    args: list[str], words: str, photos: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*args) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert words in lines[0]
    assert not Path("predictions").exists()


def test_nothing_is_written_where_nothing_is_wanted(photos: Path, command: Callable[..., int]) -> None:
    assert command(photos, "--save", "none") == 0
    assert not Path("predictions").exists()


def test_an_empty_folder_may_be_given(photos: Path, command: Callable[..., int]) -> None:
    Path("out").mkdir()
    assert command(photos, "--out", "out") == 0
    assert len(files_in(Path("out"))) == 4


def test_folders_of_one_name_do_not_meet(photos: Path, command: Callable[..., int], save_image: Save) -> None:
    for name in ("one/day/a.jpg", "two/day/a.jpg"):
        save_image(Path(name), np.zeros((30, 30, 3), np.uint8))
    assert command("one/day", "two/day/*.jpg") == 0
    assert files_in(Path("predictions/1")) == ["one/day/a.jpg", "two/day/a.jpg"]


def test_a_list_on_standard_input(
    photos: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def give(content: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    give(b"photos/x/a.jpg\nphotos/gone.jpg\nphotos/a.jpg\n")
    assert command("-", "--save", "images,csv") == predict.EXIT_SKIPPED
    assert files_in(Path("predictions/1")) == ["a.jpg", "detections.csv", "x/a.jpg"]
    assert "photos/gone.jpg: missing" in capsys.readouterr().err
    give(b"\n")
    assert command("-") == 2
    assert "lists no image" in capsys.readouterr().err


def test_a_video_among_images(photos: Path, command: Callable[..., int], save_video: Callable[..., Path]) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (48, 64, 3), dtype=np.uint8) for _ in range(5)]
    film = save_video(photos / "film.avi", pictures, rate=12.0, code="MJPG")
    assert command(photos / "a.jpg", film, "--save", "images,video,yolo", "--batch_size", 3) == 0
    out = Path("predictions/1")
    frames = [f"labels/film.avi/{i:06d}.txt" for i in range(5)]
    assert files_in(out) == ["a.jpg", "film.mp4", "labels/a.txt", *frames]
    capture = cv2.VideoCapture(str(out / "film.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.0
    assert [capture.read()[0] for _ in range(6)] == [True] * 5 + [False]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_whole_files(
    number: signal.Signals,
    photos: Path,
    command: Callable[..., int],
    save_image: Save,
    save_video: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    film = save_video(Path("film.mp4"), [np.full((48, 64, 3), 40 * i, np.uint8) for i in range(6)] * 10)
    add = writers.CocoWriter.add

    def add_and_stop(writer: Any, prediction: Any) -> None:
        add(writer, prediction)
        if prediction.frame == 10:
            signal.raise_signal(number)

    monkeypatch.setattr(writers.CocoWriter, "add", add_and_stop)
    before = signal.getsignal(number)
    assert command(film, "--save", "video,coco,csv", "--batch_size", 2) == 128 + number
    assert signal.getsignal(number) == before
    shown = capsys.readouterr()
    assert shown.err.startswith(f"stopped by {number.name} after ")
    out = Path("predictions/1")
    assert files_in(out) == ["detections.csv", "detections.json", "film.mp4"]
    images = json.loads((out / "detections.json").read_text())["images"]
    assert 11 <= len(images) <= 14
    capture = cv2.VideoCapture(str(out / "film.mp4"))
    assert [capture.read()[0] for _ in range(len(images) + 1)] == [True] * len(images) + [False]


def test_a_second_interrupt_leaves_nothing_half(
    photos: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def impatient(writer: Any, prediction: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(writers.CsvWriter, "add", impatient)
    assert command(photos, "--save", "images,csv,coco") == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert files_in(Path("predictions/1")) == ["a.jpg"]


def test_a_full_disk_is_one_line(
    photos: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", full)
    assert command(photos) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "cannot write predictions/1/a.jpg: No space left on device" in lines[0]
    assert not Path("predictions").exists()


def test_all_of_the_options_arrive(
    photos: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--tile", 32, "--overlap", 0.3, "--augment", "--rectangular", "--iou", 0.3, "--max_detections", 1]
    assert command(photos, "--save", "csv", "--image_size", 32, "--batch_size", 5, *options) == 0
    assert capsys.readouterr().out.startswith("4 images, 4 detections")


def documented() -> list[str]:
    """The arguments of every command that README and docs give."""
    pages = [Path(predict.__file__).parents[1] / name for name in ("README.md", "docs/deployment.md")]
    start = "python -m yolo_lite.predict "
    lines = [line for page in pages for line in page.read_text(encoding="utf-8").splitlines()]
    return [line.partition(start)[2] for line in lines if start in line and "--checkpoint" in line]


@pytest.mark.parametrize("line", documented())
def test_documented_commands_are_understood(line: str) -> None:
    config = predict.build_parser().parse_args(shlex.split(line))
    assert predict.chosen_kinds(config.save)
    assert config.source


def test_an_empty_name_is_not_the_folder_that_one_is_in(
    photos: Path, command: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos)
    assert command("", "--save", "none") == 2
    assert "skipped: an empty name" in capsys.readouterr().err
