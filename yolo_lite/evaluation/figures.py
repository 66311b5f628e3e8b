"""The figures of a scored model as PNG, drawn with matplotlib without a display.

Notation: C classes, S score thresholds.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from yolo_lite.evaluation.analysis import ERROR_TYPES, Analysis
from yolo_lite.evaluation.styles import CURVE_COLOURS, ERROR_STYLES, cut, gain_text, score_text

DPI = 120
NAMED_CURVES = 12  # more do not fit into a legend
MARKED_CURVES = 6
DASHES = ("-", "--", ":", "-.")
SIZES = {"small": "small\n< 32²", "medium": "medium\n32² to 96²", "large": "large\n> 96² px"}


def draw_figures(analysis: Analysis) -> dict[str, bytes]:
    """All figures by name, as PNG."""
    return {
        "precision_recall": precision_recall(analysis),
        "thresholds": thresholds(analysis),
        "confusion": confusion(analysis),
        "calibration": calibration(analysis),
        "ap_by_size": ap_by_size(analysis),
        "ap_per_class": ap_per_class(analysis),
        "errors": error_types(analysis),
    }


def label(name: str, longest: int = 24) -> str:
    """A class name for matplotlib, which would take dollars for formulas."""
    return cut(name, longest).replace("$", r"\$")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure, texts: Mapping[str, str] | None = None) -> bytes:
    """The figure as a file, with texts by their keywords in it, which no viewer draws."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # class names in scripts that the font lacks
        figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata=dict(texts or {}))
    return buffer.getvalue()


