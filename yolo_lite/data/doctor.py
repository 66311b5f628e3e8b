"""Examine a data set: `python -m yolo_lite.data.doctor --data.root DIR`.

Exit codes: 0 nothing that hurts, 1 training would suffer, 2 something that you can mend (one line says what).
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch.cli import LightningArgumentParser
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from yolo_lite.data.catalog import read_split
from yolo_lite.data.datamodule import SHAPES_ROOT, DetectionDataModule
from yolo_lite.data.doctor_page import write_page
from yolo_lite.data.findings import SEVERITIES, Finding, TrainingSuffersError, by_severity
from yolo_lite.data.image_findings import image_findings
from yolo_lite.data.index import DetectionIndex
from yolo_lite.data.label_checks import box_findings, class_findings, empty_findings
from yolo_lite.data.layouts import MissingSplitError, Split, find_split
from yolo_lite.data.shapes import make_shapes
from yolo_lite.data.statistics import SplitStatistics, self_score_findings
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_target, replacing

log = logging.getLogger("yolo_lite.data.doctor")  # as a command, __name__ is __main__

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}
BAR_WIDTH = 24
LISTED_CLASSES = 30


@dataclass
class Diagnosis:
    """All that was found.

    Attributes:
        root: the data set.
        image_size: that boxes were judged at, pixels.
        splits: the index of each split that could be read, as its annotations say.
        findings: the worst first.
    """

    root: Path
    image_size: int
    splits: dict[str, DetectionIndex] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def count(self, severity: str) -> int:
        """Findings of one severity."""
        return sum(finding.severity == severity for finding in self.findings)

    @property
    def statistics(self) -> dict[str, SplitStatistics]:
        """Each split in numbers."""
        return {name: SplitStatistics.of(index) for name, index in self.splits.items()}

    @property
    def verdict(self) -> str:
        """One line."""
        counts = [f"{self.count(s)} {s}{'' if self.count(s) == 1 else 's'}" for s in SEVERITIES]
        judgement = "training would suffer" if self.count("error") else "nothing that hurts"
        return f"{judgement}: {', '.join(counts)} in {self.root}"


def build_parser() -> LightningArgumentParser:
    """The arguments of the command."""
    parser = LightningArgumentParser(
        prog="python -m yolo_lite.data.doctor",
        description="Look for what is wrong with a data set. Exit codes: 0 nothing that hurts, 1 training would "
        "suffer, 2 something that you can mend.",
        exit_on_error=False,
    )
    parser.add_argument("--fast", action="store_true", help="do not decode the images: read their headers and ends")
    parser.add_argument("--json", type=str | None, default=None, help="write everything to this file")
    parser.add_argument("--html", type=str | None, default=None, help="write a page with pictures to this file")
    # What has no effect here; a kept index too, as it lacks the images that are to be found.
    skip = {"augment", "seed", "batch_size", "num_workers", "cache", "cache_dir", "index_cache", "max_bad_images"}
    skip |= {"multi_scale", "rect_validation"}
    parser.add_class_arguments(DetectionDataModule, "data", skip=skip, instantiate=False)
    return parser


def diagnose(data: DetectionDataModule, decode: bool = True) -> Diagnosis:
    """Examine every split that there is.

    Args:
        data: names the data.
        decode: decode every image.

    Raises:
        UserError: there is no split at all, or one that was named is not there.
    """
    root = make_shapes(SHAPES_ROOT) if data.root is None else data.root
    diagnosis = Diagnosis(root, data.image_size)
    missing = []
    for split in get_args(Split):
        try:
            source = find_split(root, split, *data.sources[split])
        except MissingSplitError as error:
            if any(data.sources[split]):
                raise
            missing.append((split, error))
            continue
        try:
            diagnosis.splits[split] = read_split(source, split)
        except MissingSplitError as error:  # of YOLO data, where data.yaml names the splits
            missing.append((split, error))
        except UserError as error:
            way_out = "mend the annotation file: training stops with this line"
            diagnosis.findings.append(Finding("annotations", "error", split, 1, str(error), way_out))
    if len(missing) == len(get_args(Split)):
        raise missing[0][1]
    for split, reason in missing:
        if split != "test":
            way_out = "training needs both; one file can be split in two"
            diagnosis.findings.append(Finding("split-missing", "error", split, 1, str(reason), way_out))
    diagnosis.findings += examine(diagnosis.splits, data.image_size, decode)
    diagnosis.findings = by_severity(diagnosis.findings)
    return diagnosis


def examine(splits: dict[str, DetectionIndex], image_size: int, decode: bool) -> list[Finding]:
    """Everything that can be found in readable splits."""
    found = image_findings(splits, decode)
    found += class_findings(splits)
    for split, index in splits.items():
        found += box_findings(index, split, image_size)
        found += self_score_findings(index, split)
        found += empty_findings(index, split)
    return found


def bar(count: int, most: int) -> str:
    """A count as a bar."""
    return "█" * round(BAR_WIDTH * count / max(1, most)) or ("▏" if count else "")


def print_diagnosis(diagnosis: Diagnosis, console: Console) -> None:
    """Histograms, then findings, the worst first."""
    for split, numbers in diagnosis.statistics.items():
        crowds = f", {numbers.crowds} crowds" if numbers.crowds else ""
        table = Table(title=escape(f"{split}: {numbers.images} images, {numbers.boxes} boxes{crowds}"))
        for name in ("class or size", "boxes", ""):
            table.add_column(name, justify="right" if name == "boxes" else "left")
        listed = sorted(numbers.classes.items(), key=lambda item: -item[1])
        for name, count in listed[:LISTED_CLASSES]:
            table.add_row(escape(name), str(count), bar(count, listed[0][1]))
        if len(listed) > LISTED_CLASSES:
            rest = sum(count for _, count in listed[LISTED_CLASSES:])
            table.add_row(f"{len(listed) - LISTED_CLASSES} more classes", str(rest))
        table.add_section()
        for name, count in numbers.sizes.items():
            table.add_row(name, str(count), bar(count, max(numbers.sizes.values())))
        console.print(table)
    for finding in diagnosis.findings:
        colour = COLOURS[finding.severity]
        console.print(f"[bold {colour}]{finding.severity}[/] {escape(str(finding))}", highlight=False)
        for example in finding.examples:
            console.print(escape(f"    {example}"), highlight=False)
        console.print(f"    [dim]->[/] {escape(finding.way_out)}", highlight=False)


def write_json(path: Path, diagnosis: Diagnosis) -> None:
    """Everything, written at once or not at all."""
    content: dict[str, Any] = {
        "root": str(diagnosis.root),
        "image_size": diagnosis.image_size,
        "counts": {severity: diagnosis.count(severity) for severity in SEVERITIES},
        "findings": [finding.to_json() for finding in diagnosis.findings],
        "splits": {name: numbers.to_json() for name, numbers in diagnosis.statistics.items()},
    }
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def run_doctor(args: list[str]) -> None:
    """Examine as the arguments say.

    Raises:
        TrainingSuffersError: something was found that hurts.
        UserError: the arguments or the data are not what they should be.
    """
    config = build_parser().parse_args(args)
    json_file, page = check_target("--json", config.json), check_target("--html", config.html)
    if json_file is not None and page is not None and json_file.resolve() == page.resolve():
        raise UserError(f"--json and --html are the same file {page}: give two names")
    diagnosis = diagnose(DetectionDataModule(**config.data.as_dict()), decode=not config.fast)
    print_diagnosis(diagnosis, Console(soft_wrap=True))
    if json_file is not None:
        write_json(json_file, diagnosis)
    if page is not None:
        write_page(page, diagnosis.verdict, diagnosis.findings, diagnosis.splits, diagnosis.statistics)
    if diagnosis.count("error"):
        raise TrainingSuffersError(diagnosis.verdict)
    log.info("%s", diagnosis.verdict)


def main(args: list[str] | None = None) -> int:
    """Examine with command-line arguments (None: those of the process). Returns the exit code."""
    return run_command(lambda: run_doctor(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
