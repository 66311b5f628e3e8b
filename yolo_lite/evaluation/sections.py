"""The parts of a report's page that are numbers: tables and bars as HTML, readable without any script."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from yolo_lite.evaluation.analysis import ERROR_TYPES, Analysis
from yolo_lite.evaluation.figures import row_shares, short_count
from yolo_lite.evaluation.styles import ERROR_STYLES, cut, gain_text, score_text
from yolo_lite.utils.html import text

TABLE_CLASSES = 30  # a larger confusion matrix is a picture
LISTED_CONFUSIONS = 12
LONG_VALUE = ' class="long"'
MAIN_NUMBERS = {
    "map_50_95": "mAP 50:95",
    "map_50": "mAP 50",
    "map_75": "mAP 75",
    "map_small": "small",
    "map_medium": "medium",
    "map_large": "large",
    "mar_100": "AR 100",
}


def row(cells: Iterable[str], kind: str = "td") -> str:
    """A row of a table; cells are HTML, the first of them heads the row."""
    head, *rest = cells
    return f'<tr><th scope="row">{head}</th>{"".join(f"<{kind}>{cell}</{kind}>" for cell in rest)}</tr>'


def table(heads: Iterable[str], rows: Iterable[str], style: str = "") -> str:
    """A table that scrolls by itself where the screen is narrow; heads are HTML."""
    head = "".join(f'<th scope="col">{cell}</th>' for cell in heads)
    return (
        f'<div class="scroll" tabindex="0"><table class="numbers {style}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def tiles(analysis: Analysis) -> str:
    """The numbers to look at first."""
    numbers, best = analysis.coco.numbers, analysis.best
    shown = {
        "mAP 50:95": score_text(numbers["map_50_95"]),
        "mAP 50": score_text(numbers["map_50"]),
        "AR 100": score_text(numbers["mar_100"]),
        f"best F1, at {score_text(best.score)}": score_text(best.f1),
        "precision there": score_text(best.precision),
        "recall there": score_text(best.recall),
        "images": f"{analysis.coco.num_images:,}",
        "objects": f"{sum(scores.num_objects for scores in analysis.classes):,}",
    }
    return definitions(shown, "tiles")


def facts_html(facts: dict[str, str]) -> str:
    """What the numbers depend on."""
    return definitions(facts, "facts")


def definitions(values: dict[str, str], style: str) -> str:
    """Names and values; long values get the room of two."""
    items = (
        f"<div{LONG_VALUE if len(value) > 22 else ''}><dt>{text(name)}</dt><dd>{text(value)}</dd></div>"
        for name, value in values.items()
    )
    return f'<dl class="{style}">{"".join(items)}</dl>'


def coco_table(analysis: Analysis) -> str:
    """COCO's 12 numbers."""
    rows = (row([text(name), score_text(value)]) for name, value in analysis.coco.numbers.items())
    return f"<details><summary>COCO's 12 numbers</summary>{table(['number', 'value'], rows)}</details>"


def comparison(models: dict[str, tuple[Analysis, dict[str, str]]]) -> str:
    """Several models side by side, the best of each column marked; nothing for one model."""
    if len(models) < 2:
        return ""
    columns = [[analysis.coco.numbers[key] for analysis, _ in models.values()] for key in MAIN_NUMBERS]
    columns.append([analysis.best.f1 for analysis, _ in models.values()])
    named = [[text(f) for f in facts] for _, facts in models.values()]
    common = [name for name in named[0] if all(name in other for other in named)]
    told_apart = [n for n in common if len({facts.get(n) for _, facts in models.values()}) > 1 and n != "checkpoint"]
    cells = [[best_marked(column, i) for column in columns] for i in range(len(models))]
    rows = (
        row([text(cut(name, 40)), *cells[i], *(text(facts[fact]) for fact in told_apart)])
        for i, (name, (_, facts)) in enumerate(models.items())
    )
    heads = ["model", *MAIN_NUMBERS.values(), "best F1", *(text(fact) for fact in told_apart)]
    return f"<section><h2>Side by side</h2>{table(heads, rows)}{classes_side_by_side(models)}</section>"


def classes_side_by_side(models: dict[str, tuple[Analysis, dict[str, str]]]) -> str:
    """AP of each class under each model."""
    by_model = [{scores.name: scores.ap for scores in analysis.classes} for analysis, _ in models.values()]
    names = list(dict.fromkeys(name for scores in by_model for name in scores))
    rows = []
    for name in names:
        values = [scores.get(name, -1.0) for scores in by_model]
        rows.append(row([text(cut(name, 32)), *(best_marked(values, i) for i in range(len(values)))]))
    heads = ["class", *(text(cut(name, 32)) for name in models)]
    is_open = " open" if len(names) <= 12 else ""
    return f"<details{is_open}><summary>AP 50:95 of each class</summary>{table(heads, rows)}</details>"


def best_marked(values: list[float], i: int) -> str:
    """A number, bold where it is the largest of them."""
    shown = score_text(values[i])
    is_best = values[i] >= 0 and shown == score_text(max(values))
    return f"<b>{shown}</b>" if is_best else shown


