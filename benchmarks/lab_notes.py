"""What the laboratory notes in a run's folder, beside what train.py writes there, so that a stop loses none of it."""

from __future__ import annotations

from pathlib import Path

from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.runs import run_folders

COMMAND_NAME = "command.txt"
MINUTES_NAME = "minutes.txt"
STARTS_NAME = "starts.txt"


class Notes:
    """Of one run.

    Args:
        folder: that its run folders are made in.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def claim(self, command: str) -> None:
        """Note by which command it is trained: what another one trained is not to have its name.

        Raises:
            UserError: another one did.
        """
        path = self.folder / COMMAND_NAME
        if run_folders(self.folder) and (not path.is_file() or path.read_text().rstrip("\n") != command):
            raise UserError(f"{self.folder} was trained by another command than the plan's: move it away or delete it")
        self.write(COMMAND_NAME, f"{command}\n")

    def add_start(self, commit: str, machine: str) -> None:
        """Note that it begins or goes on here."""
        path = self.folder / STARTS_NAME
        before = path.read_text() if path.is_file() and run_folders(self.folder) else ""
        self.write(STARTS_NAME, f"{before}{commit}\t{machine}\n")

    def commits_and_machines(self) -> tuple[str, str]:
        """Those of all its starts, each once, in their order."""
        starts = [line.split("\t") for line in (self.folder / STARTS_NAME).read_text().splitlines()]
        commits, machines = (dict.fromkeys(column) for column in zip(*starts, strict=True))
        return "; ".join(commits), "; ".join(machines)

    @property
    def minutes(self) -> float:
        """What it has taken so far, all its parts together."""
        path = self.folder / MINUTES_NAME
        return float(path.read_text()) if path.is_file() else 0.0

    def add_minutes(self, minutes: float) -> None:
        """Note another part."""
        self.write(MINUTES_NAME, f"{self.minutes + minutes:.3f}\n")

    def write(self, name: str, text: str) -> None:
        """A note, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / name) as file:
            file.write(text.encode())