def tidy(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    """Labels, a light grid and both axes from 0 to 1."""
    axes.set(xlabel=x_label, ylabel=y_label, xlim=(0, 1), ylim=(0, 1.02))
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def unknown_as_gap(values: np.ndarray) -> np.ndarray:
    """-1 as NaN, which leaves a gap in a line."""
    return np.where(values >= 0, values, np.nan)


def weakest(analysis: Analysis, count: int) -> list[int]:
    """The classes with objects that have the lowest AP, the lowest first."""
    scored = [c for c, scores in enumerate(analysis.classes) if scores.ap >= 0]
    return sorted(scored, key=lambda c: analysis.classes[c].ap)[:count]


def draw_curves(axes: Axes, analysis: Analysis, x: np.ndarray, y: np.ndarray, main: str) -> None:
    """The curve of all classes and one for each: named where they are few, the weakest named where they are many.

    Args:
        axes: where to.
        analysis: whose classes.
        x: (S,).
        y: (1 + C, S), the first row of all classes.
        main: what the first row is called.
    """
    names = [scores.name for scores in analysis.classes]
    are_few = len(names) <= NAMED_CURVES
    named = list(range(len(names))) if are_few else weakest(analysis, MARKED_CURVES)
    if not are_few:
        for row in y[1:]:
            axes.plot(x, unknown_as_gap(row), color="0.8", linewidth=0.7)
        axes.plot([], [], color="0.8", label=f"the other {len(names) - len(named)} classes")
    if len(names) > 1:
        for k, c in enumerate(named):
            colour, dash = CURVE_COLOURS[k % len(CURVE_COLOURS)], DASHES[k // len(CURVE_COLOURS) % len(DASHES)]
            text = f"{label(names[c])}  {score_text(analysis.classes[c].ap)}"
            axes.plot(x, unknown_as_gap(y[1 + c]), color=colour, linestyle=dash, linewidth=1.4, label=text)
    axes.plot(x, unknown_as_gap(y[0]), color="black", linewidth=2.4, label=main)
    legend = axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)
    legend.set_title("AP 0.50:0.95" if are_few else "AP 0.50:0.95, the weakest")
    legend.get_title().set_fontsize(8)


def precision_recall(analysis: Analysis) -> bytes:
    """Precision against recall at IoU 0.50."""
    figure = new_figure(8, 4.8)
    axes, curves = figure.add_subplot(), analysis.curves
    main = f"all classes  {score_text(analysis.coco.numbers['map_50_95'])}"
    draw_curves(axes, analysis, curves.recall_steps, curves.precision_at_recall, main)
    tidy(axes, "recall", "precision", f"Precision and recall, IoU 0.50: mAP50 {map_50(analysis)}")
    return to_png(figure)


def map_50(analysis: Analysis) -> str:
    """mAP at IoU 0.50, for titles."""
    return score_text(analysis.coco.numbers["map_50"])


def thresholds(analysis: Analysis) -> bytes:
    """F1, precision and recall against the score threshold."""
    figure = new_figure(8, 11)
    curves, best = analysis.curves, analysis.best
    rows = {"F1": curves.f1, "precision": curves.precision, "recall": curves.recall}
    for axes, (name, values) in zip(figure.subplots(len(rows), 1), rows.items(), strict=True):
        draw_curves(axes, analysis, curves.thresholds, values, "all classes")
        axes.axvline(best.score, color="0.4", linestyle=":", linewidth=1)
        tidy(axes, "score threshold", name, f"{name} against threshold, IoU 0.50 (best F1 at {best.score:.2f})")
    return to_png(figure)


def confusion(analysis: Analysis) -> bytes:
    """Counts of truth against prediction; the shade is the share of the truth's row."""
    counts = analysis.confusion
    size = len(counts)
    names = [label(scores.name, 20) for scores in analysis.classes]
    cell = float(np.interp(size, [2, 4, 20, 80], [1.1, 0.9, 0.42, 0.24]))
    side = size * cell + 2.2
    figure = new_figure(max(4.5, side + 0.6), max(3.6, side))
    axes = figure.add_subplot()
    shares = row_shares(counts)
    shading = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    font = float(np.interp(size, [2, 6, 20, 80], [12, 10, 7, 4.5]))
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.55 else "black"
        shown = short_count(int(counts[row, column]))
        axes.text(column, row, shown, ha="center", va="center", color=colour, fontsize=font)
    axes.set_xticks(range(size), [*names, "nothing"], rotation=90, fontsize=max(font, 5.5))
    axes.set_yticks(range(size), [*names, "background"], fontsize=max(font, 5.5))
    axes.set(xlabel="predicted", ylabel="annotated")
    axes.set_title(f"Confusion at score {analysis.best.score:.2f}, IoU 0.50", fontsize=11, loc="left")
    axes.hlines(size - 1.5, -0.5, size - 0.5, color="0.4", linewidth=0.8)
    axes.vlines(size - 1.5, -0.5, size - 0.5, color="0.4", linewidth=0.8)
    figure.colorbar(shading, ax=axes, shrink=0.7, label="share of the row")
    return to_png(figure)


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Counts as shares of their rows; 0 in empty rows."""
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def short_count(count: int) -> str:
    """A count in at most four characters."""
    for limit, unit in ((1_000_000, "M"), (1_000, "k")):
        if count >= 10 * limit:
            return f"{count // limit}{unit}"
        if count >= limit and limit > 1_000:
            return f"{count / limit:.1f}{unit}"
    return str(count)


def calibration(analysis: Analysis) -> bytes:
    """How often detections of a score are right, and how many there are."""
    bins = analysis.calibration
    figure = new_figure(6, 5.6)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="as sure as right")
    is_filled = bins.counts > 0
    upper.plot(
        bins.mean_score[is_filled], bins.hit_share[is_filled], "o-", color=CURVE_COLOURS[0], label="these detections"
    )
    tidy(upper, "", "share that is right", f"Calibration, IoU 0.50: expected error {score_text(bins.error)}")
    upper.legend(frameon=False, fontsize=8)
    lower.bar(bins.edges[:-1], bins.counts, np.diff(bins.edges), align="edge", color="0.7", edgecolor="white")
    lower.set(xlabel="score", ylabel="detections")
    if is_filled.any():
        lower.set_yscale("symlog")
    lower.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def ap_by_size(analysis: Analysis) -> bytes:
    """AP of small, medium and large objects."""
    figure = new_figure(5, 3.6)
    axes = figure.add_subplot()
    values = [analysis.coco.numbers[f"map_{name}"] for name in SIZES]
    bars = axes.bar(list(SIZES.values()), [max(0.0, value) for value in values], color=CURVE_COLOURS[0], width=0.6)
    axes.bar_label(bars, [score_text(value) for value in values], fontsize=9)
    axes.set(ylim=(0, 1.08), ylabel="AP 0.50:0.95")
    axes.set_title("AP by size of the objects", fontsize=11, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def ap_per_class(analysis: Analysis) -> bytes:
    """AP of each class with its number of objects, the best first."""
    order = sorted(range(len(analysis.classes)), key=lambda c: analysis.classes[c].ap)
    classes = [analysis.classes[c] for c in order]
    figure = new_figure(7, 1.6 + 0.24 * len(classes))
    axes = figure.add_subplot()
    names = [f"{label(scores.name)} ({scores.num_objects:,})" for scores in classes]
    places = np.arange(len(classes))
    axes.barh(places, [max(0.0, s.ap_50) for s in classes], color="0.85", height=0.8, label="AP 0.50")
    bars = axes.barh(
        places, [max(0.0, s.ap) for s in classes], color=CURVE_COLOURS[0], height=0.5, label="AP 0.50:0.95"
    )
    axes.bar_label(bars, [score_text(s.ap) for s in classes], fontsize=7, padding=3)
    axes.set_yticks(places, names, fontsize=8)
    axes.set(xlim=(0, 1), ylim=(-0.6, len(classes) - 0.4))
    axes.set_title("AP of each class (number of objects)", fontsize=11, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1))
    axes.spines[["top", "right"]].set_visible(False)
    return to_png(figure)


def error_types(analysis: Analysis) -> bytes:
    """How many errors of each type there are, and what AP would gain without them."""
    figure = new_figure(9, 3.4)
    left, right = figure.subplots(1, 2, sharey=True)
    names = [ERROR_STYLES[name].title for name in ERROR_TYPES]
    counts = [analysis.errors.counts[name] for name in ERROR_TYPES]
    gains = [analysis.errors.gains[name] for name in ERROR_TYPES]
    add_bars(left, names, counts, [f"{count:,}" for count in counts])
    left.set_title(f"Errors at score {analysis.best.score:.2f}", fontsize=11, loc="left")
    add_bars(right, names, gains, [gain_text(gain) for gain in gains])
    right.set_title("What AP 0.50 would gain without them", fontsize=11, loc="left")
    return to_png(figure)


def add_bars(axes: Axes, names: Sequence[str], values: Sequence[float], texts: Sequence[str]) -> None:
    """Horizontal bars, the first at the top."""
    lengths = np.nan_to_num(np.maximum(values, 0))
    bars = axes.barh(names, lengths, color=CURVE_COLOURS[0], height=0.6)
    axes.bar_label(bars, list(texts), fontsize=8, padding=3)
    axes.set_xlim(0, max(float(lengths.max()) * 1.2, 1e-3))
    if not axes.yaxis_inverted():
        axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
