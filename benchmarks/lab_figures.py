"""Figures of the laboratory, from its result files alone: what is drawn, and how."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from statistics import fmean
from typing import Protocol

from matplotlib.figure import Figure

from benchmarks.lab_latency import Cost
from benchmarks.lab_results import Result
from benchmarks.lab_tables import as_deployed, group, means
from yolo_lite.evaluation.figures import new_figure, to_png
from yolo_lite.evaluation.styles import CURVE_COLOURS

FRONTIER_NAME = "frontier.png"
LINE_STYLES = ("-", "--", ":", "-.")
MARKS = "os^D"
SOURCE = "Source"  # keyword of the fingerprint, one of those that the PNG format names
# Of the frontier's panels: what is paid, and where it is in a `Cost`.
PRICES: dict[str, Callable[[Cost], float]] = {
    "parameters, millions": lambda cost: cost.parameters / 1e6,
    "ONNX file, MB": lambda cost: cost.onnx_mb,
    "GFLOPs": lambda cost: cost.gflops,
    "latency in ONNX Runtime, share of yolov8n's": lambda cost: cost.onnx_ratio,
}


class Drawing(Protocol):
    """What a figure shows: a dataclass, so that it can be compared where a picture cannot."""

    def draw(self) -> Figure:
        """It as a figure."""


@dataclass(frozen=True)
class Line:
    """The curve of a run.

    Attributes:
        name: of the run.
        place: among the names of its plan, which gives the colour.
        epochs: that were scored with every seed, counted from 1.
        scores: mAP50-95 at these epochs, a list for each seed.
    """

    name: str
    place: int
    epochs: list[int]
    scores: list[list[float]]


@dataclass(frozen=True)
class Curves:
    """mAP50-95 by epoch on a data set, a line for each run, the extent of its seeds as a band."""

    data: str
    lines: list[Line]

    def draw(self) -> Figure:
        """All epochs, and once more those after the first third, where the lines are close."""
        figure = new_figure(14, 4.8)
        whole, later = figure.subplots(1, 2)
        for line in self.lines:
            colour, style = colour_of(line.place), pick_of(line.place, LINE_STYLES)
            columns = list(zip(*line.scores, strict=True))
            begin = len(columns) // 3
            for axes, first in ((whole, 0), (later, begin)):
                epochs, shown = line.epochs[first:], columns[first:]
                axes.plot(epochs, [fmean(c) for c in shown], style, color=colour, label=line.name, linewidth=1.8)
                if len(line.scores) > 1:
                    extent = [min(c) for c in shown], [max(c) for c in shown]
                    axes.fill_between(epochs, *extent, color=colour, alpha=0.12, linewidth=0)
        whole.set(xlabel="epoch", ylabel="mAP50-95", title=f"{self.data}, validation", ylim=(0, None), xlim=(0, None))
        later.set(xlabel="epoch", title="after the first third")
        for axes in (whole, later):
            axes.grid(alpha=0.3)
        figure.legend(*whole.get_legend_handles_labels(), loc="outside right center", fontsize=8)
        return figure


@dataclass(frozen=True)
class Point:
    """A run that was made on all data sets.

    Attributes:
        name: of the run.
        place: among the names of its plan, which gives the colour and the mark.
        score: mAP50-95, the mean over the sets.
        of_seeds: the same, one for each seed that all sets have.
        prices: one for each of `PRICES`.
        is_int8: it is a file in int8.
    """

    name: str
    place: int
    score: float
    of_seeds: list[float]
    prices: list[float]
    is_int8: bool


@dataclass(frozen=True)
class Frontier:
    """mAP50-95, the mean over all data sets, against costs; the extent of the seeds as a bar."""

    sets: list[str]
    points: list[Point]

    def draw(self) -> Figure:
        """A panel for each price."""
        figure = new_figure(16, 4.8)
        panels = figure.subplots(1, len(PRICES), sharey=True)
        for number, (axes, title) in enumerate(zip(panels, PRICES, strict=True)):
            for point in self.points:
                price, colour = point.prices[number], colour_of(point.place)
                mark = pick_of(point.place, MARKS)
                filling = "white" if point.is_int8 else colour
                if len(point.of_seeds) > 1:
                    axes.vlines(price, min(point.of_seeds), max(point.of_seeds), color=colour, alpha=0.4)
                axes.plot(
                    price, point.score, mark, color=colour, markerfacecolor=filling, markersize=9, label=point.name
                )
            axes.set(xlabel=title, xlim=(0, None))
            axes.grid(alpha=0.3)
        panels[0].set(ylabel=f"mAP50-95, mean of {', '.join(self.sets)}" if len(self.sets) > 1 else "mAP50-95")
        figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside right center", fontsize=8)
        return figure


def colour_of(place: int) -> str:
    """Of a run, by its place in the plan: the same in all figures, whatever else was made."""
    return CURVE_COLOURS[place % len(CURVE_COLOURS)]


def pick_of(place: int, kinds: Sequence[str]) -> str:
    """What tells runs of one colour apart: enough of it for the names that a plan may have."""
    return kinds[place // len(CURVE_COLOURS)]


def curves_of(results: Sequence[Result], order: Sequence[str], data: str) -> Curves:
    """The lines of the runs that were trained on a data set."""
    lines = []
    for seeds in group([r for r in results if r.data == data and r.curve], order):
        scored = [dict(zip(r.curve["epoch"], r.curve["map_50_95"], strict=True)) for r in seeds]
        common = sorted(set.intersection(*(set(scores) for scores in scored)))
        scores = [[of_seed[epoch] for epoch in common] for of_seed in scored]
        lines.append(Line(seeds[0].name, order.index(seeds[0].name), [int(epoch) + 1 for epoch in common], scores))
    return Curves(data, lines)


def frontier_of(results: Sequence[Result], order: Sequence[str], costs: Mapping[str, Cost]) -> Frontier:
    """The points of the runs that were made on all data sets and whose costs are known."""
    sets = sorted({result.data for result in results})
    found, prices = means(results, order), as_deployed(costs, results)
    points = []
    for name in [name for name in order if name in prices and len(found.get(name, {})) == len(sets)]:
        own = [result for result in results if result.name == name]
        by_seed = {seed: [r.map_50_95 for r in own if r.seed == seed] for seed in sorted({r.seed for r in own})}
        of_seeds = [fmean(scores) for scores in by_seed.values() if len(scores) == len(sets)]
        score = fmean(found[name][data] for data in sets)
        paid = [price(prices[name]) for price in PRICES.values()]
        is_int8 = any(result.int8 is not None for result in own)
        points.append(Point(name, order.index(name), score, of_seeds, paid, is_int8))
    return Frontier(sets, points)


def figures_of(results: Sequence[Result], order: Sequence[str], costs: Mapping[str, Cost]) -> dict[str, Drawing]:
    """By file name: curves of each data set with at least two trained runs, and the frontier."""
    found: dict[str, Drawing] = {}
    if costs and results:
        found[FRONTIER_NAME] = frontier_of(results, order, costs)
    for data in sorted({result.data for result in results}):
        curves = curves_of(results, order, data)
        if len(curves.lines) > 1:
            found[f"curves-{data}.png"] = curves
    return found


def fingerprint(drawing: Drawing) -> str:
    """Of what a figure shows."""
    return sha256(json.dumps(asdict(drawing), sort_keys=True).encode()).hexdigest()  # type: ignore[call-overload]


def png_of(drawing: Drawing) -> bytes:
    """The figure as a file that has the fingerprint of what it shows as a text."""
    return to_png(drawing.draw(), {SOURCE: fingerprint(drawing)})
