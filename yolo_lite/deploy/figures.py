"""The figure of a benchmark as PNG: what a model is worth against what it takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from yolo_lite.evaluation.figures import label, new_figure, to_png
from yolo_lite.evaluation.styles import CURVE_COLOURS

MARKERS = {"fp32": "o", "fp16": "s", "int8": "^"}
# Differences below this are noise, and should not fill the picture.
LEAST_SPAN = 0.02


@dataclass(frozen=True)
class Point:
    """A model in a format.

    Attributes:
        name: in the legend.
        family: those of one get one colour.
        precision: fp32, fp16 or int8; gives the mark.
        milliseconds: median latency.
        value: mAP50-95, or megabytes.
    """

    name: str
    family: str
    precision: str
    milliseconds: float
    value: float


def latency_figure(points: Sequence[Point], is_scored: bool, title: str) -> bytes:
    """Latency against mAP50-95, or against file size where there is no mAP."""
    figure = new_figure(8, 4.8)
    axes = figure.add_subplot()
    families = list(dict.fromkeys(point.family for point in points))
    for point in points:
        colour = CURVE_COLOURS[families.index(point.family) % len(CURVE_COLOURS)]
        shown = f"{point.value:.3f}" if is_scored else f"{point.value:.1f} MB"
        axes.plot(
            point.milliseconds,
            point.value,
            MARKERS.get(point.precision, "o"),
            color=colour,
            markersize=9,
            markerfacecolor="none",  # those of one mAP and nearly one latency show through
            markeredgewidth=2,
            linestyle="",
            label=f"{label(point.name, 32)}  {point.milliseconds:.1f} ms, {shown}",
        )
    values = [point.value for point in points]
    if is_scored:
        middle, half = (min(values) + max(values)) / 2, max((max(values) - min(values)) * 0.6, LEAST_SPAN / 2)
        axes.set_ylim(middle - half, middle + half)
    else:
        axes.set_ylim(0, max(values) * 1.08)
    axes.set_xlim(0, max(point.milliseconds for point in points) * 1.1)
    axes.set(xlabel="latency, ms (median)", ylabel="mAP50-95" if is_scored else "file size, MB")
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    legend.set_title("circle fp32, square fp16, triangle int8")
    legend.get_title().set_fontsize(8)
    return to_png(figure)
