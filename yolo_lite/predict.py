"""Find objects in images and videos: `python -m yolo_lite.predict --checkpoint best.ckpt photos/ film.mp4`.

Exit codes: 0 all was looked at; 1 some images were skipped, or a video breaks off, each with a line on the standard
error; 2 something that you can mend (one line says what), or not one image could be read; 130 Ctrl-C, 143 SIGTERM: what
was found until then is written, every file whole.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import cv2
from jsonargparse import ArgumentParser

from yolo_lite.deploy.detector import Detector, PredictOptions, load_model
from yolo_lite.deploy.option_names import check_names
from yolo_lite.deploy.sources import PREDICTIONS, Failure, Frame, common_folder, with_listed
from yolo_lite.deploy.writers import (
    COCO_NAME,
    CSV_NAME,
    LABELS_NAME,
    CocoWriter,
    CsvWriter,
    ImageWriter,
    OutputNames,
    VideoWriter,
    Writer,
    YoloWriter,
)
from yolo_lite.utils.console import counted, one_line, run_command
from yolo_lite.utils.errors import StoppedError, UserError
from yolo_lite.utils.files import check_folder
from yolo_lite.utils.progress import LongJob

log = logging.getLogger("yolo_lite.predict")  # as a command, __name__ is __main__

EXIT_SKIPPED = 1
KINDS = ("images", "video", "coco", "csv", "yolo")
NOTHING = "none"
SWITCHES = ("rectangular", "augment")
# Names under which other tools have what this command alone has; the others are in option_names.py.
ELSEWHERE = {
    "--source": "SOURCE without an option's name",
    "--input": "SOURCE without an option's name",
    "--save-txt": "--save yolo",
    "--save_txt": "--save yolo",
    "--save-csv": "--save csv",
    "--save-json": "--save coco",
    "--nosave": "--save none",
    "--output": "--out",
}


class SkippedError(UserError):
    """Some images could not be read; the others were looked at."""

    exit_code = EXIT_SKIPPED
    label = ""


@dataclass
class Tally:
    """What came of the images.

    Attributes:
        images: that were looked at.
        detections: in them.
        skipped: that could not be read.
    """

    images: int = 0
    detections: int = 0
    skipped: int = 0


class StopRequest:
    """Ctrl-C or SIGTERM end the reading of images, not the writing of files; a second Ctrl-C ends everything.

    Attributes:
        received: the signal; None while there was none.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._request)
        except ValueError:  # not in the main thread, where Python delivers signals
            self._before.clear()
        return self

    def __exit__(self, *reason: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _request(self, number: int, frame: Any) -> None:
        if self.received == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.predict",
        description="Find objects in images and videos. Exit codes: 0 all was looked at, 1 some images were skipped, 2 "
        "something that you can mend.",
        exit_on_error=False,
    )
    parser.add_argument("--checkpoint", type=str, required=True, help="checkpoint of train.py, or an exported model")
    parser.add_argument(
        "source",
        type=str,
        nargs="*",
        metavar="SOURCE",
        help="images, folders, patterns, videos, the number of a camera; - for a list on the standard input",
    )
    parser.add_argument(
        "--save", type=str, default="images,video", help=f"what to write, of {', '.join(KINDS)}, or none"
    )
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help=f"new folder for the results; default: the next {PREDICTIONS}/N that is free",
    )
    parser.add_argument("--image_size", type=int | None, default=None, help="pixels; default: as trained")
    parser.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_class_arguments(PredictOptions, skip=set(SWITCHES))
    parser.add_argument(
        "--rectangular", action="store_true", help="pad images to multiples of 32 only, not to squares: faster"
    )
    parser.add_argument(
        "--augment", action="store_true", help="look at each image four times: also mirrored, smaller, and both"
    )
    return parser


def chosen_kinds(text: str) -> list[str]:
    """What is to be written.

    Raises:
        UserError: an unknown kind.
    """
    kinds = [kind.strip() for kind in text.split(",") if kind.strip()]
    if kinds == [NOTHING]:
        return []
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        raise UserError(f"--save {text}: give some of {','.join(KINDS)} with commas between, or none")
    return kinds


def check_out(out: str | None) -> Path | None:
    """The folder that was asked for.

    Raises:
        UserError: it is in use, or cannot be made.
    """
    folder = PREDICTIONS if out is None else Path(out)
    check_folder("results", folder, "give another folder with --out, or --save none")
    if out is None:
        return None
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"--out {folder} is not empty: give a new folder, results are never overwritten")
    return folder


@contextmanager
def results_folder(wanted: Path | None, kinds: list[str]) -> Iterator[Path]:
    """The folder to write to; where nothing was written, it does not stay, nor do folders that were made around it. Two
    processes never get the same number.

    Raises:
        UserError: it cannot be made.
    """
    if not kinds:
        yield PREDICTIONS
        return
    outer = wanted or PREDICTIONS
    made = [path for path in (outer, *outer.parents) if not path.exists()]
    try:
        folder = make_results(wanted)
        if wanted is None:
            made.insert(0, folder)
        yield folder
    finally:
        remove_empty(made)


