"""Tables and figures of the laboratory, from its result files alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from statistics import fmean, median

from benchmarks.lab_latency import Cost
from benchmarks.lab_results import Result
from yolo_lite.evaluation.figures import new_figure, to_png
from yolo_lite.evaluation.styles import CURVE_COLOURS
from yolo_lite.utils.files import replacing

TABLE_NAME = "table.md"
FRONTIER_NAME = "frontier.png"
SOURCE = "Source"  # keyword of the fingerprint, one of those that the PNG format names
# Of the frontier's panels: what is paid, and where it is in a `Cost`.
PRICES: tuple[tuple[str, Callable[[Cost], float]], ...] = (
    ("parameters, millions", lambda cost: cost.parameters / 1e6),
    ("ONNX file, MB", lambda cost: cost.onnx_mb),
    ("GFLOPs", lambda cost: cost.gflops),
    ("latency in ONNX Runtime, share of yolov8n's", lambda cost: cost.onnx_ratio),
)
HEADER = (
    "run",
    "data",
    "parameters",
    "GFLOPs",
    "mAP50-95",
    "mAP50",
    "last",
    "after a third",
    "last fifth",
    "seeds",
    "images/s",
    "minutes",
)


def group(results: Sequence[Result], order: Sequence[str]) -> list[list[Result]]:
    """The seeds of each run and data set together, runs in the order of the plan."""
    keys = dict.fromkeys((r.name, r.data) for r in sorted(results, key=lambda r: (order.index(r.name), r.data)))
    return [sorted((r for r in results if (r.name, r.data) == key), key=lambda r: r.seed) for key in keys]


def score(values: Sequence[float | None]) -> str:
    """The mean, and the range where there are several; nothing where one has none."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    text = f"{fmean(known):.3f}"
    return text if len(known) == 1 else f"{text} ({min(known):.3f} to {max(known):.3f})"


