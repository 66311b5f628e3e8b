"""What came of a run of the laboratory: one JSON file with its command, its curve, its scores, commit and machine."""

from __future__ import annotations

import csv
import json
import math
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.lab_plan import run_name
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
INT8 = {"megabytes", "latency_ratio"}


@dataclass(frozen=True)
class Result:
    """One run.

    Attributes:
        plan, name, data, seed: which run it was.
        command: that trained it, or wrote it in int8, with DATA for the folder of the data sets.
        commit: of the code; several, in their order, where it was stopped and gone on with by another one.
        machine: the GPU, or the processor's kind and threads; likewise.
        parameters, gflops: at the image size of the run.
        minutes: of training, or of writing it in int8, whatever else the machine did.
        map_50_95, map_50: of the best checkpoint, by eval.py.
        last_map_50_95: after the last epoch that was scored; None: nothing was trained.
        curve: one row an epoch that was scored, by name.
        int8: of a model in int8: megabytes of its ONNX file, and its latency as a share of the float32 file's.
        sources: mAP50-95 of the runs that it started from or learnt from, by name: which training of theirs it was.
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
    sources: dict[str, float] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Whole or not at all."""
        content = asdict(self)
        needless = [name for name in ("int8", "sources") if not content[name]]
        write_facts({name: value for name, value in content.items() if name not in needless}, path)

    def check(self) -> None:
        """Raises:
        ValueError: a number is none, or the curve's columns are of different lengths.
        """
        scored = [] if self.last_map_50_95 is None else [self.last_map_50_95]
        check_numbers([self.parameters, self.gflops, self.minutes, self.map_50_95, self.map_50, *scored])
        check_numbers([*(self.int8 or {}).values(), *self.sources.values()])
        for values in self.curve.values():
            check_numbers(values)
        if self.curve and (self.curve.keys() != CURVE.keys() or len({len(v) for v in self.curve.values()}) > 1):
            raise ValueError(f"its curve is to have {', '.join(CURVE)}, of one length")
        if self.int8 is not None and self.int8.keys() != INT8:
            raise ValueError(f"int8 is to have {', '.join(sorted(INT8))}")


def check_numbers(values: Iterable[Any]) -> None:
    """Raises:
    ValueError: one is not a finite number.
    """
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ValueError(f"{value!r} is no number")


def write_facts(facts: Mapping[str, Any], path: Path) -> None:
    """As JSON, whole or not at all: a line for each fact, and one for each entry of what is itself a mapping."""

    def text(value: Any) -> str:
        if not isinstance(value, dict) or not value:
            return json.dumps(value)
        return "{\n" + ",\n".join(f"  {json.dumps(name)}: {json.dumps(v)}" for name, v in value.items()) + "\n }"

    lines = [f" {json.dumps(name)}: {text(value)}" for name, value in facts.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(("{\n" + ",\n".join(lines) + "\n}\n").encode())


def read_results(folder: Path) -> list[Result]:
    """All of a plan's folder.

    Raises:
        UserError: a file is not one of ours.
    """
    return [read_result(path) for path in sorted(folder.glob("*-seed*.json"))]


def read_result(path: Path) -> Result:
    """One file.

    Raises:
        UserError: it is not one of ours, or that of another run than its name says.
    """
    try:
        result = Result(**json.loads(path.read_text()))
        result.check()
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no result of the laboratory: {error}") from None
    if path.stem != (name := run_name(result.name, result.data, result.seed)):
        raise UserError(f"{path} holds the result of {name}: give it that name, or remove it")
    return result


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


def describe_machine(accelerator: str = "auto") -> str:
    """The kind of processor, as far as it matters for times.

    Args:
        accelerator: of the trainer: cpu where a GPU has no part in it.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{platform.machine()} {capability}, {torch.get_num_threads()} threads"
