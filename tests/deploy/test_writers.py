"""What is written: formats that others read, names that never collide, whole files or none."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_lite.deploy.prediction import Prediction
from yolo_lite.deploy.writers import (
    CSV_COLUMNS,
    LARGEST_JPEG,
    CocoWriter,
    CsvWriter,
    ImageWriter,
    OutputNames,
    VideoWriter,
    Writer,
    YoloWriter,
)
from yolo_lite.utils.errors import UserError

NAMES = ("ant", 'a "quoted", one', "ünï\ncode")
BOXES = [[10.5, 10, 40, 50], [20, 5, 70.25, 30]]


def make(source: str = "a.jpg", count: int = 2, **parts: Any) -> Prediction:
    values = {
        "source": source,
        "size": (60, 80),
        "boxes_xyxy": np.array(BOXES, np.float32)[:count].reshape(-1, 4),
        "scores": np.array([0.9, 0.4], np.float32)[:count],
        "labels": np.array([2, 1])[:count],
        "class_names": NAMES,
        "image": np.full((60, 80, 3), 128, np.uint8),
    }
    return Prediction(**(values | parts))


def write(writer: Writer, *predictions: Prediction) -> None:
    with writer as opened:
        for prediction in predictions:
            opened.add(prediction)


def files_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_coco_as_pycocotools_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "found.json"
    film = [make("film.mp4", 1, frame=i) for i in range(2)]
    write(CocoWriter(path, NAMES), make("x/a.jpg"), make("b.jpg", 0), *film)
    with contextlib.redirect_stdout(io.StringIO()):
        found = COCO(str(path))
        scores = COCOeval(found, found.loadRes([a for a in found.dataset["annotations"]]), "bbox")
        scores.evaluate()
        scores.accumulate()
        scores.summarize()
    assert scores.stats[0] == pytest.approx(1)  # against itself
    assert {i: image["file_name"] for i, image in found.imgs.items()} == {
        1: "x/a.jpg",
        2: "b.jpg",
        3: "film.mp4",
        4: "film.mp4",
    }
    assert [image.get("frame") for image in found.imgs.values()] == [None, None, 0, 1]
    assert [c["name"] for c in found.loadCats(found.getCatIds())] == list(NAMES)
    annotations = found.loadAnns(found.getAnnIds(imgIds=[1]))
    assert [a["bbox"] for a in annotations] == [[10.5, 10, 29.5, 40], [20, 5, 50.25, 25]]
    assert [a["category_id"] for a in annotations] == [3, 2]
    assert [a["score"] for a in annotations] == pytest.approx([0.9, 0.4])
    assert found.getAnnIds(imgIds=[2]) == []


def test_coco_without_anything(tmp_path: Path) -> None:
    write(CocoWriter(tmp_path / "found.json", NAMES))
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["images"] == content["annotations"] == []


def test_csv(tmp_path: Path) -> None:
    strange = "line\nbreak,\udcff.jpg"
    write(CsvWriter(tmp_path / "found.csv"), make(strange), make("none.jpg", 0), make("film.mp4", 1, frame=7))
    with open(tmp_path / "found.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(CSV_COLUMNS)
    assert [row["source"] for row in rows] == [strange, strange, "film.mp4"]
    assert [row["class"] for row in rows] == [NAMES[2], NAMES[1], NAMES[2]]
    assert [row["frame"] for row in rows] == ["", "", "7"]
    assert [float(rows[1][name]) for name in ("x1", "y1", "x2", "y2", "score")] == pytest.approx([*BOXES[1], 0.4])
    assert (rows[0]["width"], rows[0]["height"]) == ("80", "60")


def test_yolo_txt(tmp_path: Path) -> None:
    names = OutputNames(tmp_path / "labels", Path("photos").absolute())
    film = [make("photos/film.mp4", 1, frame=i) for i in range(2)]
    write(YoloWriter(names), make("photos/x/a.jpg"), make("photos/b.jpg", 0), *film)
    assert files_in(tmp_path / "labels") == ["b.txt", "film.mp4/000000.txt", "film.mp4/000001.txt", "x/a.txt"]
    assert (tmp_path / "labels" / "b.txt").read_text() == ""
    rows = [list(map(float, line.split())) for line in (tmp_path / "labels" / "x" / "a.txt").read_text().splitlines()]
    for row, (x1, y1, x2, y2), label, score in zip(rows, BOXES, [2, 1], [0.9, 0.4], strict=True):
        expected = [label, (x1 + x2) / 160, (y1 + y2) / 120, (x2 - x1) / 80, (y2 - y1) / 60, score]
        assert row == pytest.approx(expected, abs=1e-6)


def test_images_lie_as_their_sources_do(tmp_path: Path) -> None:
    names = OutputNames(tmp_path / "out", tmp_path / "in")
    sources = ["a.jpg", "x/a.jpg", "x/a.png", "a.webp", "a.JPG", "b.PNG", "../other/a.jpg"]
    write(ImageWriter(names), *(make(str(tmp_path / "in" / source)) for source in sources), make("film.mp4", frame=0))
    found = files_in(tmp_path / "out")
    assert len(found) == len(sources)
    assert {"a.jpg", "x/a.jpg", "x/a.png", "b.PNG", "a.webp.jpg"} <= set(found)
    for name in found:
        image = cv2.imread(str(tmp_path / "out" / name))
        assert image.shape == (60, 80, 3)
        assert (image[30, 10:14] != 128).any()


def test_names_never_collide(tmp_path: Path) -> None:
    names = OutputNames(tmp_path)
    sources = ["a.png", "a.jpg", "x/a.png", "A.png", "a.png", "a.png.txt", "camera 0", "/"]
    paths = [names.path(source, ".txt") for source in sources[:-1]]
    assert len({str(path).lower() for path in paths}) == len(paths)
    assert all(path.parent == tmp_path for path in paths)
    assert paths[-1].name == "camera_0.txt"


@pytest.mark.parametrize("size", [(60, 80), (61, 83)])
def test_videos_keep_rate_and_length(size: tuple[int, int], tmp_path: Path) -> None:
    def film(name: str, values: list[int], rate: float | None) -> list[Prediction]:
        pictures = [np.full((*size, 3), value, np.uint8) for value in values]
        return [
            make(name, 0, size=size, image=image, frame=i, rate=rate, boxes_xyxy=np.zeros((0, 4), np.float32))
            for i, image in enumerate(pictures)
        ]

    given = [*film("a.avi", [20, 120, 220], 12.5), make("a.jpg"), *film("a.mp4", [200], None), *film("a.mp4", [9], 5.0)]
    write(VideoWriter(OutputNames(tmp_path)), *given)
    assert files_in(tmp_path) == ["a.mp4", "a.mp4.mp4", "a.mp4_2.mp4"]
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    for value in (20, 120, 220):
        _, picture = capture.read()
        assert abs(picture.shape[0] - size[0]) <= 1
        assert abs(float(picture.mean()) - value) < 6
    assert not capture.read()[0]


@pytest.mark.parametrize(
    "make_writer",
    [
        lambda folder: CocoWriter(folder / "found.json", NAMES),
        lambda folder: CsvWriter(folder / "found.csv"),
        lambda folder: VideoWriter(OutputNames(folder)),
    ],
)
@pytest.mark.parametrize("kind", [KeyboardInterrupt, UserError, RuntimeError])
def test_an_error_leaves_no_half_of_a_file(
    make_writer: Callable[[Path], Writer], kind: type[BaseException], tmp_path: Path
) -> None:
    def interrupted() -> None:
        with make_writer(tmp_path) as writer:
            writer.add(make("film.mp4", frame=0))
            raise kind("stop")

    with pytest.raises(kind, match="stop"):
        interrupted()
    assert files_in(tmp_path) == []


def test_a_whole_video_stays_when_the_next_one_breaks_off(tmp_path: Path) -> None:
    def interrupted() -> None:
        with VideoWriter(OutputNames(tmp_path)) as writer:
            writer.add(make("a.mp4", frame=0))
            writer.add(make("b.mp4", frame=0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert files_in(tmp_path) == ["a.mp4"]


def test_an_image_that_is_too_large_for_jpeg(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, width in (("wide.bmp", 70_000), ("last.bmp", LARGEST_JPEG), ("first.JPG", LARGEST_JPEG + 1)):
        image = np.full((2, width, 3), 90, np.uint8)
        write(ImageWriter(OutputNames(tmp_path)), make(name, 0, image=image, size=(2, width)))
    assert files_in(tmp_path) == ["first.png", "last.jpg", "wide.png"]
    assert cv2.imread(str(tmp_path / "wide.png")).shape == (2, 70_000, 3)
    assert capfd.readouterr().err == ""


def test_a_format_that_is_too_small(tmp_path: Path) -> None:
    width = 1_000_001
    image = np.zeros((1, width, 3), np.uint8)
    with pytest.raises(UserError, match=r"a\.png: 1000001x1 pixels"):
        write(ImageWriter(OutputNames(tmp_path)), make("a.png", 0, image=image, size=(1, width)))
    assert files_in(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot make the folder"):
        write(CsvWriter(tmp_path / "file" / "found.csv"))
    with pytest.raises(UserError, match="cannot make the folder"):
        write(YoloWriter(OutputNames(tmp_path / "file")), make())