def after_a_third(result: Result) -> float | None:
    """mAP50-95 after a third of the epochs: how early it learns."""
    values = result.curve.get("map_50_95")
    return values[max(0, len(values) // 3 - 1)] if values else None


def gain_of_the_last_fifth(result: Result) -> float | None:
    """How much better the best epoch is than the best of the first four fifths: about 0 where the curve is flat."""
    values = result.curve.get("map_50_95")
    return max(values) - max(values[: max(1, len(values) * 4 // 5)]) if values else None


def images_per_second(result: Result) -> float | None:
    """Of its median epoch, whatever else the machine did."""
    values = result.curve.get("images_per_second")
    return median(values) if values else None


def as_deployed(costs: Mapping[str, Cost], results: Sequence[Result]) -> dict[str, Cost]:
    """The costs, with those of int8 files where that is what a run made."""
    found = dict(costs)
    for name in {result.name for result in results if result.int8 is not None} & costs.keys():
        files = [result.int8 for result in results if result.name == name and result.int8 is not None]
        share = fmean(file["latency_ratio"] for file in files)
        found[name] = replace(
            costs[name],
            onnx_mb=fmean(file["megabytes"] for file in files),
            onnx_ms=costs[name].onnx_ms * share,
            onnx_ratio=costs[name].onnx_ratio * share,
            torch_ms=None,
            torch_ratio=None,
        )
    return found


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, its first row the header."""
    header, *body = rows
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, ("---",) * len(header), *body))


def means(results: Sequence[Result], order: Sequence[str]) -> dict[str, dict[str, float]]:
    """By run and data set: mAP50-95 of the best checkpoints, the mean over the seeds."""
    found: dict[str, dict[str, float]] = {}
    for seeds in group(results, order):
        found.setdefault(seeds[0].name, {})[seeds[0].data] = fmean(r.map_50_95 for r in seeds)
    return found


def summary(results: Sequence[Result], order: Sequence[str], costs: Mapping[str, Cost]) -> str:
    """In Markdown: a row for each run that was timed or made, what it costs and mAP50-95 on each data set; means of
    complete rows only."""
    sets = sorted({result.data for result in results})
    found = means(results, order)
    is_mean_shown = len(sets) > 1
    rows = [("run", "parameters", "MB", "GFLOPs", "ONNX Runtime", "torch", *sets, *(["mean"] if is_mean_shown else []))]
    for name in [name for name in order if name in found or name in costs]:
        scores = found.get(name, {})
        cells = describe_cost(costs.get(name)) + [f"{scores[data]:.3f}" if data in scores else "" for data in sets]
        if is_mean_shown:
            cells.append(f"{fmean(scores.values()):.3f}" if len(scores) == len(sets) else "")
        rows.append((name, *cells))
    return markdown(rows)


def describe_cost(cost: Cost | None) -> list[str]:
    """Cells of the summary."""
    if cost is None:
        return [""] * 5
    torch_ratio = "" if cost.torch_ratio is None else f"{cost.torch_ratio:.2f}"
    return [f"{cost.parameters:,}", f"{cost.onnx_mb:.2f}", f"{cost.gflops:.2f}", f"{cost.onnx_ratio:.2f}", torch_ratio]


def table(results: Sequence[Result], order: Sequence[str]) -> str:
    """In Markdown: a row for each run and data set, scores of the best checkpoint as means over the seeds."""
    rows: list[Sequence[str]] = [HEADER]
    for seeds in group(results, order):
        first = seeds[0]
        scores: list[Callable[[Result], float | None]] = [lambda r: r.map_50_95, lambda r: r.map_50]
        scores += [lambda r: r.last_map_50_95, after_a_third, gain_of_the_last_fifth]
        cells = [score([pick(result) for result in seeds]) for pick in scores]
        facts = [first.name, first.data, f"{first.parameters:,}", f"{first.gflops:.2f}", *cells]
        speeds = [speed for result in seeds if (speed := images_per_second(result)) is not None]
        times = [f"{fmean(speeds):.1f}" if speeds else "", f"{fmean([r.minutes for r in seeds]):.0f}"]
        rows.append((*facts, ", ".join(str(r.seed) for r in seeds), *times))
    return markdown(rows)


def tables(results: Sequence[Result], order: Sequence[str], costs: Mapping[str, Cost]) -> str:
    """All of a plan: the rows of every run, after a summary where costs were measured."""
    parts = [summary(results, order, as_deployed(costs, results))] if costs else []
    parts += [table(results, order)] if results else []
    return "\n".join(parts)


def fingerprint(results: Sequence[Result], order: Sequence[str], costs: Mapping[str, Cost]) -> str:
    """Of all that figures are drawn from; a figure has it as a text, for a picture cannot be compared."""
    runs = [asdict(result) for result in sorted(results, key=lambda r: (r.name, r.data, r.seed))]
    prices = {name: asdict(cost) for name, cost in costs.items()}
    return sha256(json.dumps([runs, list(order), prices], sort_keys=True).encode()).hexdigest()


def curves(results: Sequence[Result], order: Sequence[str], data: str, source: str = "") -> bytes:
    """mAP50-95 by epoch, a line for each run, the extent of its seeds as a band; PNG with the `fingerprint` given."""
    figure = new_figure(10, 4.8)
    axes = figure.add_subplot()
    for number, seeds in enumerate(group([r for r in results if r.data == data], order)):
        length = min(len(r.curve["epoch"]) for r in seeds)
        epochs = [epoch + 1 for epoch in seeds[0].curve["epoch"][:length]]
        columns = list(zip(*(r.curve["map_50_95"][:length] for r in seeds), strict=True))
        colour = CURVE_COLOURS[number % len(CURVE_COLOURS)]
        style = "-" if number < len(CURVE_COLOURS) else "--"
        axes.plot(epochs, [fmean(c) for c in columns], style, color=colour, label=seeds[0].name, linewidth=1.8)
        if len(seeds) > 1:
            axes.fill_between(epochs, [min(c) for c in columns], [max(c) for c in columns], color=colour, alpha=0.2)
    axes.set(xlabel="epoch", ylabel="mAP50-95", title=f"{data}, validation", ylim=(0, None), xlim=(0, None))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    return to_png(figure, {SOURCE: source})


def frontier(results: Sequence[Result], order: Sequence[str], costs: Mapping[str, Cost], source: str = "") -> bytes:
    """mAP50-95, the mean over all data sets, of the runs that were made with all of them, against costs; PNG with the
    `fingerprint` given."""
    sets = sorted({result.data for result in results})
    scores = {n: found for n, found in means(results, order).items() if n in costs and len(found) == len(sets)}
    figure = new_figure(16, 4.4)
    panels = figure.subplots(1, len(PRICES), sharey=True)
    for axes, (title, price) in zip(panels, PRICES, strict=True):
        for number, name in enumerate(scores):
            colour, mark = CURVE_COLOURS[number % len(CURVE_COLOURS)], "os^D"[number // len(CURVE_COLOURS) % 4]
            value = fmean(scores[name][data] for data in sets)
            axes.plot(price(costs[name]), value, mark, color=colour, markersize=9, label=name)
        axes.set(xlabel=title, xlim=(0, None))
        axes.grid(alpha=0.3)
    panels[0].set(ylabel=f"mAP50-95, {', '.join(sets)}")
    figure.legend(*panels[-1].get_legend_handles_labels(), loc="outside right center", fontsize=8)
    return to_png(figure, {SOURCE: source})


def with_table(text: str, name: str, rows: str) -> str:
    """A document with a table between the lines `<!-- lab NAME -->` and `<!-- end -->`, where it has them."""
    start, end = f"<!-- lab {name} -->\n", "<!-- end -->"
    before, found, rest = text.partition(start)
    return f"{before}{start}\n{rows}\n{end}{rest.partition(end)[2]}" if found else text


def with_tables(text: str, plan: str, rows: str) -> str:
    """A document with a plan's tables where it has a place for PLAN, or for `PLAN summary`: the first of them alone."""
    first = rows.partition("\n\n")[0]
    return with_table(with_table(text, plan, rows), f"{plan} summary", f"{first}\n")


def write_pages(
    folder: Path,
    order: Sequence[str],
    results: Sequence[Result],
    costs: Mapping[str, Cost],
    documents: Sequence[Path] = (),
) -> list[Path]:
    """The tables, curves of each data set with at least two runs and the frontier, beside the results.

    Args:
        folder: of the results, with the name of the plan.
        order: names of the plan's runs.
        results: what there is of them.
        costs: of their models, as far as they were measured.
        documents: that show the tables too, see `with_tables`.

    Returns:
        What was written.
    """
    if not results and not costs:
        return []
    rows, source = tables(results, order, costs), fingerprint(results, order, costs)
    pages = {folder / TABLE_NAME: rows.encode()}
    if costs and results:
        pages[folder / FRONTIER_NAME] = frontier(results, order, as_deployed(costs, results), source)
    trained = [result for result in results if result.curve]
    for data in sorted({result.data for result in trained}):
        if len({result.name for result in trained if result.data == data}) > 1:
            pages[folder / f"curves-{data}.png"] = curves(trained, order, data, source)
    for path in documents:
        text = path.read_text()
        if (changed := with_tables(text, folder.name, rows)) != text:
            pages[path] = changed.encode()
    for path, content in pages.items():
        with replacing(path) as file:
            file.write(content)
    return list(pages)
