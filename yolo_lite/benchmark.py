"""Time a trained model in several formats, in turn: `python -m yolo_lite.benchmark --checkpoint F --data.root DIR`.

Exit codes: 0 measured, what could not be is one line each; 2 something that you can mend (one line says what);
130 Ctrl-C, 143 SIGTERM: nothing is left behind.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from jsonargparse import ArgumentParser, Namespace
from rich.markup import escape
from rich.table import Table

from yolo_lite.data.datamodule import DetectionDataModule
from yolo_lite.deploy.contest import (
    CHOICES,
    Contest,
    Result,
    common_size,
    known_files,
    parse_formats,
    prepare_entries,
)
from yolo_lite.deploy.figures import Point, latency_figure
from yolo_lite.deploy.loading import pick_device
from yolo_lite.deploy.option_names import check_names
from yolo_lite.deploy.quantisation import QuantiseOptions
from yolo_lite.evaluation.coco_scores import format_score
from yolo_lite.utils.console import counted, run_command, table_console
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_folder, check_target, replacing
from yolo_lite.utils.signals import raising_sigterm

log = logging.getLogger("yolo_lite.benchmark")  # as a command, __name__ is __main__

FORMATS = "torch,onnx,openvino,torchscript,torch_export"
FIGURE = "latency.png"
MIB = 2**20


def build_parser() -> ArgumentParser:
    """The arguments of the command."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.benchmark",
        description="Time a trained model in several formats, in turn.",
        exit_on_error=False,
    )
    parser.add_argument(
        "--checkpoint", type=str, nargs="+", required=True, help="of train.py, exported here; or exported files"
    )
    parser.add_argument("--formats", type=str, default=FORMATS, help=f"with commas, of {', '.join(CHOICES)}")
    parser.add_argument("--device", type=str, default="cpu", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--threads", type=int | None, default=None, help="of the CPU; default: as PyTorch has")
    parser.add_argument("--batch", type=int, default=1, help="images of a call, of the latency")
    parser.add_argument("--throughput_batch", type=int, default=8, help="images of a call, of the throughput")
    parser.add_argument("--rounds", type=int, default=50, help="timed calls of each model")
    parser.add_argument("--memory", type=bool, default=True, help="in a process for each model, on the CPU")
    parser.add_argument("--image_size", type=int | None, default=None, help="pixels; default: as trained")
    parser.add_argument("--json", type=str | None, default=None, help="write the numbers to this file")
    parser.add_argument("--out", type=str | None, default=None, help=f"folder for the figure, {FIGURE}")
    parser.add_class_arguments(QuantiseOptions, "int8", skip={"threads", "timing_rounds"}, instantiate=False)
    skip = {"augment", "seed", "image_size", "multi_scale", "rect_validation"}
    parser.add_class_arguments(DetectionDataModule, "data", skip=skip, instantiate=False)
    return parser


def open_data(config: Namespace, size: tuple[int, int]) -> DetectionDataModule | None:
    """What mAP is measured on; None: no data is given.

    Raises:
        UserError: it is not there, or the models take no square images.
    """
    if config.data.root is None and config.data.val_annotations is None:
        return None
    if size[0] != size[1]:
        raise UserError(f"mAP is measured on square images, and the models take {size[0]}x{size[1]}: no --data.root")
    data = DetectionDataModule(**config.data.as_dict(), image_size=size[0])
    data.index("val")
    return data


def print_results(results: Sequence[Result], contest: Contest, size: tuple[int, int]) -> None:
    """A row for each model."""
    title = f"{contest.describe(size)}, {counted(contest.rounds, 'round')} in turn"
    table = Table(title=title)
    table.add_column("model")
    first = results[0]
    columns = [
        f"median, ms\nbatch {contest.batch}",
        "p90, ms",
        f"speed\nof {escape(first.entry.name)}",
        f"images/s\nbatch {contest.throughput_batch}",
        "file\nMB",
        "memory\nMiB",
        "mAP50-95",
        "mAP50",
    ]
    for name in columns:
        table.add_column(name, justify="right")
    for result in results:
        latency, scores = result.latency, result.scores
        table.add_row(
            escape(result.entry.name),
            f"{1000 * latency.median:.1f}",
            f"{1000 * latency.p90:.1f}",
            f"{first.latency.median / latency.median:.2f} x",
            f"{result.crowd.throughput:.1f}",
            f"{result.size / 1e6:.2f}",
            "-" if result.memory is None else f"{result.memory / MIB:.0f}",
            format_score(scores["map_50_95"]) if scores else "-",
            format_score(scores["map_50"]) if scores else "-",
        )
    console = table_console()
    console.print(table)


def draw(results: Sequence[Result], contest: Contest, size: tuple[int, int]) -> bytes:
    """Latency against mAP, or file size where there is no data."""
    is_scored = all(result.scores for result in results)
    points = [
        Point(
            result.entry.name,
            result.entry.family,
            result.info.precision,
            1000 * result.latency.median,
            result.scores["map_50_95"] if is_scored and result.scores else result.size / 1e6,
        )
        for result in results
    ]
    return latency_figure(points, is_scored, f"{contest.describe(size)}, batch {contest.batch}")


@raising_sigterm()
def benchmark(config: Namespace) -> None:
    """Measure as the arguments say.

    Raises:
        UserError: models or data are not what they should be.
    """
    numbers_file = check_target("--json", config.json)
    folder = Path(config.out) if config.out else None
    if folder is not None:
        check_folder("a figure", folder, "give another folder with --out")
    formats = parse_formats(config.formats)
    threads = torch.get_num_threads() if config.threads is None else config.threads
    counts = config.batch, config.throughput_batch, config.rounds
    device = pick_device(config.device)
    contest = Contest(device, threads, *counts, config.memory and device == "cpu")
    options = QuantiseOptions(**config.int8.as_dict(), threads=threads, timing_rounds=1)
    files = known_files([Path(text) for text in config.checkpoint], config.image_size)
    size = common_size(list(files.values()))
    data = open_data(config, size)
    with tempfile.TemporaryDirectory(prefix="yolo-lite-benchmark-") as exported:
        entries = prepare_entries(files, formats, data, options, Path(exported))
        results = contest.measure(entries, size, data)
    print_results(results, contest, size)
    if numbers_file is not None:
        rows = [json.dumps(result.to_json(results[0])) for result in results]
        with replacing(numbers_file) as file:
            file.write(("[\n" + ",\n".join(rows) + "\n]\n").encode())
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / FIGURE) as file:
            file.write(draw(results, contest, size))
        log.info("figure: %s", folder / FIGURE)


def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""

    def command() -> None:
        given, parser = sys.argv[1:] if args is None else args, build_parser()
        check_names(given, parser, {"--half": "--formats NAME-fp16"})
        benchmark(parser.parse_args(given))

    return run_command(command)


if __name__ == "__main__":
    sys.exit(main())
