"""What the laboratory notes in a run's folder, beside what train.py writes there, so that a stop loses none of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.lab_results import write_facts
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.runs import run_folders

NOTES_NAME = "lab.json"


@dataclass
class Start:
    """Where training began or went on.

    Attributes:
        commit, machine: as in a `Result`.
        epochs: that had been scored before.
    """

    commit: str
    machine: str
    epochs: int


@dataclass
class Notes:
    """Of one run.

    Attributes:
        command: by which it is trained.
        sources: mAP50-95 of the runs that it starts from or learns from, by name.
        starts: in their order.
        minutes: that it has taken so far, all its parts together.
    """

    command: str
    sources: dict[str, float]
    starts: list[Start] = field(default_factory=list)
    minutes: float = 0.0

    @staticmethod
    def of(folder: Path, command: str, sources: Mapping[str, float]) -> Notes:
        """Those of a run's folder, or new ones where nothing has been trained there.

        Raises:
            UserError: another command, or one from other weights, has trained there: that is not to have its name.
        """
        if not run_folders(folder):
            return Notes(command, dict(sources))
        path = folder / NOTES_NAME
        notes = Notes.read(path) if path.is_file() else None
        if notes is None or notes.command != command:
            raise UserError(f"{folder} was trained by another command than the plan's: move it away or delete it")
        if notes.sources != sources:
            raise UserError(f"{folder} was trained from another training of its source: move it away or delete it")
        return notes

    @staticmethod
    def read(path: Path) -> Notes:
        """As they were written.

        Raises:
            UserError: the file is not ours.
        """
        try:
            content = json.loads(path.read_text())
            return Notes(**{**content, "starts": [Start(**start) for start in content["starts"]]})
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} holds no notes of the laboratory: {error}") from None

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        write_facts(asdict(self), folder / NOTES_NAME)

    def where(self, epochs: int) -> tuple[str, str]:
        """The commits and the machines that epochs were made on, each once, in their order.

        Args:
            epochs: that have been scored in all.
        """
        ends = [*(start.epochs for start in self.starts[1:]), epochs]
        made = [start for start, end in zip(self.starts, ends, strict=True) if end > start.epochs]
        commits, machines = (dict.fromkeys(getattr(start, name) for start in made) for name in ("commit", "machine"))
        return "; ".join(commits), "; ".join(machines)