def make_results(wanted: Path | None) -> Path:
    """Make the folder that was asked for, or the next one that is free.

    Raises:
        UserError: it cannot be made.
    """
    try:
        if wanted is None:
            return next_free(PREDICTIONS)
        wanted.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make a folder for the results: {error.strerror} ({error.filename})") from None
    return wanted


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders up to the first that is not empty, or not there.

    Args:
        folders: each lies in the next one.
    """
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            return


def next_free(parent: Path) -> Path:
    """Make the folder `parent`/N with the next number, from 1."""
    number = max((int(path.name) for path in parent.glob("*") if path.name.isdecimal()), default=0) + 1
    while True:
        try:
            # With its parent, which another process may have removed in the meantime.
            (parent / str(number)).mkdir(parents=True)
            return parent / str(number)
        except FileExistsError:
            number += 1


def make_writers(kinds: list[str], folder: Path, root: Path | None, class_names: tuple[str, ...]) -> list[Writer]:
    """What writes each kind. Images and videos share their names."""
    drawn = OutputNames(folder, root)
    writers: dict[str, Writer] = {
        "images": ImageWriter(drawn),
        "video": VideoWriter(drawn),
        "coco": CocoWriter(folder / COCO_NAME, class_names),
        "csv": CsvWriter(folder / CSV_NAME),
        "yolo": YoloWriter(OutputNames(folder / LABELS_NAME, root)),
    }
    return [writers[kind] for kind in KINDS if kind in kinds]


def usable(frames: Iterable[Frame | Failure], tally: Tally, stop: StopRequest) -> Iterator[Frame]:
    """The frames until a stop is requested; what cannot be read is a line on the standard error."""
    for frame in frames:
        if isinstance(frame, Frame):
            yield frame
        else:
            tally.skipped += 1
            print(f"skipped: {one_line(str(frame.error))}", file=sys.stderr)
        if stop.received is not None:
            return


def look(
    detector: Detector, sources: list[str], options: PredictOptions, writers: list[Writer], stop: StopRequest
) -> Tally:
    """Look at all sources and write what was found.

    Raises:
        UserError: it cannot be written.
    """
    tally = Tally()
    total, frames = detector.open(sources, options)
    with LongJob("predicting", total) as job, ExitStack() as stack:
        opened = [stack.enter_context(writer) for writer in writers]
        found = stack.enter_context(closing(detector.look_at(usable(frames, tally, stop), options)))
        for prediction in found:
            for writer in opened:
                writer.add(prediction)
            tally.images += 1
            tally.detections += len(prediction)
            job.update(tally.images + tally.skipped, f"{tally.detections} detections")
    return tally


def run_predict(args: list[str]) -> None:
    """Predict as the arguments say.

    Raises:
        SkippedError: some images could not be read.
        StoppedError: a signal ended it.
        UserError: the arguments are not what they should be, or no image could be read.
    """
    # What FFmpeg and OpenCV say of damaged videos and missing cameras is told in one line anyway. FFmpeg's level is
    # read when the first video is opened, OpenCV's was read when it was imported.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    parser = build_parser()
    check_names(args, parser, ELSEWHERE)
    config = parser.parse_args(args)
    options = PredictOptions(**{field.name: config[field.name] for field in fields(PredictOptions)})
    kinds = chosen_kinds(config.save)
    wanted = check_out(config.out) if kinds else None
    if not config.source:
        raise UserError(
            "no SOURCE: give images, folders, patterns, videos, a camera's number, or - for a list on stdin"
        )
    detector = load_model(config.checkpoint, config.device, config.image_size)
    detector.check(options)
    sources = with_listed(config.source)
    if not sources:
        raise UserError("the standard input lists no image: give a path a line")
    started = time.perf_counter()
    with StopRequest() as stop, results_folder(wanted, kinds) as folder:
        writers = make_writers(kinds, folder, common_folder(sources), detector.class_names)
        tally = look(detector, sources, options, writers, stop)
        has_results = bool(kinds) and any(folder.iterdir())
    speed = tally.images / (time.perf_counter() - started)
    place = f", in {folder}" if has_results else ""
    found = f"{counted(tally.images, 'image')}, {counted(tally.detections, 'detection')}"
    log.info("%s, %.1f images per second%s", found, speed, place)
    if stop.received is not None:
        raise StoppedError(f"after {counted(tally.images, 'image')}; their results are whole", stop.received)
    if tally.skipped and not tally.images:
        raise UserError("none of the images could be read: see above")
    if tally.skipped:
        raise SkippedError(f"{tally.skipped} of {tally.images + tally.skipped} images were skipped")


def main(args: list[str] | None = None) -> int:
    """Predict with command-line arguments (None: those of the process). Returns the exit code."""
    return run_command(lambda: run_predict(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
