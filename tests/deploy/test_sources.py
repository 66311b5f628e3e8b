"""Where images come from: every kind of source, in order, with failures in their places."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from yolo_lite.deploy import sources
from yolo_lite.deploy.sources import Failure, Frame, common_folder, is_single, open_sources, with_listed

Save = Callable[[Path, np.ndarray], Path]


def picture(value: int, size: tuple[int, int] = (8, 12)) -> np.ndarray:
    return np.full((*size, 3), value, dtype=np.uint8)


def read(*given: Any, **options: Any) -> list[Frame | Failure]:
    return list(open_sources(list(given), **options)[1])


def names(found: list[Frame | Failure]) -> list[str]:
    return [Path(one.source).name if isinstance(one, Frame) else f"! {one.error}" for one in found]


def test_files_folders_and_patterns_in_their_order(tmp_path: Path, save_image: Save) -> None:
    for name in ("b/2.png", "b/deep/1.jpg", "a/10.png", "a/9.png", "a/.hidden.png"):
        save_image(tmp_path / name, picture(9))
    (tmp_path / "b" / "notes.txt").write_text("no image")
    found = read(tmp_path / "b", str(tmp_path / "a" / "*.png"), tmp_path / "a" / "9.png")
    assert names(found) == ["2.png", "1.jpg", "10.png", "9.png", "9.png"]
    assert open_sources([str(tmp_path / "b"), str(tmp_path / "a")])[0] == 4


def test_a_folder_has_videos_too(tmp_path: Path, save_image: Save, save_video: Callable[..., Path]) -> None:
    """Folders of phones are mixed; one of videos alone is no empty one."""
    save_image(tmp_path / "b.png", picture(1))
    save_image(tmp_path / "d.png", picture(1))
    (tmp_path / "only").mkdir()
    for name in ("c.MP4", "only/a.avi"):
        save_video(tmp_path / name, [picture(9, (32, 48))] * 2, code="MJPG" if name.endswith("avi") else "mp4v")
    assert names(read(tmp_path)) == ["b.png", "c.MP4", "c.MP4", "d.png", "a.avi", "a.avi"]
    assert names(read(tmp_path / "only")) == ["a.avi", "a.avi"]
    assert open_sources([tmp_path / "only"])[0] is None


def test_drawings_of_earlier_runs_are_not_looked_at(
    tmp_path: Path, save_image: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless they are asked for by name."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "predictions/1/drawn.png", "x/predictions/b.png"):
        save_image(Path(name), picture(1))
    assert names(read(".")) == names(read(tmp_path)) == ["a.png", "b.png"]
    assert names(read("predictions")) == names(read("predictions/1")) == ["drawn.png"]
    assert names(read("predictions/1/drawn.png")) == ["drawn.png"]


def test_a_file_may_be_called_as_a_pattern_or_a_number(
    tmp_path: Path, save_image: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(tmp_path / "a[1].png", picture(1))
    save_image(tmp_path / "x.png", picture(2)).rename(tmp_path / "7")
    monkeypatch.chdir(tmp_path)
    assert names(read(str(tmp_path / "a[1].png"), "7")) == ["a[1].png", "7"]


def test_what_cannot_be_read_is_told_in_its_place(tmp_path: Path, save_image: Save) -> None:
    good = save_image(tmp_path / "good.png", picture(1))
    whole = save_image(tmp_path / "cut.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    whole.write_bytes(whole.read_bytes()[:1500])
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "nothing").mkdir()
    gone = tmp_path / "gone.png"
    found = read(text, good, whole, tmp_path / "empty.png", tmp_path / "nothing", str(tmp_path / "*.bmp"), gone, good)
    assert [isinstance(one, Frame) for one in found] == [False, True, False, False, False, False, False, True]
    for one, words in zip(
        found, ["text.jpg", "", "cut.jpg", "empty.png", "nothing", "*.bmp", "gone.png"], strict=False
    ):
        if isinstance(one, Failure):
            assert words in str(one.error)
            assert "\n" not in str(one.error)


def test_every_kind_of_pixels_is_upright_rgb(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (5, 7), dtype=np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 255, (5, 7, 4), dtype=np.uint8), "RGBA").save(tmp_path / "rgba.png")
    Image.fromarray(picture(50, (1, 1))).save(tmp_path / "one.png")
    turned = Image.fromarray(np.concatenate([picture(0, (16, 16)), picture(255, (16, 32))], axis=1))
    exif = turned.getexif()
    exif[274] = 6  # to be turned by 90 degrees to the right
    turned.save(tmp_path / "turned.jpg", exif=exif)
    frames = {Path(one.source).name: one for one in read(tmp_path) if isinstance(one, Frame)}
    assert {name: frame.size for name, frame in frames.items()} == {
        "grey.png": (5, 7),
        "rgba.png": (5, 7),
        "one.png": (1, 1),
        "turned.jpg": (48, 16),
    }
    for frame in frames.values():
        assert frame.pixels.shape == (*frame.size, 3)
        assert frame.is_file
    assert (np.diff(frames["grey.png"].pixels, axis=2) == 0).all()
    assert frames["turned.jpg"].pixels[:12].mean() < 30 < 220 < frames["turned.jpg"].pixels[20:].mean()


@pytest.mark.parametrize("ahead", [1, 2, 5, 16])
def test_the_order_is_that_of_the_sources(ahead: int, tmp_path: Path, save_image: Save) -> None:
    rng = np.random.default_rng(0)
    for i in range(20):
        save_image(tmp_path / f"{i:02d}.png", picture(i, (int(rng.integers(1, 300)), 200)))
    assert [int(one.pixels[0, 0, 0]) for one in read(tmp_path, ahead=ahead) if isinstance(one, Frame)] == list(
        range(20)
    )


def test_large_images_are_decoded_in_their_turn(
    tmp_path: Path, save_image: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sixteen of them at once would not fit the memory."""
    for i in range(6):
        save_image(tmp_path / f"{i}.png", picture(i, (20, 20) if i % 2 else (2, 2)))
    monkeypatch.setattr(sources, "PIXELS_AHEAD", 100)
    decoded: list[str] = []
    decode = sources.decode_frame
    monkeypatch.setattr(sources, "decode_frame", lambda path, *rest: decoded.append(path.name) or decode(path, *rest))
    _, frames = open_sources([tmp_path])
    next(frames)
    assert not {"3.png", "5.png"} & set(decoded)
    assert [int(one.pixels[0, 0, 0]) for one in frames if isinstance(one, Frame)] == [1, 2, 3, 4, 5]


