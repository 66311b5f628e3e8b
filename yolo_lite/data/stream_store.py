"""Where a streamed data set is, and what it says of itself.

`python -m yolo_lite.data.stream` writes it; it lies in a folder or at the URL of an object store:

    stream.json               classes, counts, version: written last, so that what has it is whole
    SPLIT/index.json          litdata's own, with
    SPLIT/chunk-0-0.bin       the image files, many to a chunk
    SPLIT/detections/         the `DetectionIndex`, and in places.npy where each of its images is stored

The annotations are not streamed. They are small beside the images (about 0.5 kB for one with 15 boxes), scoring wants
all of them, and class checks, reports and the mapping into memory of `DetectionIndex` stay what they are.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolo_lite.data.index import ARRAYS, HEADER, NAMES, DetectionIndex, rename_new
from yolo_lite.data.index_cache import locked, user_cache
from yolo_lite.data.layouts import STREAM_FILE, MissingSplitError, Split
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import read_object

# Raised whenever a stream would be read wrongly by what was written for another number.
FORMAT = 1
DETECTIONS = "detections"
PLACES = "places.npy"
# Object stores, and `local:` for a folder whose chunks are copied to a nearer disk first, as from an object store.
SCHEMES = ("s3", "gs", "r2", "azure")
INSTALL = "pip install -r requirements-streaming.txt"


def require_litdata() -> None:
    """Raises:
    UserError: litdata is not installed.
    """
    if importlib.util.find_spec("litdata") is None:
        raise UserError(f"streamed data needs litdata, which is not installed: {INSTALL} (or: pip install litdata)")


def as_url(root: Path | str) -> str | None:
    """The URL that `root` is, also where `Path` has made one slash of two; None for a folder."""
    found = re.match(rf"({'|'.join(SCHEMES)}):/+(.+)", str(root))
    if found:
        return f"{found[1]}://{found[2].rstrip('/')}"
    return str(root).rstrip("/") if str(root).startswith("local:") else None


@dataclass(frozen=True)
class Stream:
    """A streamed data set.

    Attributes:
        location: its folder or URL.
        manifest: the content of its stream.json.
        cache_dir: where the annotations of a URL are kept, and its chunks for a while; None: `~/.cache/yolo-lite` and
            litdata's own folder.
    """

    location: str
    manifest: dict[str, Any]
    cache_dir: Path | None = None

    @property
    def is_remote(self) -> bool:
        """It has to be fetched."""
        return as_url(self.location) is not None

    @property
    def image_size(self) -> int | None:
        """The longer side that larger images were stored at, pixels; None: all as they were."""
        return self.manifest["image_size"]

    def chunks(self, split: Split) -> str:
        """Folder or URL of a split's chunks."""
        return f"{self.location}/{split}"

    def chunk_sizes(self, split: Split) -> list[int]:
        """Images in each chunk."""
        return list(self.manifest["splits"][split]["chunk_sizes"])

    def detections(self, split: Split) -> Path:
        """The folder with the annotations of a split, fetched if need be.

        Raises:
            MissingSplitError: there is no such split.
            UserError: it cannot be fetched.
        """
        if split not in self.manifest["splits"]:
            there = ", ".join(self.manifest["splits"])
            raise MissingSplitError(f"no {split} split in {self.location}, which has {there}")
        if not self.is_remote:
            return Path(self.location) / split / DETECTIONS
        state = hashlib.sha256(f"{self.location} {self.manifest['number']}".encode()).hexdigest()[:16]
        folder = (self.cache_dir or user_cache()) / f"stream-{state}-{split}"
        if not folder.is_dir():
            with locked(folder):
                if not folder.is_dir():
                    names = [HEADER, PLACES, *(f"{name}.npy" for name in (*ARRAYS, *NAMES))]
                    fetch(f"{self.chunks(split)}/{DETECTIONS}", names, folder)
        return folder

    def index(self, split: Split) -> DetectionIndex:
        """The annotations of a split, as they were in the folder that it was made from.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        index = DetectionIndex.open(self.detections(split))
        index.source = Path(self.location) / split
        if not self.is_remote:
            self.check_chunks(split)
        return index

    def check_chunks(self, split: Split) -> None:
        """That a folder was not copied in part: litdata would wait for what is missing.

        Raises:
            UserError: it was.
        """
        folder = Path(self.chunks(split))
        chunks = read_object(folder / "index.json").get("chunks", [])
        if [chunk["chunk_size"] for chunk in chunks] != self.chunk_sizes(split):
            raise UserError(f"{folder}/index.json is damaged or of another conversion: copy or convert the data again")
        for chunk in chunks:
            path = folder / chunk["filename"]
            size = path.stat().st_size if path.is_file() else 0
            if size != chunk["chunk_bytes"]:
                raise UserError(
                    f"{path} has {size} of its {chunk['chunk_bytes']} bytes: copy or convert the data again"
                )

    def places(self, split: Split) -> np.ndarray:
        """(N,) int64: where each image of the index is stored.

        Raises:
            UserError: it is not there, or cannot be read.
        """
        path = self.detections(split) / PLACES
        try:
            return np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError) as error:
            raise UserError(f"cannot read {path}: {error}; convert the data again") from None


def open_stream(root: Path | str, cache_dir: Path | None = None) -> Stream | None:
    """The streamed data set at `root`; None if that is a folder without one.

    Raises:
        UserError: litdata is missing, nothing is at the URL, or another version wrote it.
    """
    url = as_url(root)
    if url is None:
        if not (Path(root) / STREAM_FILE).is_file():
            return None
        require_litdata()
        stream = Stream(str(Path(root).absolute()), read_object(Path(root) / STREAM_FILE), cache_dir)
    else:
        require_litdata()
        with tempfile.TemporaryDirectory() as scratch:
            fetch(url, [STREAM_FILE], Path(scratch) / "manifest")
            stream = Stream(url, read_object(Path(scratch) / "manifest" / STREAM_FILE), cache_dir)
    if stream.manifest.get("format") != FORMAT:
        raise UserError(
            f"{stream.location}/{STREAM_FILE} has the format {stream.manifest.get('format')}, not {FORMAT}: "
            "convert the data again with python -m yolo_lite.data.stream"
        )
    return stream


def fetch(url: str, names: list[str], folder: Path) -> None:
    """Files below a URL to a new folder, all or nothing.

    Raises:
        UserError: one is not there, or cannot be had.
    """
    from litdata.streaming.downloader import get_downloader

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    name = names[0]
    try:
        downloader = get_downloader(url, str(scratch), [])
        for name in names:
            downloader.download_file(f"{url}/{name}", str(scratch / name))
            if not (scratch / name).is_file():
                raise FileNotFoundError("it is not there")
        scratch.chmod(0o755)
        rename_new(scratch, folder)
    except Exception as error:  # each store's library raises what it likes
        raise UserError(f"cannot fetch {url}/{name} (--data.root): {error or type(error).__name__}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_taken(folder: Path) -> bool:
    """Something is there that must not be written over."""
    return os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir()))
