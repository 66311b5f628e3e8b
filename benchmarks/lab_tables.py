"""Tables of the laboratory, from its result files alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean, median

from benchmarks.lab_latency import Cost
from benchmarks.lab_results import Result
from yolo_lite.utils.errors import UserError

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


def format_scores(values: Sequence[float | None]) -> str:
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
        cells = [format_scores([pick(result) for result in seeds]) for pick in scores]
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


def with_table(text: str, name: str, rows: str) -> str:
    """A document with a table between the lines `<!-- lab NAME -->` and `<!-- end -->`, wherever it has them.

    Raises:
        UserError: a place has no end.
    """
    start, end = f"<!-- lab {name} -->", "<!-- end -->"
    before, *places = text.split(start)
    for place in places:
        old, found, behind = place.partition(end)
        if not found or "<!-- lab " in old:
            raise UserError(f"{start} has no {end} behind it")
        before += f"{start}\n\n{rows}\n{end}{behind}"
    return before


def with_tables(text: str, plan: str, rows: str) -> str:
    """A document with a plan's tables where it has a place for PLAN, or for `PLAN summary`: the first of them alone."""
    first = rows.partition("\n\n")[0]
    return with_table(with_table(text, plan, rows), f"{plan} summary", f"{first}\n")
