"""The report of scored models: one HTML file that needs nothing else, and the same figures as PNG."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import count
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from yolo_lite.data.images import ImageFiles
from yolo_lite.data.index import DetectionIndex, rename_new
from yolo_lite.evaluation.analysis import Analysis
from yolo_lite.evaluation.cards import Photos, card, error_legend, error_style, gallery_html
from yolo_lite.evaluation.detections import DetectionTable
from yolo_lite.evaluation.figures import draw_figures
from yolo_lite.evaluation.gallery import choose_images, make_picture
from yolo_lite.evaluation.sections import (
    class_table,
    coco_table,
    comparison,
    confusion_html,
    errors_html,
    facts_html,
    sizes_html,
    tiles,
)
from yolo_lite.evaluation.styles import score_text
from yolo_lite.utils.errors import UserError
from yolo_lite.utils.files import replacing
from yolo_lite.utils.html import base_style, data_uri, text

GALLERY_IMAGES = 60  # of all models together: about 3 MB
LEAST_GALLERY_IMAGES = 12
CURVE_POINTS = 201
SCRIPTS = ("charts.js", "gallery.js", "report.js")


@dataclass(frozen=True)
class ScoredModel:
    """A model and what scoring said of it.

    Attributes:
        name: told from the other models by it.
        analysis: the numbers.
        table: the detections that were scored.
        index: the ground truth.
        facts: what the numbers depend on, and what they cost: checkpoint, split, image size, speed.
        images: the image files; None: in the index's folder.
    """

    name: str
    analysis: Analysis
    table: DetectionTable
    index: DetectionIndex
    facts: dict[str, str] = field(default_factory=dict)
    images: ImageFiles | None = None


def write_report(folder: Path, models: list[ScoredModel]) -> Path:
    """Write `report.html` and `figures/*.png`, whole or not at all.

    An older report stays: the new one is `report_2.html` with `figures_2`, and so on, as a run never writes over an
    older one. Whoever scores again mostly wants to compare, and a refusal would come after minutes of scoring.

    Args:
        folder: created where it is missing.
        models: at least one; the figures of several are in a folder each.

    Returns:
        The page.

    Raises:
        UserError: it cannot be written.
    """
    figures = [draw_figures(model.analysis) for model in models]
    page = build_page(models, figures).encode("utf-8", "replace")
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".figures.", suffix=".tmp", dir=folder))
        for i, pictures in enumerate(figures):
            place = temporary if len(models) == 1 else temporary / f"model_{i + 1}"
            place.mkdir(exist_ok=True)
            for name, content in pictures.items():
                with open(place / f"{name}.png", "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
        temporary.chmod(0o755)
        path, place = take_number(folder, temporary)
    except OSError as error:
        raise UserError(f"cannot write a report to {folder}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    try:
        # The page comes last: where it is, its figures are too.
        with replacing(path) as file:
            file.write(page)
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return path


def take_number(folder: Path, figures: Path) -> tuple[Path, Path]:
    """Give the figures the first free name, which reserves that of the page: page, folder of the figures.

    Raises:
        OSError: they cannot be renamed.
    """
    for number in count(1):
        suffix = "" if number == 1 else f"_{number}"
        path, place = folder / f"report{suffix}.html", folder / f"figures{suffix}"
        if path.exists() or place.exists():
            continue
        try:
            rename_new(figures, place)
        except FileExistsError:
            continue
        return path, place
    raise AssertionError("there is always another number")


def build_page(models: list[ScoredModel], figures: list[dict[str, bytes]]) -> str:
    """The page as HTML."""
    folder = files("yolo_lite.evaluation") / "page"
    script = "".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)
    limit = max(LEAST_GALLERY_IMAGES, GALLERY_IMAGES // len(models))
    photos = Photos()
    sections = [
        model_section(i, model, "Summary" if len(models) == 1 else model.name, pictures, photos, limit)
        for i, (model, pictures) in enumerate(zip(models, figures, strict=True))
    ]
    title = "Report: " + (models[0].name if len(models) == 1 else f"{len(models)} models")
    names = [model.name for model in models]
    return Template((folder / "report.html").read_text(encoding="utf-8")).substitute(
        title=text(title),
        # The browser then runs this script and no other, whatever a class name contains, and fetches nothing.
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=base_style() + (folder / "report.css").read_text(encoding="utf-8") + error_style(),
        comparison=comparison({unique_name(names, i): (m.analysis, m.facts) for i, m in enumerate(models)}),
        tabs=tabs(names),
        sections="".join(sections),
        photos=photos.html(),
        data=as_script_data({"models": [curve_data(m.analysis) for m in models]}),
        script=script,
    )


def unique_name(names: list[str], i: int) -> str:
    """The name of model `i`, with its number where several are called so."""
    return names[i] if names.count(names[i]) == 1 else f"{names[i]} ({i + 1})"


def tabs(names: list[str]) -> str:
    """Buttons to choose a model with; nothing for one model."""
    if len(names) < 2:
        return ""
    buttons = "".join(
        f'<button type="button" role="tab" aria-controls="model-{i}">{text(unique_name(names, i))}</button>'
        for i in range(len(names))
    )
    return f'<div class="tabs" role="tablist" aria-label="Model" hidden>{buttons}</div>'


def model_section(
    i: int, model: ScoredModel, heading: str, figures: dict[str, bytes], photos: Photos, limit: int
) -> str:
    """Everything of one model, with at most `limit` images."""
    analysis, index, names = model.analysis, model.index, model.index.class_names
    chosen = choose_images(analysis.images, model.table, index, limit)
    pictures = [make_picture(record, model.table, index) for record in chosen]
    images = model.images or ImageFiles(index)
    cards = [card(picture, photos.add(images, picture), names, model.name) for picture in pictures]
    matrix = data_uri(figures["confusion"], "image/png")
    return Template((files("yolo_lite.evaluation") / "page" / "model.html").read_text(encoding="utf-8")).substitute(
        i=i,
        name=text(model.name),
        heading=text(heading),
        tiles=tiles(analysis),
        facts=facts_html(model.facts),
        coco=coco_table(analysis),
        classes=class_table(analysis),
        confusion=confusion_html(analysis, matrix),
        errors=errors_html(analysis),
        sizes=sizes_html(analysis),
        calibration_error=score_text(analysis.calibration.error),
        threshold=score_text(analysis.best.score),
        gallery=gallery_html(cards, model.name),
        num_cards=len(cards),
        num_images=f"{len(analysis.images):,}",
        legend=error_legend(),
    )


def curve_data(analysis: Analysis) -> dict[str, Any]:
    """What the script draws: rows of all classes first, then one for each."""
    curves, bins, best = analysis.curves, analysis.calibration, plain(analysis.best.score)
    chosen = np.unique(np.linspace(0, len(curves.thresholds) - 1, CURVE_POINTS).round().astype(int))
    # The slider starts at the best threshold itself and says there what the tiles say.
    chosen = chosen[curves.thresholds[chosen].round(3) != best]
    place = int(np.searchsorted(curves.thresholds[chosen], analysis.best.score))

    def with_best(values: np.ndarray, there: float) -> list[float | None]:
        return rounded(values[chosen] if best is None else np.insert(values[chosen], place, there))

    rows = list(zip(curves.precision, curves.recall, curves.f1, analysis.at_best, strict=True))
    is_filled = bins.counts > 0
    return {
        "names": [scores.name for scores in analysis.classes],
        "ap": [plain(scores.ap) for scores in analysis.classes],
        "best": best,
        "thresholds": with_best(curves.thresholds, analysis.best.score),
        "precision": [with_best(values, there.precision) for values, _, _, there in rows],
        "recall": [with_best(values, there.recall) for _, values, _, there in rows],
        "f1": [with_best(values, there.f1) for _, _, values, there in rows],
        "recallSteps": rounded(curves.recall_steps),
        "precisionAtRecall": [rounded(values) for values in curves.precision_at_recall],
        "meanScore": rounded(bins.mean_score[is_filled]),
        "hitShare": rounded(bins.hit_share[is_filled]),
        "counts": bins.counts[is_filled].tolist(),
    }


def plain(value: float) -> float | None:
    """Three digits; None for what cannot be told."""
    return round(float(value), 3) if value >= 0 else None


def rounded(values: np.ndarray) -> list[float | None]:
    """`plain` of each."""
    return [plain(value) for value in values.tolist()]


def as_script_data(content: dict[str, Any]) -> str:
    """JSON that cannot end the script element that it stands in, whatever class names contain."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
