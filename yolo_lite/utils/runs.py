"""Run folders: `runs/NAME/version_K`. A new run never gets an existing one; one process at a time trains in each."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import remove_leftovers

VERSION = re.compile(r"version_(0|[1-9]\d*)$")
# What lies in a run folder.
CHECKPOINTS = "checkpoints"
BEST_NAME = "best.ckpt"
LAST_NAME = "last.ckpt"
METRICS_NAME = "metrics.csv"
NON_FINITE_NAME = "non_finite.ckpt"


@dataclass
class RunFolder:
    """A run folder by its parts: `root / name / version_K`."""

    root: Path
    name: str
    version: int

    @property
    def path(self) -> Path:
        return self.root / self.name / f"version_{self.version}"

    @staticmethod
    def around(checkpoint: Path) -> RunFolder | None:
        """The run folder that a checkpoint lies in; None if it lies elsewhere."""
        folder = checkpoint.absolute().parent.parent
        match = VERSION.match(folder.name)
        if match is None or checkpoint.absolute().parent.name != CHECKPOINTS:
            return None
        try:
            root = folder.parent.parent.relative_to(Path.cwd())
        except ValueError:
            root = folder.parent.parent
        return RunFolder(root, folder.parent.name, int(match[1]))


def run_folders(folder: Path) -> list[Path]:
    """The folders `version_K` in it, the oldest first."""
    found = [(int(match[1]), path) for path in folder.glob("version_*") if (match := VERSION.match(path.name))]
    return [path for _, path in sorted(found)]


def reserve_version(root: Path, name: str) -> int:
    """Create the next free `root/name/version_K` and return K; two processes never get the same."""
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = run_folders(folder)
        version = int(taken[-1].name[8:]) + 1 if taken else 0
        while True:
            try:
                (folder / f"version_{version}").mkdir()
                return version
            except FileExistsError:
                version += 1
    except OSError as error:
        raise UserError(f"cannot create a run folder in {folder}: {error.strerror} (--runs_dir)") from None


@contextmanager
def occupied(folder: Path) -> Iterator[None]:
    """Keep every other process from training in a run folder; what interrupted writers left there is removed.

    Raises:
        UserError: another process trains in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = open(folder / ".lock", "a+")  # noqa: SIM115 (closed below)
    except OSError as error:
        raise UserError(f"cannot write to the run folder {folder}: {error.strerror}") from None
    with opened as file:
        try:
            lock(file)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise UserError(f"another process ({owner}) trains in {folder}: wait for it or stop it") from None
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}")
        file.flush()
        for written in (folder, folder / CHECKPOINTS):
            remove_leftovers(written)
        yield


def lock(file: IO[str]) -> None:
    """Lock a file until it is closed or this process ends. Does nothing on Windows.

    Raises:
        OSError: another process has it.
    """
    try:
        import fcntl
    except ImportError:
        return
    # A lock of the process and not of the file: loader processes, which may outlive us by seconds, do not share it.
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
