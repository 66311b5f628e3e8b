"""Indices of large annotation files, kept between runs in folders of their own.

What is kept belongs to one state of the annotation file (size and time of the last change, which a copy or a download
of another file changes) and to the image folders. The images themselves are trusted to be as they were: looking at
millions of files takes minutes to hours. Deleting the folder has everything read and checked again. No folder is ever
changed or deleted from here, as a running training may use it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from yolo_lite.data.index import FORMAT, HEADER, DetectionIndex
from yolo_lite.data.layouts import SplitSource

log = logging.getLogger(__name__)

# A smaller file is parsed, and its images are checked, in about ten seconds: not worth leaving something behind.
MIN_BYTES = 50_000_000
FOLDER = ".yolo-lite-index"


class Notes(Protocol):
    """What is kept beside the index."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""


def saved_index_folder(source: SplitSource, index_cache: Path | None = None) -> Path | None:
    """Where the index of a split is kept; None where the annotation file is too small for it.

    Args:
        source: the split.
        index_cache: in this folder; None: in `.yolo-lite-index` beside the annotation file or, where that cannot be
            written to, in `$XDG_CACHE_HOME/yolo-lite` (`~/.cache/yolo-lite`).
    """
    try:
        status = source.annotations.stat()
    except OSError:
        return None  # the reader says what is wrong
    if status.st_size < MIN_BYTES:
        return None
    beside = source.annotations.parent.resolve()
    images = [os.path.relpath(folder.resolve(), beside) for folder in source.image_dirs]
    state = f"{FORMAT} {source.annotations.name} {status.st_size} {status.st_mtime_ns} {images}"
    local = entry(beside / FOLDER, source, state)  # goes with the data wherever it is moved
    shared = entry(index_cache or user_cache(), source, f"{state} {beside}")
    if index_cache is not None:
        return shared
    parent = beside / FOLDER if (beside / FOLDER).is_dir() else beside
    return local if is_saved(local) or os.access(parent, os.W_OK) else shared


def entry(folder: Path, source: SplitSource, state: str) -> Path:
    """The place in `folder` for one state of the data."""
    return folder / f"{source.annotations.stem}-{hashlib.sha256(state.encode()).hexdigest()[:16]}"


def user_cache() -> Path:
    """The folder for what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "yolo-lite"


def open_or_make(folder: Path, make: Callable[[], tuple[DetectionIndex, Notes]]) -> tuple[DetectionIndex, bool]:
    """The index saved in `folder`, and whether it had to be made; of several processes one makes it, the others wait.

    Args:
        folder: where it is kept.
        make: the index and what `read_header` gives as its notes.

    Raises:
        UserError: what is there cannot be opened; or from `make`.
    """
    with contextlib.nullcontext() if is_saved(folder) else locked(folder):
        if is_saved(folder):
            log.info("using the index in %s: delete that folder to have everything read and checked again", folder)
            return DetectionIndex.open(folder), False
        index, notes = make()
        try:
            index.save(folder, notes.as_dict())
        except OSError as error:
            log.warning("%s will be read again next time: cannot write %s: %s", index.source, folder, error.strerror)
            return index, True
    log.info("the index of %s is kept in %s for later runs", index.source, folder)
    return DetectionIndex.open(folder), True


def is_saved(folder: Path) -> bool:
    """There is an index."""
    return (folder / HEADER).is_file()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time, where the file system can do that; elsewhere all work, and the first to save wins."""
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with contextlib.ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=1)
            except Timeout:
                log.info("waiting for another process that reads the same annotations")
                lock.acquire()
            stack.callback(lock.release)
            for leftover in folder.parent.glob(f".{folder.name}.*.tmp"):  # of a process that was killed
                shutil.rmtree(leftover, ignore_errors=True)
        except (OSError, NotImplementedError) as error:
            log.debug("no lock in %s: %s", folder.parent, error)
        yield