def test_a_large_jpeg_is_decoded_smaller(tmp_path: Path, save_image: Save) -> None:
    path = save_image(tmp_path / "large.jpg", picture(90, (600, 900)))
    (frame,) = read(path, at_least=200)
    assert isinstance(frame, Frame)
    assert frame.size == (600, 900)
    assert frame.pixels.shape[1] == 225
    assert frame.scale == 0.25


def test_a_video_tells_number_and_rate(tmp_path: Path, save_video: Callable[..., Path], save_image: Save) -> None:
    video = save_video(tmp_path / "film.mp4", [picture(40 * i, (32, 48)) for i in range(5)], rate=12.0)
    image = save_image(tmp_path / "a.png", picture(1))
    total, frames = open_sources([image, video, image])
    assert total is None
    found = [one for one in frames if isinstance(one, Frame)]
    assert [one.number for one in found] == [None, 0, 1, 2, 3, 4, None]
    assert {one.rate for one in found} == {None, 12.0}
    assert [round(float(one.pixels.mean()) / 40) for one in found[1:-1]] == [0, 1, 2, 3, 4]
    assert not any(one.is_live for one in found)


def test_videos_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("no film")
    found = read(tmp_path / "text.mp4", tmp_path / "gone.avi")
    assert [str(one.error) for one in found if isinstance(one, Failure)] == [
        f"video {tmp_path / 'text.mp4'}: not readable",
        f"video {tmp_path / 'gone.avi'}: missing",
    ]


@pytest.mark.parametrize(("name", "code"), [("film.avi", "MJPG"), ("film.mkv", "MJPG")])
def test_a_video_that_breaks_off_is_told(name: str, code: str, tmp_path: Path, save_video: Callable[..., Path]) -> None:
    """After what is there of it, which counts."""
    noise = np.random.default_rng(0).integers(0, 255, (6, 48, 64, 3), dtype=np.uint8)
    video = save_video(tmp_path / name, list(noise), code=code)
    assert names(read(video)) == [name] * 6
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    *pictures, last = names(read(video))
    assert 2 <= len(pictures) <= 4 and set(pictures) == {name}
    assert last.startswith(f"! video {video}: ends after {len(pictures)} of about 6 pictures")


class Camera:
    """Gives three pictures, then is unplugged."""

    def __init__(self, number: int) -> None:
        self.left = 3 if number == 0 else 0
        self.is_released = False

    def isOpened(self) -> bool:
        return self.left > 0

    def get(self, what: int) -> float:
        return 0.0

    def read(self) -> tuple[bool, np.ndarray | None]:
        self.left -= 1
        return (True, picture(1)) if self.left >= 0 else (False, None)

    def release(self) -> None:
        self.is_released = True


class Film(Camera):
    """A video whose container tells `count` pictures at `rate`, and which has one at each of `seconds`."""

    def __init__(self, seconds: list[float], count: float, rate: float) -> None:
        super().__init__(0)
        self.left = len(seconds)
        self.seconds = seconds
        self.told = {cv2.CAP_PROP_FRAME_COUNT: count, cv2.CAP_PROP_FPS: rate}

    def isOpened(self) -> bool:
        return True

    def get(self, what: int) -> float:
        if what == cv2.CAP_PROP_POS_MSEC:
            return 1000 * self.seconds[-1 - self.left] if self.left >= 0 else 0.0
        return self.told[what]


EVEN = [i / 25 for i in range(100)]


