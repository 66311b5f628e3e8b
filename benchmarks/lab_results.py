"""What came of a run of the laboratory: one JSON file with its command, its curve, its scores, commit and machine."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.runs import METRICS_NAME

REPOSITORY = Path(__file__).parents[1]
RESULTS = REPOSITORY / "benchmarks" / "results" / "lab"
CURVE = {
    "epoch": "epoch",
    "map_50_95": "val/map_50_95",
    "map_50": "val/map_50",
    "images_per_second": "time/images_per_second",
}


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        plan, name, data, seed: which run it was.
        command: that trained it, with DATA for the folder of the data sets.
        commit: of the code.
        machine: processor and precision.
        parameters, gflops: at the image size of the run.
        minutes: of training, whatever else the machine did.
        map_50_95, map_50: of the best checkpoint, by eval.py.
        last_map_50_95: after the last epoch that was scored; None: nothing was trained.
        curve: one row an epoch that was scored, by name.
        int8: of a model in int8: megabytes of its ONNX file, and its latency as a share of the float32 file's.
    """

    plan: str
    name: str
    data: str
    seed: int
    command: str
    commit: str
    machine: str
    parameters: int
    gflops: float
    minutes: float
    map_50_95: float
    map_50: float
    last_map_50_95: float | None = None
    curve: dict[str, list[float]] = field(default_factory=dict)
    int8: dict[str, float] | None = None

    def write(self, path: Path) -> None:
        """Whole or not at all; numbers of a list on one line."""
        content = {**asdict(self), "curve": {name: json.dumps(values) for name, values in self.curve.items()}}
        if self.int8 is None:
            del content["int8"]
        text = json.dumps(content, indent=1).replace('"[', "[").replace(']"', "]")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(f"{text}\n".encode())


def read_results(folder: Path) -> list[Result]:
    """All of a plan's folder.

    Raises:
        UserError: a file is not one of ours.
    """
    return [read_result(path) for path in sorted(folder.glob("*-seed*.json"))]


def read_result(path: Path) -> Result:
    """One file.

    Raises:
        UserError: it is not one of ours.
    """
    try:
        return Result(**json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no result of the laboratory: {error}") from None


def read_curve(run: Path) -> dict[str, list[float]]:
    """The scored epochs of a run folder, by name."""
    with open(run / METRICS_NAME, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/map_50_95")]
    return {name: [round(float(row[key]), 5) for row in rows] for name, key in CURVE.items()}


def current_commit() -> str:
    """Of the repository, with a mark if files that git knows are changed."""
    commit = git("rev-parse", "--short=10", "HEAD")
    return f"{commit}, changed" if git("status", "--porcelain", "--untracked-files=no") else commit


def git(*arguments: str) -> str:
    """The output of a git command in the repository; empty where there is none."""
    done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def describe_machine() -> str:
    """The kind of processor, as far as it matters for times."""
    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}, {torch.get_num_threads()} threads"
