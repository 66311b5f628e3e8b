"""Run folders: `runs/NAME/version_K`, each used once."""

from __future__ import annotations

import os
from pathlib import Path

from yolo_lite.utils.errors import UserError


def reserve_version(root: Path, name: str) -> int:
    """Create the next free `root/name/version_K` and return K; two processes never get the same."""
    folder = root / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name[8:]) for p in folder.glob("version_*") if p.name[8:].isdigit()]
        version = max(taken, default=-1) + 1
        while True:
            try:
                (folder / f"version_{version}").mkdir()
                return version
            except FileExistsError:
                version += 1
    except OSError as error:
        raise UserError(f"cannot create a run folder in {folder}: {error.strerror} (--runs_dir)") from None


def is_main_process() -> bool:
    """This is the process that writes, also before torch.distributed is set up."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
