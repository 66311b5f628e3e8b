"""Where images come from: files, folders, patterns, videos, cameras, a list on standard input, arrays.

Notation: images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import glob
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from yolo_lite.data.decoding import decode_picture
from yolo_lite.data.images import ImageProblem, decode_file, inspect_image, read_file
from yolo_lite.data.layouts import IMAGE_SUFFIXES, list_images
from yolo_lite.utils.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv")
PREDICTIONS = Path("predictions")  # what `predict` writes to unless it is told otherwise
STDIN = "-"
# Of a whole video: phones leave the pictures in the file that were cut off before its start, up to a second of them.
LEFT_OUT_SECONDS = 1.0
LEFT_OUT_SHARE = 0.25
PATTERN = "*?["
# Images that are read while the network works on others.
AHEAD = 16
READERS = 2
# Larger ones are decoded when they are asked for: 16 aerial photographs at once would fill the memory.
PIXELS_AHEAD = 2**25


@dataclass(frozen=True)
class Frame:
    """An image to look at.

    Attributes:
        source: path of the image or video, `camera N`, or `image N` of an array.
        size: (height, width) of the upright image, pixels.
        pixels: (h, w, 3) uint8 RGB; of a large JPEG a copy of a half, a quarter or an eighth of its size.
        number: of a video's picture, from 0; None: no video.
        rate: of a video, pictures per second.
        is_file: the image can be read again from `source`.
        is_live: of a camera: it should not wait for more.
    """

    source: str
    size: tuple[int, int]
    pixels: np.ndarray
    number: int | None = None
    rate: float | None = None
    is_file: bool = False
    is_live: bool = False

    @property
    def scale(self) -> float:
        """Pixels of `pixels` per pixel of the image."""
        return self.pixels.shape[1] / self.size[1]

    def without_pixels(self) -> Frame:
        """The same, when all who need its pixels have them."""
        return replace(self, pixels=np.zeros((0, 0, 3), np.uint8))


@dataclass(frozen=True)
class Failure:
    """An image that could not be read, and why; in the place where it would have come."""

    error: UserError


def list_files(source: str) -> list[Path]:
    """The files that a path, a folder or a pattern means; of a folder the images and videos in it and below, sorted.

    What `predict` drew is left out of folders above it, or the next run would find its own pictures.

    Raises:
        UserError: there are none.
    """
    if not source:  # Path("") is the folder that one is in, which nobody means by an unset variable
        raise UserError("an empty name: give a path, . for the folder that you are in")
    path = Path(source)
    if path.is_dir():
        suffixes = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        is_asked_for = PREDICTIONS.resolve() in (path.resolve(), *path.resolve().parents)
        found = list_images(path, suffixes, without=None if is_asked_for else PREDICTIONS)
        if not found:
            raise UserError(f"no images or videos in {path}: these are looked for: {', '.join(sorted(suffixes))}")
        return found
    if is_pattern(source):
        found = sorted(Path(p) for p in glob.glob(source, recursive=True) if Path(p).is_file())
        if not found:
            raise UserError(f"no file fits the pattern {source}")
        return found
    return [path]


def is_single(sources: Any) -> bool:
    """One source, not several: bytes would otherwise be the numbers of cameras."""
    is_one = isinstance(sources, str | bytes | Path | np.ndarray | Image.Image)
    return is_one or not isinstance(sources, Iterable)


def is_pattern(source: str) -> bool:
    """Not a path, but a pattern of paths: a file may have brackets in its name."""
    return any(sign in source for sign in PATTERN) and not os.path.lexists(source)


def is_camera(source: str) -> bool:
    """The number of a camera, unless a file is called so."""
    return source.isascii() and source.isdecimal() and not os.path.lexists(source)


def is_video(path: Path) -> bool:
    """A video, by its name."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def listed_on_stdin() -> list[str]:
    """One path a line, in whatever encoding the names of files have."""
    lines = sys.stdin.buffer.read().splitlines()
    return [os.fsdecode(line) for line in lines if line.strip()]


def with_listed(sources: Iterable[str]) -> list[str]:
    """The sources, those that standard input lists in the place of `-`."""
    return [name for source in sources for name in (listed_on_stdin() if source == STDIN else [source])]


def common_folder(sources: Iterable[str]) -> Path | None:
    """The folder that all files of the sources lie in; None where there is none, as of cameras alone."""
    folders = []
    for source in sources:
        if is_camera(source):
            continue
        path = Path(source)
        if is_pattern(source):
            while is_pattern(str(path)):
                path = path.parent
        elif not path.is_dir():
            path = path.parent
        folders.append(os.path.abspath(path))
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:  # none at all, or on several drives
        return None


@dataclass(frozen=True)
class Job:
    """How to get one image, or a stream of them.

    Attributes:
        run: gives the frame or how to decode it; of a stream, an iterator over its frames.
        is_stream: a video or a camera.
    """

    run: Callable[[], Any]
    is_stream: bool = False


def open_sources(
    sources: Iterable[Any], at_least: int | None = None, ahead: int = AHEAD
) -> tuple[int | None, Iterator[Frame | Failure]]:
    """The frames of several sources, one after the other, read ahead by threads of their own.

    Args:
        sources: paths of images, folders, patterns or videos; numbers of cameras; `-`; (H, W, 3) uint8 RGB arrays,
            (H, W) grey ones, images of Pillow. An iterator is asked as images are needed, a list is looked through
            beforehand.
        at_least: a JPEG may be decoded smaller, as long as its longer side keeps so many pixels; None: in full.
        ahead: frames that are read before they are asked for.

    Returns:
        How many there are (None: a video, a camera or an iterator tells no number), and the frames.
    """
    jobs: Iterable[Job] = (job for number, source in enumerate(sources) for job in jobs_of(source, number, at_least))
    total = None
    if isinstance(sources, Sized):
        jobs = list(jobs)
        total = None if any(job.is_stream for job in jobs) else len(jobs)
    return total, read_ahead(jobs, ahead)


