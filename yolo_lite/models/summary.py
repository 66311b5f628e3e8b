"""What a variant is made of and what it costs: `python -m yolo_lite.models.summary VARIANT`.

Parameters and GFLOPs are exact counts, the peak of the activations is computed, the latency is measured on this CPU.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from yolo_lite.models.fuse import fuse_model
from yolo_lite.models.yolo import YOLO, ModelSpec, build_model
from yolo_lite.utils.console import run_command
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import check_target, replacing
from yolo_lite.utils.profiling import (
    WARM_UP,
    blank_image,
    count_gflops_by_module,
    count_parameters,
    median_seconds,
    peak_activations,
    scoring,
)

log = logging.getLogger(__name__)

MIB = 2**20
STAGES = 2  # depth at which the backbone's rows are its stages


@dataclass(frozen=True)
class Layer:
    """A row of the table.

    Attributes:
        name: as in the state dict.
        kind: class of the module; "Parameter" for one that stands beside submodules.
        parameters: of it and everything below.
        gflops: likewise, of one image.
        shapes: (C, H, W) of each map that it gives; empty for a list of layers, which is not called itself.
    """

    name: str
    kind: str
    parameters: int
    gflops: float
    shapes: list[tuple[int, ...]] = field(default_factory=list)


@dataclass(frozen=True)
class Part:
    """Backbone, neck, head, or all of it, for one image.

    Attributes:
        parameters: exact.
        gflops: 2 x multiply-accumulate, convolutions only.
        peak_activation_mib: most memory of activations while it runs, those that wait for a later part included.
        latency_ms: median on the CPU; None: not measured.
    """

    parameters: int
    gflops: float
    peak_activation_mib: float
    latency_ms: float | None = None


@dataclass(frozen=True)
class Summary:
    """All numbers of a detector.

    Attributes:
        whole: the detector.
        parts: backbone, neck, head, which add up to it in parameters and GFLOPs.
        layers: rows that add up likewise.
    """

    whole: Part
    parts: dict[str, Part]
    layers: list[Layer]


def output_shapes(model: nn.Module, image_size: int) -> dict[str, list[tuple[int, ...]]]:
    """By name of each submodule that is called: the shapes of its outputs, without the batch."""
    shapes: dict[str, list[tuple[int, ...]]] = {}
    handles = []
    for name, module in model.named_modules():

        def note(module: nn.Module, args: Any, output: Any, name: str = name) -> None:
            outputs = [output] if isinstance(output, Tensor) else output
            shapes[name] = [tuple(x.shape[1:]) for x in outputs]

        handles.append(module.register_forward_hook(note))
    try:
        with scoring(model):
            model(blank_image(model, image_size))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def list_layers(model: YOLO, image_size: int, depth: int, gflops: dict[str, float]) -> list[Layer]:
    """Rows that add up to the model, each module down to `depth` names below it; `gflops` are those of its modules."""
    shapes = output_shapes(model, image_size)

    def operations(module: nn.Module, name: str) -> float:
        if name in gflops:
            return gflops[name]
        return sum(operations(child, f"{name}.{key}") for key, child in module.named_children())

    def rows(module: nn.Module, name: str, below: int) -> Iterator[Layer]:
        dot = f"{name}." if name else ""
        children = list(module.named_children())
        total = operations(module, name)
        # One that uses the weights of its submodules without calling them, as the Haar transform does, is a layer.
        works_itself = not math.isclose(total, sum(operations(child, f"{dot}{key}") for key, child in children))
        if below == 0 or not children or works_itself:
            yield Layer(name, type(module).__name__, count_parameters(module), total, shapes.get(name, []))
            return
        for key, child in children:
            yield from rows(child, f"{dot}{key}", below - 1)
        for key, parameter in module.named_parameters(recurse=False):
            yield Layer(f"{dot}{key}", "Parameter", parameter.numel(), 0.0)

    return list(rows(model, "", depth))


def summarise(model: YOLO, image_size: int, depth: int = STAGES, repeats: int = 0) -> Summary:
    """The numbers of a detector, which may be without weights (meta device) if nothing is measured.

    Args:
        model: its mode and its buffers stay as they are.
        image_size: side of the image, pixels.
        depth: of the rows; 1: the three parts.
        repeats: passes of which the latency is the median; 0 measures none.
    """
    peaks = peak_activations(model, image_size)
    gflops = count_gflops_by_module(model, image_size)
    seconds = {}
    if repeats:
        with torch.random.fork_rng(devices=[]):  # layers are made anew where BatchNorm is folded into them
            fused = fuse_model(model)
        seconds = median_seconds(fused, image_size, repeats)

    def part(name: str) -> Part:
        latency = 1e3 * seconds[name] if name in seconds else None
        parameters = count_parameters(model.get_submodule(name))
        return Part(parameters, gflops[name], peaks[name] / MIB, latency)

    names = [name for name, _ in model.named_children()]
    return Summary(part(""), {name: part(name) for name in names}, list_layers(model, image_size, depth, gflops))


@lru_cache(maxsize=4)
def costs_of(spec: ModelSpec, num_classes: int, image_size: int) -> Summary:
    """Counted once a run, on a detector without weights: no convolution is computed for it."""
    return summarise(build_apart(spec, num_classes, "meta"), image_size)


def build_apart(spec: ModelSpec, num_classes: int, device: str) -> YOLO:
    """A detector of the same structure; on "meta" without weights. The random numbers of the run stay as they are."""
    with torch.random.fork_rng(devices=[]), torch.device(device):
        return YOLO(spec, num_classes).eval()


def format_shapes(shapes: list[tuple[int, ...]]) -> str:
    """`64x80x80, 128x40x40`."""
    return ", ".join("x".join(map(str, shape)) for shape in shapes)


def cost_cells(name: str, part: Part) -> list[str]:
    """A row on a part; its latency only where there is one."""
    cells = [name, f"{part.parameters:,}", f"{part.gflops:.2f}", f"{part.peak_activation_mib:.1f}"]
    return cells if part.latency_ms is None else [*cells, f"{part.latency_ms:.1f}"]


COST_TITLES = ["part", "parameters", "GFLOPs", "activations MiB", "latency ms"]
LAYER_TITLES = ["layer", "kind", "parameters", "GFLOPs", "output"]


def cost_rows(summary: Summary) -> list[list[str]]:
    """Parts, then the whole."""
    return [cost_cells(name, part) for name, part in [*summary.parts.items(), ("all", summary.whole)]]


def layer_rows(layers: list[Layer]) -> list[list[str]]:
    """A row of each layer."""
    return [
        [layer.name, layer.kind, f"{layer.parameters:,}", f"{layer.gflops:.3f}", format_shapes(layer.shapes)]
        for layer in layers
    ]


def to_markdown(summary: Summary) -> str:
    """Both tables, as TensorBoard's texts show them."""
    tables = []
    costs = cost_rows(summary)
    for titles, rows in ((COST_TITLES[: len(costs[0])], costs), (LAYER_TITLES, layer_rows(summary.layers))):
        aligned = ["---:" if title[0] in "pGal" and title not in ("part", "layer") else "---" for title in titles]
        tables.append("\n".join("| " + " | ".join(cells) + " |" for cells in (titles, aligned, *rows)))
    return "\n\n".join(tables)


