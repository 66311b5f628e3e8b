"""Writing files whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from yolo_lite.utils.errors import UserError


def temporary_path(path: Path) -> Path:
    """Where `replacing` writes what will be `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def check_target(option: str, name: str | None) -> Path | None:
    """Where to write, checked before the work.

    Raises:
        UserError: it cannot be a file.
    """
    if name is None:
        return None
    path = Path(name)
    if not path.resolve().parent.is_dir():
        raise UserError(f"no folder {path.resolve().parent} to write {option} {path} to")
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder: give the name of a file")
    if not os.access(path.resolve().parent, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {option} {path}: its folder is read-only")
    return path


def check_new(path: Path, overwrite: bool) -> None:
    """Raises:
    UserError: there is a file of that name, and nobody said that it may be replaced.
    """
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there already: --overwrite true replaces it, --out FILE writes elsewhere")


def check_folder(what: str, folder: Path, instead: str) -> None:
    """That a folder can be made and written to, checked before the work.

    Args:
        what: is to be written.
        folder: where to.
        instead: the way out of a folder that is read-only.

    Raises:
        UserError: it cannot.
    """
    place = folder.resolve()
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"cannot write {what} to {folder}: {place} is a file, give a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"cannot write {what} to {folder}: {place} is read-only, {instead}")


def check_readable(path: Path) -> None:
    """Libraries say of a file that may not be read that there is none, or that it is damaged.

    Raises:
        UserError: it is there and may not be read.
    """
    if path.exists() and not os.access(path, os.R_OK):
        raise UserError(f"{path} may not be read by you: permission denied, see chmod")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` when the block ends: a kill at any moment, or a full disk,
    leaves what was there before.

    Raises:
        UserError: it cannot be written.
    """
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        kept = "; the file of that name that was there before is untouched" if path.exists() else ""
        raise UserError(f"cannot write {path}: {error.strerror or error}{kept}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty where nothing can be made of it."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def sync_folder(folder: Path) -> None:
    """Have the folder's own entries on the disk: a renamed file is only then safe from a power cut."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Delete what interrupted writers left in a folder that nobody else writes to."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)