def jobs_of(source: Any, number: int, at_least: int | None) -> Iterator[Job]:
    """What is to be read of a source, the `number`-th."""
    if isinstance(source, int | np.integer) and not isinstance(source, bool):
        yield Job(partial(camera_frames, int(source)), is_stream=True)
    elif not isinstance(source, str | Path):
        yield Job(partial(array_frame, source, number))
    elif str(source) == STDIN:
        for line in listed_on_stdin():
            yield from jobs_of(line, number, at_least)
    elif is_camera(str(source)):
        yield Job(partial(camera_frames, int(str(source))), is_stream=True)
    else:
        try:
            paths = list_files(str(source))
        except UserError as error:
            yield Job(partial(Failure, error))
            return
        for path in paths:
            if is_video(path):
                yield Job(partial(video_frames, path), is_stream=True)
            else:
                yield Job(partial(read_frame, path, at_least))


def read_ahead(jobs: Iterable[Job], ahead: int) -> Iterator[Frame | Failure]:
    """The results of jobs in their order, begun before they are asked for; those of streams one by one."""
    remaining = iter(jobs)
    waiting: deque[tuple[Job, Future[Any] | None]] = deque()
    with ThreadPoolExecutor(READERS) as pool:
        try:
            while True:
                for job in islice(remaining, ahead - len(waiting)):
                    waiting.append((job, None if job.is_stream else pool.submit(job.run)))
                if not waiting:
                    return
                job, result = waiting.popleft()
                if result is None:
                    yield from job.run()
                else:
                    found = result.result()
                    yield found() if callable(found) else found
        finally:  # also where nobody wants the rest
            for _, result in waiting:
                if result is not None:
                    result.cancel()


def read_frame(path: Path, at_least: int | None) -> Frame | Failure | Callable[[], Frame | Failure]:
    """An image file; how to decode it, where it is large."""
    found = inspect_image(path)
    if isinstance(found, ImageProblem):
        return Failure(UserError(f"image {path}: {found.reason}"))
    if found[0] * found[1] > PIXELS_AHEAD:
        return partial(decode_frame, path, found, at_least)
    return decode_frame(path, found, at_least)


def decode_frame(path: Path, size: tuple[int, int], at_least: int | None) -> Frame | Failure:
    """An image file of a known size (height, width)."""
    try:
        return Frame(str(path), size, decode_file(read_file(path), path, at_least), is_file=True)
    except UserError as error:
        return Failure(error)
    except MemoryError:
        return Failure(UserError(f"image {path}: {size[1]}x{size[0]} pixels do not fit the memory"))


def array_frame(source: Any, number: int) -> Frame | Failure:
    """An array or an image of Pillow."""
    name = f"image {number}"
    if isinstance(source, Image.Image):
        try:
            source = decode_picture(source)
        except Exception as error:  # Pillow decodes now, and raises what its plug-ins raise
            return Failure(UserError(f"{name}: cannot decode it: {error}"))
    if not isinstance(source, np.ndarray):
        return Failure(UserError(f"{name}: {type(source).__name__} is no path, array or camera number"))
    if source.dtype != np.uint8 or source.ndim not in (2, 3) or 0 in source.shape:
        return Failure(UserError(f"{name}: an array {source.dtype} {source.shape}: give (H, W, 3) uint8 RGB"))
    if source.ndim == 2 or source.shape[2] == 1:
        source = np.repeat(source.reshape(*source.shape[:2], 1), 3, axis=2)
    if source.shape[2] != 3:
        return Failure(UserError(f"{name}: an array of {source.shape[2]} channels: give (H, W, 3) uint8 RGB"))
    return Frame(name, source.shape[:2], source)


def video_frames(path: Path) -> Iterator[Frame | Failure]:
    """The pictures of a video."""
    if not path.is_file():
        yield Failure(UserError(f"video {path}: missing"))
        return
    yield from captured(cv2.VideoCapture(str(path)), str(path), f"video {path}: not readable")


def camera_frames(number: int) -> Iterator[Frame | Failure]:
    """The pictures of a camera, until it is unplugged or nobody asks for more."""
    yield from captured(
        cv2.VideoCapture(number), f"camera {number}", f"camera {number}: not there, or in use", is_live=True
    )


def captured(capture: Any, source: str, problem: str, is_live: bool = False) -> Iterator[Frame | Failure]:
    """The pictures of an opened video or camera."""
    try:
        number, seconds = 0, 0.0
        rate = capture.get(cv2.CAP_PROP_FPS) if capture.isOpened() else 0
        count = 0 if is_live or rate <= 0 else max(0, round(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        while True:
            is_there, picture = capture.read() if capture.isOpened() else (False, None)
            if not is_there or picture is None:
                break
            image = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            yield Frame(source, image.shape[:2], image, number, rate or None, is_live=is_live)
            number += 1
            if count:
                seconds = max(number / rate, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 + 1 / rate)
        if not number:
            yield Failure(UserError(problem))
        elif count and breaks_off(seconds, count / rate):
            told = f"ends after {number} of about {count} pictures, the rest is missing or damaged"
            yield Failure(UserError(f"video {source}: {told}"))
    finally:
        capture.release()


def breaks_off(seconds: float, length: float) -> bool:
    """A video ends long before it should.

    In time, for many containers know how long they are and not how many pictures that is: of films whose rate varies,
    OpenCV's number is several times too large.

    Args:
        seconds: up to the end of the last picture.
        length: that the container tells.
    """
    return length - seconds > min(LEFT_OUT_SECONDS, LEFT_OUT_SHARE * length)
