"""Every figure can be drawn and read, whatever was scored."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from yolo_lite.evaluation.figures import draw_figures, label, short_count
from yolo_lite.evaluation.styles import cut


@pytest.mark.parametrize("num_classes", [1, 3, 20, 80])
def test_figures_are_pictures_of_a_sensible_size(num_classes: int, scored_model) -> None:
    names = [f"class number {c}" for c in range(num_classes)]
    figures = draw_figures(scored_model(names).analysis)
    assert len(figures) == 7
    for name, content in figures.items():
        with Image.open(io.BytesIO(content)) as image:
            picture = np.asarray(image.convert("L"))
        assert min(picture.shape) > 200 and max(picture.shape) < 4000, name
        assert picture.min() < 100 < 200 < picture.max(), name


@pytest.mark.parametrize("options", [{"has_detections": False}, {"per_image": 0}, {"num_images": 0}])
def test_figures_of_nothing(options: dict[str, int], scored_model) -> None:
    for content in draw_figures(scored_model(**options).analysis).values():
        Image.open(io.BytesIO(content)).verify()


def test_names_that_matplotlib_would_take_for_formulas_or_cannot_draw(scored_model) -> None:
    names = ["$\\frac{", "a $b$ c", "猫", "_hidden", "x" * 300]
    assert draw_figures(scored_model(names).analysis)


def test_long_names_keep_both_ends() -> None:
    name = "vehicle with a very long description, left"
    assert len(cut(name, 24)) == 24
    assert cut(name, 24).startswith("vehicle") and cut(name, 24).endswith("left")
    assert cut("short", 24) == "short"
    assert label("$5") == r"\$5"


@pytest.mark.parametrize(
    ("count", "shown"), [(0, "0"), (9999, "9999"), (10_000, "10k"), (999_999, "999k"), (1_500_000, "1.5M")]
)
def test_counts_fit_into_cells(count: int, shown: str) -> None:
    assert short_count(count) == shown
