"""The report in a browser, opened from the disk: it filters, hides, enlarges, complains of nothing, fetches nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from yolo_lite.evaluation.report import write_report

pytestmark = pytest.mark.usefixtures("plain_figures")

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Open a file; when the test ends, nothing was complained of and nothing but the file was asked for."""
    complaints: list[str] = []
    requests: list[str] = []
    opened: list[tuple[Any, str]] = []

    def open_file(path: Path, **options: Any) -> Any:
        context = chromium.new_context(**options)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        opened.append((context, path.as_uri()))
        return page

    yield open_file
    for context, _ in opened:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [uri for _, uri in opened]


def test_curves_gallery_and_threshold(scored_model, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(write_report(tmp_path / "run", [scored_model(["cat", EVIL], num_images=6)]))
    curves = page.locator(".curves .chart path[data-row]")
    assert curves.count() == 3
    dog = page.locator(".legend li button", has_text=EVIL)
    dog.click()
    assert dog.get_attribute("aria-pressed") == "false"
    assert curves.count() == 2
    dog.press("Enter")
    assert curves.count() == 3

    page.locator(".curves .chart svg").hover(position={"x": 120, "y": 60})
    assert "recall" in page.locator(".curves .tip").inner_text()
    page.locator(".curves .chart svg").press("ArrowRight")
    assert page.locator(".curves .tip").is_visible()
    page.locator(".kinds button[data-kind=f1]").click()
    before = page.locator(".threshold output").inner_text()
    page.locator(".threshold input").press("End")
    assert page.locator(".threshold output").inner_text() != before
    assert page.locator(".at-threshold").inner_text() == "1.000"

    cards = page.locator(".card:visible")
    assert cards.count() == 6
    page.locator(".chips button[data-error=class]").click()
    assert cards.count() == 1 and "image_1" in cards.inner_text()
    assert page.locator(".shown").inner_text() == "1 of 6 images"
    page.locator(".chips button[data-error=any]").click()
    page.locator(".by-order").select_option("best")
    assert "F1 1.000" in cards.first.inner_text()
    page.locator(".by-class").select_option("0")
    page.locator(".by-order").select_option("worst")

    cards.first.locator(".open").press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible() and dialog.locator("svg.picture").count() == 2
    title = dialog.locator(".dialog-title").inner_text()
    page.keyboard.press("ArrowRight")
    assert dialog.locator(".dialog-title").inner_text() != title
    page.keyboard.press("Escape")
    assert not dialog.is_visible()


def test_tables_are_sorted(scored_model, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(write_report(tmp_path / "run", [scored_model(["b", "c", "a"], num_images=4)]))
    names = page.locator(".sortable tbody th")
    assert names.all_inner_texts() == ["b", "c", "a"]
    page.get_by_role("button", name="class", exact=True).first.click()
    assert names.all_inner_texts() == ["a", "b", "c"]


def test_models_are_tabs(scored_model, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(write_report(tmp_path / "run", [scored_model(name="one"), scored_model(name="two")]))
    sections = page.locator(".model:visible")
    assert sections.count() == 1 and sections.get_attribute("aria-label") == "one"
    page.get_by_role("tab", name="one").press("ArrowRight")
    assert sections.count() == 1 and sections.get_attribute("aria-label") == "two"
    assert sections.locator(".curves .chart path[data-row]").count() == 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{"names": [f"class {c}" for c in range(80)]}, {"has_detections": False}])
def test_fits_a_phone(
    scheme: str, options: dict[str, Any], scored_model, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    path = write_report(tmp_path / "run", [scored_model(**options)])
    page = open_page(path, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def test_long_names_leave_room_for_the_numbers(scored_model, tmp_path: Path, open_page: Callable[..., Any]) -> None:
    """The column of names stays while the others scroll: on a phone it takes less than half of the width,
    and a name a few lines."""
    names = [f"articulated amphibious excavator with a trailer, type {c:02d}" for c in range(40)]
    models = [scored_model(names, name=f"a-run-with-a-name-that-says-everything-{i}") for i in range(2)]
    page = open_page(write_report(tmp_path / "run", models), viewport={"width": 390, "height": 844})
    page.locator("details").first.click()
    heads = page.locator(".numbers tbody tr:first-child th:visible")
    assert heads.count() == 3
    boxes = [head.bounding_box() for head in heads.all()]
    assert max(box["width"] for box in boxes) < 390 / 2
    assert max(box["height"] for box in boxes) < 110


def test_a_confusion_picture_is_dark_on_a_dark_page(
    scored_model, tmp_path: Path, open_page: Callable[..., Any]
) -> None:
    path = write_report(tmp_path / "run", [scored_model([f"class {c}" for c in range(40)])])
    filters = {
        scheme: open_page(path, color_scheme=scheme).locator(".matrix").evaluate("e => getComputedStyle(e).filter")
        for scheme in ("light", "dark")
    }
    assert filters["light"] == "none" and "invert" in filters["dark"]