def class_table(analysis: Analysis) -> str:
    """Every class in numbers; precision, recall and F1 follow the threshold slider."""
    rows = []
    for c, scores in enumerate(analysis.classes):
        cells = [f"<td>{scores.num_objects:,}</td><td>{scores.num_images:,}</td><td>{scores.num_detections:,}</td>"]
        cells += [f"<td>{score_text(value)}</td>" for value in (scores.ap, scores.ap_50, scores.ar)]
        there = analysis.at_best[1 + c]
        live = {"precision": there.precision, "recall": there.recall, "f1": there.f1}
        cells += [f'<td data-live="{kind}" data-row="{1 + c}">{score_text(value)}</td>' for kind, value in live.items()]
        cells.append(f"<td>{score_text(scores.best.score)}</td>")
        name = f'<th scope="row" title="{text(scores.name)}">{text(cut(scores.name, 32))}</th>'
        rows.append(f"<tr>{name}{''.join(cells)}</tr>")
    heads = ["class", "objects", "images", "detections", "AP 50:95", "AP 50", "AR", "precision", "recall", "F1"]
    return table([*heads, "best score"], rows, "sortable")


def confusion_html(analysis: Analysis, picture: str) -> str:
    """The matrix as a table, or as a picture where there are many classes, and the most frequent confusions in words.

    Args:
        analysis: what to show.
        picture: address of the figure.
    """
    names = [scores.name for scores in analysis.classes]
    frequent = frequent_confusions(analysis)
    if len(names) > TABLE_CLASSES:
        matrix = f'<div class="scroll" tabindex="0"><img class="matrix" alt="confusion matrix" src="{picture}"></div>'
    else:
        matrix = confusion_table(analysis.confusion, names)
    return f"{matrix}{frequent}"


def confusion_table(counts: np.ndarray, names: list[str]) -> str:
    """Rows truth, columns prediction, shaded by the share of the row."""
    shares = row_shares(counts)
    columns, rows_named = [*names, "nothing"], [*names, "background"]
    heads = [
        '<span class="dim">annotated \\ found</span>',
        *(f'<span class="turned" title="{text(name)}">{text(cut(name, 18))}</span>' for name in columns),
    ]
    rows = []
    for i, name in enumerate(rows_named):
        cells = []
        for j, other in enumerate(columns):
            count, share = int(counts[i, j]), float(shares[i, j])
            kind = "deep" if share > 0.5 else ""
            shown = short_count(count) if count else ""
            words = f"{name}, found as {other}: {count:,} ({100 * share:.0f} % of the row)"
            cells.append(f'<td class="{kind}" style="--share:{share:.3f}" title="{text(words)}">{shown}</td>')
        rows.append(f'<tr><th scope="row" title="{text(name)}">{text(cut(name, 18))}</th>{"".join(cells)}</tr>')
    return table(heads, rows, "confusion")


def frequent_confusions(analysis: Analysis) -> str:
    """Which classes are taken for which others, the most frequent first."""
    counts, names = analysis.confusion[:-1, :-1], [scores.name for scores in analysis.classes]
    pairs = [(int(counts[i, j]), i, j) for i, j in zip(*np.nonzero(counts), strict=True) if i != j]
    if not pairs:
        return ""
    pairs.sort(key=lambda pair: (-pair[0], pair[1], pair[2]))
    items = "".join(
        f"<li><b>{count:,}</b> {text(cut(names[i], 32))} found as {text(cut(names[j], 32))}</li>"
        for count, i, j in pairs[:LISTED_CONFUSIONS]
    )
    return f'<h4>Taken for another class</h4><ul class="confusions">{items}</ul>'


def bars(rows: Iterable[tuple[str, float, str]]) -> str:
    """Bars with their values: HTML of the name, length from 0 to 1, value in words."""
    cells = (
        f'<tr><th scope="row">{name}</th><td class="number">{shown}</td>'
        f'<td class="bar"><span style="width:{100 * min(1.0, max(0.0, length)):.1f}%"></span></td></tr>'
        for name, length, shown in rows
    )
    return f'<table class="bars">{"".join(cells)}</table>'


def errors_html(analysis: Analysis) -> str:
    """How many errors of each type, and what AP would gain without them."""
    counts, gains = analysis.errors.counts, analysis.errors.gains
    most, largest = max(1, *counts.values()), max(1e-6, *(g for g in gains.values() if g >= 0), 0.0)

    def titled(error: str) -> str:
        style = ERROR_STYLES[error]
        dot = f'<span class="dot" data-error="{error}"></span>'
        return f'{dot} <span title="{text(style.meaning)}">{text(style.title)}</span>'

    by_count = bars((titled(name), counts[name] / most, f"{counts[name]:,}") for name in ERROR_TYPES)
    by_gain = bars(
        (titled(name), gains[name] / largest if gains[name] >= 0 else 0.0, gain_text(gains[name]))
        for name in ERROR_TYPES
    )
    return (
        f'<div class="columns"><div><h4>Errors at score {score_text(analysis.best.score)}</h4>{by_count}</div>'
        f"<div><h4>What AP 50 would gain without them</h4>{by_gain}</div></div>"
    )


def sizes_html(analysis: Analysis) -> str:
    """AP of small, medium and large objects."""
    names = {"small": "small, below 32² px", "medium": "medium, up to 96² px", "large": "large"}
    values = {name: analysis.coco.numbers[f"map_{name}"] for name in names}
    return bars((names[name], value, score_text(value)) for name, value in values.items())