@pytest.mark.parametrize(
    ("film", "is_whole"),
    [
        (Film(EVEN, 100, 25), True),
        (Film(EVEN[:60], 100, 25), False),
        (Film(EVEN[:80], 100, 25), True),  # a phone cut off the first 0.8 seconds, and left them in the file
        (Film([0.0] * 100, 100, 25), True),  # a build of OpenCV that knows no times
        (Film([0.0, 0.5, 1.0, 1.9, 3.0], 90, 30), True),  # of varying rate: the number is reckoned from the length
        (Film([0.0, 0.5, 1.0], 90, 30), False),
        (Film(EVEN[:60], -9e15, 25), True),  # a stream that was saved as it came
        (Film(EVEN[:60], 0, 25), True),
        (Film(EVEN[:60], 100, 0), True),
    ],
)
def test_how_long_a_video_is(film: Film, is_whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", lambda path: film)
    (tmp_path / "film.mp4").touch()
    found = read(tmp_path / "film.mp4")
    assert [isinstance(one, Frame) for one in found] == [True] * len(film.seconds) + [False] * (not is_whole)


def test_cameras_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Camera] = []
    monkeypatch.setattr(cv2, "VideoCapture", lambda number: opened.append(Camera(number)) or opened[-1])
    found = read("0", 5)
    assert [one.source for one in found if isinstance(one, Frame)] == ["camera 0"] * 3
    assert all(one.is_live and one.rate is None for one in found if isinstance(one, Frame))
    assert names(found)[3] == "! camera 5: not there, or in use"
    assert all(camera.is_released for camera in opened)
    _, frames = open_sources(["0"])
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert opened[-1].is_released


def give_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_a_list_on_standard_input(tmp_path: Path, save_image: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [save_image(tmp_path / name, picture(1)) for name in ("a b.png", "ü.png")]
    content = b"\n".join(os.fsencode(path) for path in listed) + b"\r\n\n" + os.fsencode(tmp_path) + b"/\xff.png\n"
    give_stdin(monkeypatch, content)
    found = read("-")
    assert names(found)[:2] == ["a b.png", "ü.png"]
    assert isinstance(found[2], Failure)
    give_stdin(monkeypatch, content)
    assert with_listed(["x", "-", "y"]) == ["x", *map(str, listed), f"{tmp_path}/\udcff.png", "y"]


def test_arrays_and_pillow() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = read(picture(3), grey, grey[..., None], Image.fromarray(picture(5)).convert("RGBA"))
    assert [one.pixels.shape for one in found if isinstance(one, Frame)] == [
        (8, 12, 3),
        (3, 4, 3),
        (3, 4, 3),
        (8, 12, 3),
    ]
    assert [one.source for one in found if isinstance(one, Frame)] == [f"image {i}" for i in range(4)]


def test_pillow_images_are_what_their_files_are(tmp_path: Path, save_image: Save) -> None:
    """Turned as EXIF says, 16 bits by their upper 8, what is transparent grey: as if the file had been named."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 12, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(noise[..., :3]).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(noise).save(tmp_path / "clear.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    for path in tmp_path.iterdir():
        named, opened = read(path, Image.open(path))
        assert isinstance(named, Frame) and isinstance(opened, Frame)
        np.testing.assert_array_equal(named.pixels, opened.pixels)
        assert named.size == opened.size
    save_image(tmp_path / "cut.png", noise[..., :3])
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:100])
    assert names(read(Image.open(tmp_path / "cut.png")))[0].startswith("! image 0: cannot decode it")


@pytest.mark.parametrize("one", [None, 3.5, b"GIF89a", np.int64(7), "a.jpg", Path("a.jpg"), picture(1)])
def test_what_is_one_source(one: Any) -> None:
    """Bytes above all: one by one they would be the numbers of cameras."""
    assert is_single(one)
    assert not is_single([one]) and not is_single(iter([one]))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        object(),
        True,
    ],
)
def test_what_is_no_image(array: Any) -> None:
    (found,) = read(array)
    assert isinstance(found, Failure)
    assert "image 0" in str(found.error)


def test_an_iterator_is_asked_as_images_are_needed() -> None:
    asked: list[int] = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            asked.append(len(asked))
            yield picture(len(asked) % 255)

    total, frames = open_sources(endless())
    assert total is None
    assert [next(frames).source for _ in range(40)] == [f"image {i}" for i in range(40)]  # type: ignore[union-attr]
    assert len(asked) < 100
    frames.close()  # type: ignore[attr-defined]


def test_the_folder_that_sources_share(tmp_path: Path, save_image: Save) -> None:
    for name in ("a/1.png", "a/b/2.png", "c/3.png"):
        save_image(tmp_path / name, picture(1))
    assert common_folder([str(tmp_path / "a")]) == tmp_path / "a"
    assert common_folder([str(tmp_path / "a" / "1.png")]) == tmp_path / "a"
    assert common_folder([str(tmp_path / "a"), str(tmp_path / "c" / "3.png")]) == tmp_path
    assert common_folder([str(tmp_path / "a" / "**" / "*.png")]) == tmp_path / "a"
    assert common_folder([str(tmp_path / "a" / "b"), "0"]) == tmp_path / "a" / "b"
    assert common_folder(["0"]) is None
