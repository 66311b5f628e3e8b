"""Make a data set ready for streaming: `python -m yolo_lite.data.stream --data.root DIR --out FOLDER_OR_URL`.

`stream_store.py` says what is written. Exit codes: 0 done, 2 something that you can mend (one line says what).
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
from jsonargparse import ArgumentParser

from yolo_lite.data.catalog import check_same_classes, open_splits
from yolo_lite.data.images import decode_file, read_file, resize_image, resized_shape
from yolo_lite.data.index import DetectionIndex, save_array
from yolo_lite.data.layouts import STREAM_FILE, Split
from yolo_lite.data.stream_store import DETECTIONS, FORMAT, PLACES, as_url, is_taken, require_litdata
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.progress import LongJob

log = logging.getLogger("yolo_lite.data.stream")  # as a command, __name__ is __main__

UPLOADS = ("s3", "gs", "r2")
JPEG_QUALITY = 95
# Decides which images of a training split share a chunk.
STORING_SEED = 0


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.data.stream",
        description="Write a data set in chunks that training streams from a folder or an object store. Exit codes: 0 "
        "done, 2 something that you can mend.",
        exit_on_error=False,
    )
    parser.add_argument("--data.root", type=str, required=True, help="the data set's folder, or its data.yaml")
    parser.add_argument("--out", type=str, required=True, help="new folder, or s3://, gs:// or r2:// URL with nothing")
    parser.add_argument("--split", type=str | None, default=None, help="only train, val or test; default: all")
    parser.add_argument(
        "--image_size", type=int | None, default=None, help="store larger images as JPEG with this longer side, pixels"
    )
    parser.add_argument("--chunk_mb", type=float, default=64, help="megabytes in a chunk")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="images read at once")
    parser.add_argument(
        "--data.max_bad_images", type=float, default=0.1, help="share of unusable images that is left out and named"
    )
    return parser


class Target:
    """Takes the finished files of a data set to where they belong, and is done when all are there.

    Args:
        out: new folder or URL.

    Raises:
        UserError: something is there already.
    """

    def __init__(self, out: str) -> None:
        url = as_url(out)
        self.url = url
        self.folder = Path(os.path.abspath(out)) if url is None else Path(tempfile.gettempdir()) / "stream"
        # Chunks on their way to a store lie here one at a time.
        self.scratch = self.folder.parent / f".{self.folder.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp"
        if url is None:
            if is_taken(self.folder):
                raise UserError(f"{out} exists already; choose another --out or remove it")
            return
        if url.split(":")[0] not in UPLOADS:
            raise UserError(f"--out {out}: cannot write there; give a folder or one of {', '.join(UPLOADS)}://")
        from litdata.streaming.fs_provider import _get_fs_provider

        try:
            self.provider = _get_fs_provider(url)
            is_empty = self.provider.is_empty(url)
        except Exception as error:  # each store's library raises what it likes
            raise UserError(f"cannot reach --out {out}: {error or type(error).__name__}") from None
        if not is_empty:
            raise UserError(f"there is something at {out} already; choose another --out or remove it")

    def hand_over(self, name: str) -> None:
        """A file of the scratch folder is complete.

        Raises:
            UserError: it cannot be uploaded.
        """
        if self.url is None:
            return
        try:
            self.provider.upload_file(str(self.scratch / name), f"{self.url}/{name}")
        except Exception as error:
            raise UserError(
                f"cannot upload {self.url}/{name}: {error or type(error).__name__}; remove what is there, start again"
            ) from None
        (self.scratch / name).unlink()

    def finish(self) -> None:
        """All is handed over."""
        if self.url is None:
            os.rename(self.scratch, self.folder)


def convert(
    root: Path,
    out: str,
    splits: tuple[Split, ...] = get_args(Split),
    image_size: int | None = None,
    chunk_mb: float = 64,
    workers: int = 1,
    max_bad_images: float = 0.1,
) -> list[Split]:
    """Write splits of a data set for streaming. A folder appears when it is complete; of a URL, stream.json comes last.

    Args:
        root: the data set's folder, or its data.yaml.
        out: new folder or URL.
        splits: which ones, of those that there are.
        image_size: images with a longer side than this, in pixels, are stored at this size; None: all as they are.
        chunk_mb: megabytes in a chunk.
        workers: images read at once.
        max_bad_images: share of unusable images that is tolerated; they are left out and named.

    Returns:
        The splits written.

    Raises:
        UserError: the data is wrong, litdata is missing, or `out` is there already or cannot be written.
    """
    require_litdata()
    target = Target(out)
    indexes = open_splits(root, splits, max_bad_images)
    first = next(iter(indexes.values()))
    for index in indexes.values():
        check_same_classes(first, index)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "number": uuid.uuid4().hex,
        "class_names": first.class_names,
        "category_ids": first.category_ids,
        "image_size": image_size,
        "splits": {},
    }
    try:
        for split, index in indexes.items():
            places = storing_places(len(index), split)
            sizes = write_chunks(target, split, index, places, image_size, round(chunk_mb * 2**20), workers)
            write_detections(target, split, index, places)
            counts = {"images": len(index), "boxes": len(index.labels), "chunk_sizes": sizes}
            manifest["splits"][split] = counts
        (target.scratch / STREAM_FILE).write_text(json.dumps(manifest, indent=2) + "\n")
        target.hand_over(STREAM_FILE)
        target.finish()
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}") from None
    finally:
        shutil.rmtree(target.scratch, ignore_errors=True)
    for split, counts in manifest["splits"].items():
        log.info("%s/%s: %d images, %d boxes", out, split, counts["images"], counts["boxes"])
    return list(indexes)


def storing_places(count: int, split: Split) -> np.ndarray:
    """(N,) int64 where each image is stored: those of training at random, so that a chunk is a sample of the data."""
    if split != "train":
        return np.arange(count, dtype=np.int64)
    return np.random.default_rng(STORING_SEED).permutation(count).astype(np.int64)


def write_chunks(
    target: Target,
    split: Split,
    index: DetectionIndex,
    places: np.ndarray,
    image_size: int | None,
    chunk_bytes: int,
    workers: int,
) -> list[int]:
    """The images of a split, in the order of their places; returns the number of images in each chunk."""
    from litdata.streaming.writer import BinaryWriter

    folder = target.scratch / split
    folder.mkdir(parents=True)
    writer = BinaryWriter(str(folder), chunk_bytes=chunk_bytes)
    with LongJob(f"storing {len(index)} images of {split}", len(index)) as job, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "An item was larger than the target chunk size")
        for place, (i, data) in enumerate(read_ahead(index, np.argsort(places).tolist(), image_size, workers)):
            done = writer.add_item(place, {"id": int(index.image_ids[i]), "image": data})
            if done is not None:
                target.hand_over(f"{split}/{Path(done).name}")
            job.update(place + 1)
        for done in writer.done():
            target.hand_over(f"{split}/{Path(done).name}")
    writer.merge(1)
    sizes = [int(chunk["chunk_size"]) for chunk in json.loads((folder / "index.json").read_text())["chunks"]]
    target.hand_over(f"{split}/index.json")
    return sizes


def read_ahead(
    index: DetectionIndex, order: list[int], image_size: int | None, workers: int
) -> Iterator[tuple[int, bytes]]:
    """Images and their files, in order, so many being read at once."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: list[tuple[int, Future[bytes]]] = []
        rest = iter(order)
        try:
            while True:
                waiting += [(i, pool.submit(stored_file, index, i, image_size)) for i in islice(rest, 2 * workers)]
                if not waiting:
                    return
                for _ in range(min(workers, len(waiting))):
                    i, future = waiting.pop(0)
                    yield i, future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def stored_file(index: DetectionIndex, i: int, image_size: int | None) -> bytes:
    """The file of image `i` as it is, or as a smaller JPEG where it is larger than asked for.

    Raises:
        UserError: it cannot be read, or is to be made smaller and cannot be decoded.
    """
    data = read_file(index.path(i))
    height, width = index.sizes[i].tolist()
    if image_size is None or max(height, width) <= image_size:
        return data.tobytes()
    image = resize_image(decode_file(data, index.path(i), image_size), *resized_shape(height, width, image_size))
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return encoded.tobytes()


def write_detections(target: Target, split: Split, index: DetectionIndex, places: np.ndarray) -> None:
    """The annotations of a split, and where its images are."""
    folder = target.scratch / split / DETECTIONS
    index.save(folder)
    save_array(folder / PLACES, places)
    for path in sorted(folder.iterdir()):
        target.hand_over(f"{split}/{DETECTIONS}/{path.name}")


def run(args: list[str] | None) -> None:
    """Convert as the arguments say.

    Raises:
        UserError: arguments or data are not what they should be.
    """
    config = build_parser().parse_args(args)
    splits = get_args(Split)
    if config.split is not None and config.split not in splits:
        raise UserError(f"--split {config.split}: give one of {', '.join(splits)}")
    for name, least in (("image_size", 32), ("chunk_mb", 0.001), ("workers", 1)):
        if config[name] is not None and config[name] < least:
            raise UserError(f"--{name} {config[name]}: give at least {least}")
    convert(
        Path(config.data.root),
        config.out,
        (config.split,) if config.split else splits,
        config.image_size,
        config.chunk_mb,
        config.workers,
        config.data.max_bad_images,
    )


def main(args: list[str] | None = None) -> int:
    """Convert with command-line arguments (None: those of the process). Returns the exit code."""
    return run_command(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
