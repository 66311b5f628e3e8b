"""What is shown of the laboratory's results: tables and figures beside them, tables in the documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.lab_figures import figures_of, png_of
from benchmarks.lab_latency import Cost, read_costs
from benchmarks.lab_plan import Plan
from benchmarks.lab_results import REPOSITORY, Result, read_results
from benchmarks.lab_tables import tables, with_tables
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing

TABLE_NAME = "table.md"


def known_of(plan: Plan, results: Path) -> tuple[list[Result], dict[str, Cost]]:
    """What there is to show of a plan: its results, and its models' costs; what int8 costs, only its results say."""
    own = {(plan.name, run.name, run.data, run.seed) for run in plan.runs}
    known = [r for r in read_results(results) if (r.plan, r.name, r.data, r.seed) in own]
    made = {result.name for result in known} | {run.name for run in plan.runs if run.quantised is None}
    return known, read_costs(results, [name for name in plan.names if name in made])


def documents() -> list[Path]:
    """What may show tables of the laboratory."""
    return [REPOSITORY / "README.md", REPOSITORY / "benchmarks" / "README.md", *(REPOSITORY / "docs").glob("*.md")]


def write_pages(
    folder: Path,
    order: Sequence[str],
    results: Sequence[Result],
    costs: Mapping[str, Cost],
    shown_in: Sequence[Path] = (),
) -> list[Path]:
    """The tables and figures of a plan, beside its results.

    Args:
        folder: of the results, with the name of the plan.
        order: names of the plan's runs.
        results, costs: see `known_of`.
        shown_in: documents that show the tables too, see `with_tables`.

    Returns:
        What was written.
    """
    if not results and not costs:
        return []
    rows = tables(results, order, costs)
    pages = {folder / TABLE_NAME: rows.encode()}
    pages |= {folder / name: png_of(drawing) for name, drawing in figures_of(results, order, costs).items()}
    for path in shown_in:
        text = path.read_text()
        try:
            changed = with_tables(text, folder.name, rows)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if changed != text:
            pages[path] = changed.encode()
    for path, content in pages.items():
        with replacing(path) as file:
            file.write(content)
    return list(pages)
