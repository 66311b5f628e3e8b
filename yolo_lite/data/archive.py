"""Unpack a ZIP archive that nobody vouches for: inside its folder, within reason, whole or not at all."""

from __future__ import annotations

import filecmp
import os
import secrets
import shutil
import stat
import zipfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath

from yolo_lite.utils.errors import UserError
from yolo_lite.utils.progress import LongJob

# Annotations in JSON shrink about tenfold, drawn pictures some more; bombs a thousandfold.
MAX_RATIO = 100
SMALL_BYTES = 1 << 20  # of a member: no harm, whatever its ratio
BLOCK = 1 << 20
ENCRYPTED = 0x1


def check_member(info: zipfile.ZipInfo, archive: Path) -> None:
    """Refuse what would land elsewhere, or is no plain file or folder.

    Raises:
        UserError: with the member's name.
    """
    name = info.filename
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name or not path.parts:
        raise UserError(f"{archive}: refused, its member {name!r} would be written outside the folder")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise UserError(f"{archive}: refused, its member {name!r} is a link or a device")
    if info.flag_bits & ENCRYPTED:
        raise UserError(f"{archive}: refused, its member {name!r} is encrypted")
    if info.file_size > SMALL_BYTES and info.file_size > MAX_RATIO * max(1, info.compress_size):
        raise UserError(
            f"{archive}: refused, its member {name!r} grows from {info.compress_size} to {info.file_size} bytes"
        )


def unpack(archive: Path, scratch: Path, only: Collection[str] | None = None) -> None:
    """Unpack into the folder `scratch`, with the checksum of every file verified.

    Args:
        archive: the ZIP file.
        scratch: an empty folder.
        only: names of the members to unpack; None: all.

    Raises:
        UserError: the archive is damaged, or has members that are refused.
        OSError: the disk.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            for info in members:
                check_member(info, archive)
            if only is not None:
                members = [info for info in members if info.filename in only]
            total = sum(info.file_size for info in members)
            if total > SMALL_BYTES + MAX_RATIO * archive.stat().st_size:
                raise UserError(f"{archive}: refused, it grows from {archive.stat().st_size} to {total} bytes")
            free = shutil.disk_usage(scratch).free
            if total > free:
                raise UserError(f"{archive} needs {total} bytes, {scratch.parent} has {free} left: make room")
            with LongJob(f"unpacking {archive.name}", total) as job:
                done = 0
                for info in members:
                    done += unpack_member(opened, info, scratch, archive)
                    job.update(done)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{archive} is damaged: {error}; delete it and fetch it again") from None


def unpack_member(opened: zipfile.ZipFile, info: zipfile.ZipInfo, scratch: Path, archive: Path) -> int:
    """One file or folder; returns its bytes, which are never more than the archive's directory says."""
    target = scratch / info.filename
    if info.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return 0
    target.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with opened.open(info) as source, open(target, "xb") as file:
        while block := source.read(BLOCK):
            done += len(block)
            if done > info.file_size:
                raise UserError(f"{archive}: refused, its member {info.filename!r} is larger than it says")
            file.write(block)
    return done


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, gone at the end with what is left in it."""
    scratch = parent / f".unpacking.{os.getpid()}-{secrets.token_hex(4)}.tmp"
    scratch.mkdir()
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def clashes(scratch: Path, root: Path) -> list[Path]:
    """Files of `root` that unpacked ones of the same path would overwrite with something else.

    What is the same was moved there before a kill.
    """
    files = (path.relative_to(scratch) for path in scratch.rglob("*") if not path.is_dir())
    return [root / path for path in files if os.path.lexists(root / path) and not is_same(scratch / path, root / path)]


def is_same(a: Path, b: Path) -> bool:
    """Both are plain files of the same bytes."""
    return b.is_file() and not b.is_symlink() and filecmp.cmp(a, b, shallow=False)


def move_into(scratch: Path, root: Path) -> None:
    """Move the tree into `root`: whole folders where there is none of the name yet, one by one inside those there are.

    What is there already must be the same (see `clashes`).
    """
    for source in sorted(scratch.iterdir()):
        target = root / source.name
        if target.is_dir() and not target.is_symlink():
            move_into(source, target)
        else:
            source.replace(target)