def print_summary(summary: Summary, title: str, console: Console) -> None:
    """Layers, parts, the whole."""
    costs = cost_rows(summary)
    for heading, titles, rows, numbers in (
        (title, LAYER_TITLES, layer_rows(summary.layers), (2, 3)),
        ("", COST_TITLES[: len(costs[0])], costs, (1, 2, 3, 4)),
    ):
        table = Table(title=heading or None)
        for i, name in enumerate(titles):
            table.add_column(name, justify="right" if i in numbers else "left", no_wrap=i != len(titles) - 1)
        for row in rows[:-1]:
            table.add_row(*row)
        if rows is costs:
            table.add_section()
        table.add_row(*rows[-1])
        console.print(table)


def build_parser() -> ArgumentParser:
    """The arguments."""
    parser = ArgumentParser(
        prog="python -m yolo_lite.models.summary", description="What a detector costs.", exit_on_error=False
    )
    parser.add_argument("variant", type=str, help="such as yolov8n-lite")
    parser.add_argument("--num_classes", type=int, default=80, help="object classes")
    parser.add_argument("--image_size", type=int, default=640, help="side of the image, pixels, a multiple of 32")
    parser.add_argument("--depth", type=int, default=STAGES, help="rows: 1 the parts, 2 the stages, more for layers")
    parser.add_argument("--repeats", type=int, default=10, help="passes of which the latency is the median; 0: none")
    parser.add_argument("--threads", type=int | None, default=None, help="of the CPU; default: PyTorch's choice")
    parser.add_argument("--json", type=str | None, default=None, help="write the numbers to this file")
    return parser


def run_summary(args: list[str]) -> None:
    """Build, count and measure as the arguments say.

    Raises:
        UserError: an argument is not what it should be.
    """
    config = build_parser().parse_args(args)
    for name, least in (("num_classes", 1), ("image_size", 32), ("depth", 1), ("repeats", 0)):
        if config[name] < least:
            raise UserError(f"--{name} {config[name]}: give at least {least}")
    if config.image_size % 32:
        raise UserError(f"--image_size {config.image_size} is not a multiple of 32")
    if config.threads is not None and config.threads < 1:
        raise UserError(f"--threads {config.threads}: give at least 1")
    target = check_target("--json", config.json)
    before = torch.get_num_threads()
    torch.set_num_threads(config.threads or before)
    try:
        model = build_model(config.variant, config.num_classes).eval()
        summary = summarise(model, config.image_size, config.depth, config.repeats)
    finally:
        threads = torch.get_num_threads()
        torch.set_num_threads(before)
    title = f"{config.variant}, {config.num_classes} classes, {config.image_size} px"
    print_summary(summary, title, Console(soft_wrap=True))
    log.info("GFLOPs: 2 x multiply-accumulate, convolutions only")
    log.info("activations: computed, the most float32 tensors of one image that exist at once in inference")
    if config.repeats:
        log.info(
            "latency: one float32 image, BatchNorm folded, median of %d after %d, %d CPU threads",
            config.repeats,
            WARM_UP,
            threads,
        )
    if target is not None:
        settings = {name: config[name] for name in ("variant", "num_classes", "image_size")}
        write_json(target, {**settings, "threads": threads if config.repeats else None, **to_json(summary)})


def to_json(summary: Summary) -> dict[str, Any]:
    """The numbers of the whole at the top, then parts and layers."""
    parts = {name: asdict(part) for name, part in summary.parts.items()}
    return {**asdict(summary.whole), "parts": parts, "layers": [asdict(layer) for layer in summary.layers]}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Written at once or not at all."""
    with replacing(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def main(args: list[str] | None = None) -> int:
    """Summarise with command-line arguments (None: those of the process). Returns the exit code."""
    return run_command(lambda: run_summary(sys.argv[1:] if args is None else args))


if __name__ == "__main__":
    sys.exit(main())
